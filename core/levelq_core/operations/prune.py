"""Retention: remove decided rows that are older than the horizon of exactly-once.

A command that is sent again after its row is gone takes effect again. So a row stays, however old, while its command
stands in a lane or in the outbox. What is pushed after the pruning began was sent again after the horizon. A level
change stays until every consumer of events has read it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import NamedTuple

from redis import Redis
from sqlalchemy import Connection, Engine, text

from levelq_core.database.schema import LEDGER, OUTBOX, QUARANTINE, schema_of
from levelq_core.database.table_names import POSITIONS
from levelq_core.errors import ConfigurationError
from levelq_core.lanes import scan as standing
from levelq_core.lanes.client import Lanes
from levelq_core.settings import Settings

from . import audit
from .identity import require_bound
from .queries import last_id_before
from .verify.temp_tables import STANDING as IN_LANES
from .verify.temp_tables import index, load_entries, workspace

LEAST = timedelta(hours=1)  # a producer that lost a reply sends again within minutes
BATCH = 1_000


class Pruned(NamedTuple):
    """What one table lost, or in a dry run would lose: rows removed, old rows kept because they still stand.

    `unread`: other old rows that were kept, level changes that a consumer of events has not read.
    """

    table: str
    removed: int
    kept: int
    unread: int = 0


class _Kind(NamedTuple):
    table: str
    moment: str
    stands: str
    unread: str = "false"


def _found(table: str, column: str) -> str:
    """Whether a row's counterpart is there. Not EXISTS, for which the planner hashes the whole table per batch."""
    return f"(SELECT true FROM {table} s WHERE s.{column} = t.{column} LIMIT 1) IS NOT NULL"


# Which rows are still needed: their command, or their entry, waits somewhere; or a consumer has not read the event.
_READ = f"SELECT min(least(position, (SELECT min(id) FROM unnest(pending_above) AS p(id)))) FROM {POSITIONS}"
_UNREAD = f"(t.from_level <> t.to_level AND t.id > ({_READ})) IS TRUE"
_LEDGER = _Kind(LEDGER, "applied_at", f"{_found(IN_LANES, 'command_id')} OR {_found(OUTBOX, 'command_id')}", _UNREAD)
_QUARANTINE = _Kind(QUARANTINE, "at", _found(IN_LANES, "sha256"))


def prune(
    engine: Engine,
    redis: Redis,
    older_than: timedelta,
    *,
    quarantine: bool = False,
    dry_run: bool = False,
    settings: Settings | None = None,
    batch: int = BATCH,
    step: Callable[[str, int], None] = lambda table, removed: None,
) -> list[Pruned]:
    """Remove ledger rows (and quarantine rows, with `quarantine`) decided longer ago than `older_than`, at least LEAST.

    In batches of `batch` rows, each a transaction of its own that locks only the rows it removes; `step` is called
    after each with how many rows went. A dry run counts and removes nothing. `settings` name the lanes'
    namespace; the environment's unless given. Raises ConfigurationError for a shorter time, WrongDatabase if the
    lanes are of another database, RedisError if it cannot be known what stands in them, DBAPIError.
    """
    check_age(older_than)
    lanes = Lanes(redis, settings or Settings.load())
    with engine.connect() as connection:
        schema_of(connection)
        require_bound(connection, lanes)
        before: datetime = connection.execute(text("SELECT now() - :age"), {"age": older_than}).scalar_one()
        connection.rollback()
        with workspace(connection):  # after `before` was fixed: what is pushed from now on was sent too late
            with connection.begin():
                load_entries(connection, IN_LANES, _standing(lanes))
                index(connection, IN_LANES, "command_id", "sha256")
            kinds = (_LEDGER, _QUARANTINE) if quarantine else (_LEDGER,)
            pruned, detail = [], {"older_than_seconds": int(older_than.total_seconds())}
            line = audit.RunLine("prune", ", ".join(kind.table for kind in kinds))

            def note() -> None:
                """Write the line before anything is removed; afterwards note how many rows went."""
                if not dry_run:
                    with connection.begin():
                        line.write(connection, detail)

            note()
            for kind in kinds:
                pruned.append(_prune(connection, kind, before, dry_run, batch, step))
                detail[kind.table] = pruned[-1].removed
                note()
            return pruned


def check_age(older_than: timedelta) -> None:
    """Raise ConfigurationError for an age that would endanger what is being sent right now."""
    if older_than < LEAST:
        raise ConfigurationError(
            f"--older-than: expected at least {LEAST} (1h), got {older_than}: "
            "a command that is sent again after its ledger row is gone takes effect again",
            setting="--older-than",
            value=older_than,
        )


def _standing(lanes: Lanes) -> Iterator[standing.Entry]:
    for partition, users in standing.grouped(standing.lanes(lanes.redis, lanes.keys)):
        yield from standing.entries(lanes.redis, lanes.keys, partition, users)


def _prune(
    connection: Connection, kind: _Kind, before: datetime, dry_run: bool, batch: int, step: Callable[[str, int], None]
) -> Pruned:
    with connection.begin():
        # Each row's own time is compared before it goes; the bound can at most leave a few for the next run.
        last = last_id_before(connection, kind.table, kind.moment, before)
    remove = f"DELETE FROM {kind.table} t USING ({_COUNT_ONLY}) AS going WHERE t.id = going.id RETURNING t.id"
    statement = text(_BATCH.format(**kind._asdict(), remove=_COUNT_ONLY if dry_run else remove))
    removed = kept = unread = at = 0
    while True:
        with connection.begin():
            values = {"at": at, "last": last, "before": before, "batch": batch}
            reached, went, stayed, waits = connection.execute(statement, values).one()
        if reached is None:
            return Pruned(kind.table, removed, kept, unread)
        at, removed, kept, unread = reached, removed + went, kept + stayed, unread + waits
        step(kind.table, removed)


_COUNT_ONLY = "SELECT id FROM old WHERE NOT stands AND NOT unread"

# The next rows by id, which of them are old, which of the old ones must stay; the last id of the page.
_BATCH = """
    WITH page AS MATERIALIZED (
        SELECT t.id, t.{moment} < :before AS is_old, {stands} AS stands, {unread} AS unread
        FROM {table} t WHERE t.id > :at AND t.id <= :last ORDER BY t.id LIMIT :batch
    ), old AS MATERIALIZED (SELECT id, stands, unread FROM page WHERE is_old),
    gone AS ({remove})
    SELECT (SELECT max(id) FROM page), (SELECT count(*) FROM gone), (SELECT count(*) FROM old WHERE stands),
           (SELECT count(*) FROM old WHERE unread AND NOT stands)
"""
