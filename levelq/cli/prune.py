"""`levelq prune`: remove old rows of the ledger."""

from __future__ import annotations

from typing import Annotated

from typer import Option

from .options import age_of
from .screen import count, print_line


def prune(
    older_than: Annotated[
        str, Option("--older-than", metavar="AGE", help="How old a row must be: 30d, 12h, 90m; 1h at least.")
    ],
    quarantine: Annotated[bool, Option("--quarantine", help="Prune quarantined entries, too.")] = False,
    dry_run: Annotated[bool, Option("--dry-run", help="Count the rows; remove none.")] = False,
) -> None:
    """Remove old rows from the ledger.

    As long as the ledger keeps a command, sending it again has no effect. Commands that are still in a lane or in the
    outbox are kept, however old, and level changes that a consumer of events has not read. Rows are removed in small
    batches, so that traffic does not wait.
    """
    from levelq_core.operations import prune as operation

    from .connections import database_of, load, redis_of

    age = age_of("--older-than", older_than)
    operation.check_age(age)
    settings = load()
    with redis_of(settings) as redis, database_of(settings, patient=True) as engine:
        engine.connect().close()  # an unreachable database is reported with its address
        pruned = operation.prune(engine, redis, age, quarantine=quarantine, dry_run=dry_run, settings=settings)
    for table in pruned:
        done = "would be removed" if dry_run else "removed"
        kept = f", {count(table.kept, 'old row')} kept: still waiting in a lane or the outbox" if table.kept else ""
        kept += f", {count(table.unread, 'event')} kept: not read by every consumer yet" if table.unread else ""
        print_line(f"{table.table}: {count(table.removed, 'row')} {done}{kept}")
