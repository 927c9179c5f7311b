"""`apply_commands`: the batch coupler for code that has a connection and a transaction of its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from itertools import zip_longest
from typing import Any, NamedTuple

import psycopg
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from levelq_core.database.cursors import Cursor, cursor_on
from levelq_core.database.encoding import utf8_texts
from levelq_core.database.schema import forget, reread, schema_of
from levelq_core.database.transactions import driver_connection, dropped_if_interrupted
from levelq_core.domain.catalog import Catalog
from levelq_core.domain.codec import record_of
from levelq_core.domain.commands import COMMAND_NAMES, Command, new_command_id
from levelq_core.domain.outcome import Outcome, outcome
from levelq_core.domain.record import Lane, Record, lane_of
from levelq_core.domain.rules import Decision
from levelq_core.errors import TransactionMisuse
from levelq_core.settings import default_catalog

from .bisect import Isolation
from .lane_batch import BatchInfo, Database, LaneBatch, Parked
from .statements import BATCH_RELEASE, BATCH_ROLLBACK, BATCH_SAVEPOINT, ENTER, SECOND_BATCH_WAIT, SET_LOCK_TIMEOUT


def apply_commands(
    connection: Connection, commands: Iterable[Command], *, catalog: Catalog | None = None, source: str = "direct"
) -> list[Outcome]:
    """Decide and apply commands inside the caller's transaction; one outcome per command, in their order.

    The transaction must be READ COMMITTED on psycopg 3. What the database refuses is isolated by SAVEPOINT; the
    transaction stays usable and is the caller's to commit. A second call in one transaction would lock rows out of
    order, so it waits 50 ms at most for a lock: a command whose rows another transaction holds is rejected as
    `database_error` and not recorded, so that the same id may be sent again. `catalog`: the settings' unless given.
    `source` goes into the ledger.

    A command that the database refuses for its content is rejected for good. If there is another reason (for example, a
    trigger raised an error) and other commands could be applied, that command and the later ones of its lane come back
    as "rejected" with `database_error`, but are not decided: they have no ledger row, and their ids may be used again.

    Raises TransactionMisuse, SchemaError, TypeError for what is not a command or not a Connection, and SQLAlchemy's
    DBAPIError for an infrastructure failure, or an error that every lane gets (nothing was decided).
    """
    return [decided.outcome for decided in decide(connection, commands, catalog=catalog, source=source)]


class Decided(NamedTuple):
    """The outcome of a command, and whether the ledger holds it (now, or from an earlier call)."""

    outcome: Outcome
    is_final: bool


def decide(
    connection: Connection,
    commands: Iterable[Command],
    *,
    catalog: Catalog | None = None,
    source: str = "direct",
    savepoint: bool = True,
    waits: bool = False,
) -> list[Decided]:
    """`apply_commands`, with each outcome marked as final or not.

    Without `savepoint`, the caller must roll back what was done before an error. `waits`: the lanes whose rows other
    code holds for longer than lock_timeout come back undecided, where the error would be raised.
    """
    if not isinstance(connection, Connection):
        raise TypeError(_no_connection(connection))
    batch = list(commands)
    for command in batch:
        if not isinstance(command, Command):
            raise TypeError(f"commands: expected {COMMAND_NAMES}, got {command!r}")
    lane_batches = group_by_lane(batch)
    parked: list[Parked] = []
    with batch_cursor(connection) as cursor, _savepoint(cursor) if savepoint else nullcontext():
        entry = _enter(cursor, source)
        if entry.is_read_only:
            raise TransactionMisuse(
                "transaction: expected READ WRITE, got READ ONLY", field="transaction", value="READ ONLY"
            )
        tracks = default_catalog() if catalog is None else catalog
        isolation = Isolation(
            cursor,
            Database.of(schema_of(connection), tracks),
            entry.info,
            parked=parked,
            waits=waits
            or entry.has_batch,  # of a second batch, the lanes that it cannot lock at once come back undecided
            reread=lambda: Database.of(reread(connection), tracks),
        )
        if entry.has_batch:
            cursor.execute(SET_LOCK_TIMEOUT, (SECOND_BATCH_WAIT,))
        isolation.run(lane_batches)
        if entry.has_batch:
            cursor.execute(SET_LOCK_TIMEOUT, (entry.lock_timeout,))
    undecided = {id(lane.work): _undecided(lane, second=entry.has_batch) for lane in parked}
    decided: dict[int, Decided] = {}
    for lane in lane_batches:
        for index, record, decision in zip_longest(lane.indexes, lane.records, lane.decisions):
            is_final = decision is not None
            shown = decision if is_final else undecided[id(lane)]
            decided[index] = Decided(outcome(lane.lane, record, shown), is_final)
    return [decided[index] for index in range(len(batch))]


def _no_connection(given: object) -> str:
    found = f"connection: expected a SQLAlchemy Connection, got {type(given).__qualname__}"
    if hasattr(given, "run_sync"):
        return f"{found}; use: await connection.run_sync(apply_commands, commands)"
    return f"{found}; of a session, give session.connection()"


def _undecided(parked: Parked, *, second: bool) -> Decision:
    """The answer for the commands of a lane that would have to wait. `second`: an earlier batch of this transaction."""
    if not parked.locked or not second:
        return Decision("database_error", parked.reason)
    lane = parked.work.lane
    message = (
        f"another transaction holds the rows of {lane.specialization}:{lane.user_id}, and this transaction, which "
        "changed other learners before, must not wait for them; send the same command_id again after it ends"
    )
    return Decision("database_error", message)


@contextmanager
def _savepoint(cursor: Cursor[Any]) -> Iterator[None]:
    """A SAVEPOINT around a batch: an error rolls back what was done before it, with its locks and its mark."""
    cursor.execute(BATCH_SAVEPOINT)
    try:
        yield
    except BaseException:
        if not cursor.connection.closed:
            with suppress(psycopg.Error):  # interrupted within a statement; then a commit fails, too
                cursor.execute(BATCH_ROLLBACK)
                cursor.execute(BATCH_RELEASE)
        raise
    cursor.execute(BATCH_RELEASE)


class _Entry(NamedTuple):
    """The transaction as a batch found it. `has_batch`: an earlier one holds locks in it."""

    info: BatchInfo
    has_batch: bool
    is_read_only: bool
    lock_timeout: str


def _enter(cursor: Cursor[Any], source: str) -> _Entry:
    """Mark the transaction as used by a batch. Raises TransactionMisuse unless it is READ COMMITTED."""
    isolation, read_only, lock_timeout, mark, _, xid = cursor.execute(ENTER).fetchone() or ("", "", "", "", "", 0)
    if isolation != "read committed":
        message = f"isolation level: expected READ COMMITTED, got {isolation.upper()}"
        raise TransactionMisuse(message, field="isolation level", value=isolation.upper())
    return _Entry(BatchInfo(new_command_id().bytes, xid, source), bool(mark), read_only == "on", lock_timeout)


@contextmanager
def batch_transaction(
    connection: Connection, source: str, worker: str | None = None
) -> Iterator[tuple[Cursor[Any], BatchInfo]]:
    """A cursor on a transaction that holds only this batch, and what the batch writes into the ledger."""
    with batch_cursor(connection) as cursor:
        yield cursor, _enter(cursor, source).info._replace(worker=worker)


@contextmanager
def batch_cursor(connection: Connection) -> Iterator[Cursor[Any]]:
    """A cursor on the caller's transaction; psycopg's errors become SQLAlchemy's DBAPIError."""
    raw = driver_connection(connection)
    if not connection.in_transaction():
        connection.begin()
    try:
        with utf8_texts(raw), dropped_if_interrupted(connection), cursor_on(raw) as cursor:
            yield cursor
    except psycopg.Error as error:
        if (error.sqlstate or "").startswith("42"):
            forget(connection.engine)  # the tables may have changed since they were read
        if raw.closed:
            connection.invalidate(error)
        raise DBAPIError.instance("levelq batch", None, error, psycopg.Error, dialect=connection.dialect) from error


def group_by_lane(commands: Iterable[Command]) -> list[LaneBatch]:
    """Group commands by lane, in order, with their indexes."""
    lanes: dict[Lane, tuple[list[Record], list[int]]] = {}
    for index, command in enumerate(commands):
        records, indexes = lanes.setdefault(lane_of(command), ([], []))
        records.append(record_of(command))
        indexes.append(index)
    return [LaneBatch(lane, records, indexes) for lane, (records, indexes) in lanes.items()]
