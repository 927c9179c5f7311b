"""`levelq prune`: remove decided rows that are older than the horizon of exactly-once."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated

import typer

from levelq_core.errors import ConfigurationError
from levelq_core.operations.prune import check_age
from levelq_core.operations.prune import prune as prune_tables

from .connecting import database_of, load, redis_of
from .screen import count, out

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_MOST_DAYS = 36_500


def prune(
    older_than: Annotated[
        str, typer.Option("--older-than", metavar="AGE", help="How old a row must be: 30d, 12h, 90m; 1h at least.")
    ],
    quarantine: Annotated[bool, typer.Option("--quarantine", help="Prune quarantined entries, too.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count what would go; remove nothing.")] = False,
) -> None:
    """Remove old rows from the ledger.

    How long the ledger keeps a command is how long a second send of it is recognized. Commands that still
    stand in a lane or in the outbox are kept, however old. Rows go in small batches, so nobody waits.
    """
    age = age_of("--older-than", older_than)
    check_age(age)
    settings = load()
    with redis_of(settings) as redis, database_of(settings) as engine:
        engine.connect().close()  # what is unreachable is said with its address
        pruned = prune_tables(engine, redis, age, quarantine=quarantine, dry_run=dry_run, settings=settings)
    for table in pruned:
        done = "would be removed" if dry_run else "removed"
        kept = f", {count(table.kept, 'old row')} kept: still waiting in a lane or the outbox" if table.kept else ""
        out.print(f"{table.table}: {count(table.removed, 'row')} {done}{kept}", markup=False, soft_wrap=True)


def age_of(option: str, text: str) -> timedelta:
    """Read 30d, 12h, 90m, 600s or 2w. Raises ConfigurationError."""
    match = re.fullmatch(r"(\d{1,9})([smhdw])", text.strip().lower())
    age = timedelta(**{_UNITS[match[2]]: int(match[1])}) if match else timedelta.max
    if age > timedelta(days=_MOST_DAYS):
        raise ConfigurationError(
            f"{option}: expected a number and a unit (s, m, h, d, w), like 30d or 12h, got {text!r}"
        )
    return age
