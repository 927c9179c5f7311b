"""What a check finds, and checks that are one query and words for each of its rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

from sqlalchemy import Connection, text

Severity = Literal["ok", "error", "warning"]


class Finding(NamedTuple):
    """What is wrong, in one sentence, and what fixes it.

    `error`: levelq would lose or misapply commands, or cannot apply any, until a person acts: workers refuse to start.
    `warning`: worth knowing; it may pass by itself. `ok`: nothing is wrong, and `problem` names what was found.

    `fix` holds SQL statements, each ending with a semicolon, or levelq or Redis commands, or what a person must do
    (beginning with --), to be run in this order; ALTER SYSTEM and statements with CONCURRENTLY run outside a
    transaction. `topic`: what was checked, in one word.
    """

    severity: Severity
    problem: str
    fix: tuple[str, ...] = ()
    topic: str = "schema"


class QueryCheck(NamedTuple):
    """A fault that one query finds. Each row is one finding: its columns replace their names in braces."""

    query: str
    problem: str
    fix: str
    severity: Severity = "error"

    def find(self, connection: Connection, **values: Any) -> Iterator[Finding]:
        """Yield a finding for each row. Raises DBAPIError."""
        for row in connection.execute(text(self.query), values).mappings():
            yield Finding(self.severity, self.problem.format(**row), (self.fix.format(**row),))


def counted(number: int, what: str) -> str:
    """A number with its noun: 1 row, 2 rows."""
    return f"1 {what}" if number == 1 else f"{number:,} {what}s"
