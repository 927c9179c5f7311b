"""One thing that is wrong with a database."""

from __future__ import annotations

from typing import Literal, NamedTuple

Severity = Literal["error", "warning"]


class Finding(NamedTuple):
    """What is wrong, in one sentence, and what mends it.

    `error`: workers refuse to start, inserts fail, or commits can be lost. `mend` holds SQL statements, each
    ending with a semicolon, or levelq commands, or what a person must do (beginning with --), to be run in
    this order; ALTER SYSTEM and whatever is done CONCURRENTLY need to be run outside a transaction.
    """

    severity: Severity
    problem: str
    mend: tuple[str, ...]
