"""`apply_commands`: the batch coupler for code that has a connection and a transaction of its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import psycopg
from psycopg.rows import tuple_row
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from . import rules
from .catalog import Catalog
from .codec import Lane, Record, lane_of, record_of
from .commands import Command, LevelUp, SetLevel, SyncLevels, new_command_id
from .encoding import utf8_texts
from .errors import TransactionMisuse
from .isolate import Isolation
from .outcome import Outcome, Totals
from .rules import Decision, State
from .schema import forget, schema_of
from .settings import default_catalog
from .statements import ENTER
from .work import Database, Stamp, Work


def apply_commands(
    connection: Connection, commands: Iterable[Command], *, catalog: Catalog | None = None, source: str = "direct"
) -> list[Outcome]:
    """Decide and apply commands inside the caller's transaction; one outcome per command, in their order.

    The transaction must be READ COMMITTED on psycopg 3, and may hold only one call: a second would lock
    rows out of order. What the database refuses is isolated by SAVEPOINT; the transaction stays usable and
    is the caller's to commit. `catalog`: the settings' unless given. `source` goes into the ledger.

    Raises TransactionMisuse, SchemaError, TypeError for what is not a command, and SQLAlchemy's DBAPIError
    for an infrastructure failure (nothing was decided).
    """
    batch = list(commands)
    for command in batch:
        if not isinstance(command, LevelUp | SetLevel | SyncLevels):
            raise TypeError(f"commands: expected LevelUp, SetLevel or SyncLevels, got {command!r}")
    with entered(connection, source) as (cursor, stamp):
        database = Database.of(schema_of(connection), default_catalog() if catalog is None else catalog)
        works = gather(batch)
        with undone_on_weather(cursor):
            Isolation(cursor, database, stamp).run(works)
    outcomes: list[Outcome | None] = [None] * len(batch)
    for work in works:
        for place, record, decision in zip(work.places, work.records, work.decisions, strict=True):
            outcomes[place] = outcome(work.lane, record, decision)
    return [decided for decided in outcomes if decided is not None]


@contextmanager
def undone_on_weather(cursor: psycopg.Cursor[Any]) -> Iterator[None]:
    """A SAVEPOINT around a batch: what was done before an error that is nobody's fault is taken back."""
    cursor.execute("SAVEPOINT levelq_batch")
    try:
        yield
    except Exception:
        if not cursor.connection.closed:
            cursor.execute("ROLLBACK TO SAVEPOINT levelq_batch")
        raise


@contextmanager
def entered(connection: Connection, source: str) -> Iterator[tuple[psycopg.Cursor[Any], Stamp]]:
    """A cursor on the caller's transaction, marked as used, and the stamp of its batch."""
    if connection.dialect.name != "postgresql" or connection.dialect.driver != "psycopg":
        raise TransactionMisuse(
            f"driver: expected postgresql+psycopg, got {connection.dialect.name}+{connection.dialect.driver}"
        )
    if not connection.in_transaction():
        connection.begin()
    raw = connection.connection.driver_connection
    assert isinstance(raw, psycopg.Connection)
    if raw.autocommit:
        raise TransactionMisuse("isolation level: expected READ COMMITTED, got AUTOCOMMIT")
    try:
        with utf8_texts(raw), raw.cursor(binary=True, row_factory=tuple_row) as cursor:
            isolation, earlier, _, xid = cursor.execute(ENTER).fetchone() or ("", "", "", 0)
            if isolation != "read committed":
                raise TransactionMisuse(f"isolation level: expected READ COMMITTED, got {isolation.upper()}")
            if earlier:
                raise TransactionMisuse("transaction: it holds a batch already; a second would break the lock order")
            yield cursor, Stamp(new_command_id().bytes, xid, source)
    except psycopg.Error as error:
        if (error.sqlstate or "").startswith("42"):
            forget(connection.engine)  # the tables may have changed since we read them
        if raw.closed:
            connection.invalidate(error)
        raise DBAPIError.instance("levelq batch", None, error, psycopg.Error, dialect=connection.dialect) from error


def gather(commands: Iterable[Command]) -> list[Work]:
    """Group commands by lane, in order, remembering their positions."""
    lanes: dict[Lane, tuple[list[Record], list[int]]] = {}
    for place, command in enumerate(commands):
        records, places = lanes.setdefault(lane_of(command), ([], []))
        records.append(record_of(command))
        places.append(place)
    return [Work(lane, records, places) for lane, (records, places) in lanes.items()]


def outcome(lane: Lane, record: Record, decision: Decision) -> Outcome:
    """A decision as applications see it."""
    return Outcome(
        command_id=UUID(bytes=record.command_id),
        user_id=lane.user_id,
        specialization=lane.specialization,
        status="rejected" if decision.error else "applied",
        error=decision.error,
        message=rules.describe(record, decision),
        duplicate=decision.duplicate,
        from_level=decision.from_level,
        to_level=decision.to_level,
        before=totals(decision.before),
        after=totals(decision.after),
    )


def totals(state: State | None) -> Totals | None:
    """A state as applications see it."""
    return None if state is None else Totals(**dict(zip(rules.FIELDS, state, strict=True)))
