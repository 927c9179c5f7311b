"""One finding of a check."""

from __future__ import annotations

from typing import Literal, NamedTuple

Severity = Literal["ok", "error", "warning"]


class Finding(NamedTuple):
    """What is wrong, in one sentence, and what mends it.

    `error`: levelq would lose or misapply commands, or cannot apply any, until a person acts: workers refuse to start.
    `warning`: worth knowing; it may pass by itself. `ok`: nothing is wrong, and `problem` says what was found.

    `fix` holds SQL statements, each ending with a semicolon, or levelq or Redis commands, or what a person must do
    (beginning with --), to be run in this order; ALTER SYSTEM and whatever is done CONCURRENTLY need to be run outside
    a transaction. `topic`: what was checked, in one word.
    """

    severity: Severity
    problem: str
    fix: tuple[str, ...] = ()
    topic: str = "schema"
