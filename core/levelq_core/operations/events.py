"""Committed level changes, read from the ledger: none is skipped, and those of a user come in their order.

Rows become visible in the order of commits, not of their ids. So a position is an id, and the transactions that held
rows below it but had not committed: their rows are read once they have. A transaction writes to a lane only after
those before it committed; so whatever is visible, sorted by id, is in the order of effect.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from types import MappingProxyType
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import Connection, Engine, text

from levelq_core.database.table_names import LEDGER, POSITIONS
from levelq_core.errors import ConfigurationError, InvalidArgument

from .connections import require_engine

POLL_SECONDS = 0.5  # between two looks for new rows, while a consumer waits
SPAN = 100_000  # rows of the ledger that one transaction reads
_PAGE = 100  # events in one transaction of `for event in events`
_MOST_CHARACTERS = 100  # of a consumer's name


class LevelEvent(NamedTuple):
    """One change of a license's level. An event that comes again has the same `id`.

    `at`: when its transaction began. `highest_before`: the highest level ever reached until then.
    """

    id: int
    user_id: int
    specialization: str
    from_level: int
    to_level: int
    reason: str
    advanced_by: int | None
    at: datetime
    command_id: UUID
    highest_before: int

    @property
    def reached(self) -> range:
        """The levels crossed upwards: 3, 4, 5 for a rise from 2 to 5, none for a fall. After a fall they come again."""
        return range(self.from_level + 1, self.to_level + 1)

    @property
    def first_reached(self) -> range:
        """Those of `reached` that the user never had in this specialization before."""
        return range(max(self.from_level, self.highest_before) + 1, self.to_level + 1)


class _Position(NamedTuple):
    """All rows up to `reached` are read but those of `pending`: transactions, each with the id above which they are."""

    reached: int = 0
    pending: Mapping[int, int] = MappingProxyType({})


class _Page(NamedTuple):
    """What one read found from `start` on. `last`: up to which id it read. `open`: what had not committed by then.

    `caught_up`: there was nothing more.
    """

    start: _Position
    events: list[LevelEvent]
    last: int
    open: frozenset[int]
    caught_up: bool

    def position(self, handled: int) -> _Position:
        """The position after this many of the events. Rows that committed late are all read, or none of them."""
        complete = handled == len(self.events)
        reached = self.last if complete else self.events[handled - 1].id if handled else 0
        if not complete and reached <= self.start.reached:
            return self.start
        return _Position(reached, {xid: self.start.pending.get(xid, self.start.reached) for xid in self.open})


class LevelEvents:
    """The level changes that a consumer has not handled yet, from the oldest that the ledger keeps.

        for event in LevelEvents(engine, consumer="mails"):                # each at least once
            congratulate(event.user_id, event.to_level)

        with LevelEvents(engine, consumer="achievements").batch() as (connection, batch):
            connection.execute(insert(achievements), [...])                # each exactly once

    A consumer's position is a row in the database, which is locked while its events are handled: of two processes with
    one consumer's name, the second waits. `levelq prune` keeps what a consumer has not read. Without a name, the
    position is this object's own, and nothing is written.
    """

    def __init__(self, engine: Engine, consumer: str | None = None) -> None:
        """`engine`: of the application, on the primary server, with any driver that is not asynchronous.

        Raises InvalidArgument for a name that is no text of 1 to 100 characters, TypeError for another engine.
        """
        require_engine(engine)
        if consumer is not None and not (
            isinstance(consumer, str) and 1 <= len(consumer) <= _MOST_CHARACTERS and consumer.isprintable()
        ):
            message = f"consumer: expected 1 to {_MOST_CHARACTERS} printable characters, got {consumer!r:.120}"
            raise InvalidArgument(message, field="consumer", value=consumer)
        self.consumer = consumer
        self._engine = engine
        self._own = self._next = _Position()

    @contextmanager
    def batch(self, limit: int = 500, wait: float = 0.0) -> Iterator[tuple[Connection, list[LevelEvent]]]:
        """The next events, and the connection whose transaction moves the position when the block ends.

        What the block writes on that connection is committed together with the position, so each event takes effect
        exactly once. An error in the block rolls both back, and the next batch has the same events.

        At most `limit` events, and those of transactions that committed late. With `wait`: waits up to that many
        seconds for one; then the list is empty. Raises InvalidArgument, DBAPIError, ConfigurationError on a standby
        server.
        """
        if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
            raise InvalidArgument(f"limit: expected at least 1, got {limit!r}", field="limit", value=limit)
        if not isinstance(wait, int | float) or math.isnan(wait):
            raise InvalidArgument(f"wait: expected a number of seconds, got {wait!r}", field="wait", value=wait)
        deadline = time.monotonic() + wait
        while True:
            with self._page(limit) as (connection, page):
                if page.events or (page.caught_up and time.monotonic() >= deadline):
                    yield connection, page.events
                    self._save(connection, page.position(len(page.events)))
                    return
                self._save(connection, page.position(0))
            if page.caught_up:
                self._await_rows(deadline)

    def __iter__(self) -> Generator[LevelEvent, None, None]:
        """The events that are committed by now; each is handled when the loop takes the next one.

        The position is saved after 100 events, and when the loop ends. If it ends by `break` or an error, the event in
        hand comes again, with those before it of a transaction that committed late; if the process dies, up to 100.
        """
        ended = False
        while not ended:
            with self._page(_PAGE) as (connection, page):
                handled = 0
                try:
                    for event in page.events:
                        yield event
                        handled += 1
                except GeneratorExit:
                    ended = True
                self._save(connection, page.position(handled))
            ended = ended or page.caught_up

    def follow(self) -> Generator[LevelEvent, None, None]:
        """The same without an end: new events are read within half a second of their commit."""
        while True:
            yield from self
            self._await_rows(None)

    @contextmanager
    def _page(self, limit: int) -> Iterator[tuple[Connection, _Page]]:
        # Whatever the engine's own options: each statement must see what committed before it, and some write, which a
        # server-side cursor cannot.
        options = {"isolation_level": "READ COMMITTED", "stream_results": False, "yield_per": None}
        with self._engine.connect().execution_options(**options) as connection, connection.begin():
            if connection.execute(_IS_STANDBY).scalar_one():
                message = "engine: expected the primary server, got a standby, which does not know open writers"
                raise ConfigurationError(message, setting="engine")
            yield connection, _read(connection, self._lock(connection), limit)
        self._own = self._next  # not if the commit fails

    def _lock(self, connection: Connection) -> _Position:
        """The position, locked until the transaction ends."""
        if self.consumer is None:
            return self._own
        row = connection.execute(_LOCK, {"consumer": self.consumer}).one_or_none()
        if row is None:
            connection.execute(_INSERT, {"consumer": self.consumer})
            row = connection.execute(_LOCK, {"consumer": self.consumer}).one()
        return _Position(row.position, dict(zip(row.pending, row.pending_above, strict=True)))

    def _save(self, connection: Connection, position: _Position) -> None:
        if self.consumer is None:
            self._next = position
            return
        values = {"consumer": self.consumer, "reached": position.reached, **_lists(position.pending)}
        connection.execute(_UPDATE, values)

    def _await_rows(self, deadline: float | None) -> None:
        """Wait until the ledger may have rows that were not read, or until the deadline. Locks nothing."""
        seconds = _pause(deadline)
        while seconds > 0:
            time.sleep(seconds)
            with self._engine.connect() as connection:
                if self.consumer is None:
                    reached, pending = self._own.reached, bool(self._own.pending)
                else:
                    row = connection.execute(_PEEK, {"consumer": self.consumer}).one_or_none()
                    reached, pending = row or (0, True)  # an operator removed the consumer
                last = connection.execute(_LAST, {"reached": reached, "span": SPAN}).one().last
            if pending or last > reached:
                return
            seconds = _pause(deadline)


def _lists(pending: Mapping[int, int]) -> dict[str, list[int]]:
    return {"pending": list(pending.keys()), "above": list(pending.values())}


def _pause(deadline: float | None) -> float:
    return POLL_SECONDS if deadline is None else min(POLL_SECONDS, deadline - time.monotonic())


def _read(connection: Connection, start: _Position, limit: int) -> _Page:
    """Read from a position on. Three statements, in this order: each must see what committed before it.

    A transaction that holds an id up to `last` without having committed held its lock on the ledger when `last` was
    read, and holds it until it ends. So it is among the writers, or its rows are visible to the third statement.
    """
    last, newest = connection.execute(_LAST, {"reached": start.reached, "span": SPAN}).one()
    writers = connection.execute(_WRITERS).scalars().all()
    values = {"reached": start.reached, "last": last, "limit": limit, "writers": writers, **_lists(start.pending)}
    rows = connection.execute(_READ, values).all()
    events = [LevelEvent(*row[1:]) for row in rows if row.id is not None]
    if sum(event.id > start.reached for event in events) == limit:
        last = events[-1].id
    return _Page(start, events, last, frozenset(rows[0].open), last >= newest)


_LOCK = text(f"SELECT position, pending, pending_above FROM {POSITIONS} WHERE consumer = :consumer FOR UPDATE")
_PEEK = text(f"SELECT position, pending <> '{{}}' FROM {POSITIONS} WHERE consumer = :consumer")
_INSERT = text(f"INSERT INTO {POSITIONS} (consumer) VALUES (:consumer) ON CONFLICT DO NOTHING")
_UPDATE = text(f"""
    UPDATE {POSITIONS}
    SET position = :reached, pending = CAST(:pending AS bigint[]), pending_above = CAST(:above AS bigint[])
    WHERE consumer = :consumer AND (position, pending, pending_above)
        IS DISTINCT FROM (:reached, CAST(:pending AS bigint[]), CAST(:above AS bigint[]))
""")

_IS_STANDBY = text("SELECT pg_is_in_recovery()")

# The id up to which to read, and the newest one.
_LAST = text(f"""
    SELECT greatest(:reached, coalesce(
        (SELECT id FROM {LEDGER} WHERE id > :reached ORDER BY id OFFSET :span - 1 LIMIT 1), newest
    )) AS last, newest
    FROM (SELECT coalesce(max(id), 0) AS newest FROM {LEDGER}) AS ledger
""")

# The transactions that hold the lock of a writer of the ledger. pg_locks has the lower 32 bits of an id: the upper ones
# follow, because every open transaction is within 2^31 of the next id.
_WRITERS = text(f"""
    SELECT DISTINCT next + mod(low - mod(next, 4294967296) + 6442450944, 4294967296) - 2147483648
    FROM (
        SELECT CAST(CAST(t.transactionid AS text) AS bigint) AS low,
               CAST(CAST(pg_snapshot_xmax(pg_current_snapshot()) AS text) AS bigint) AS next
        FROM pg_locks r JOIN pg_locks t ON t.virtualtransaction = r.virtualtransaction
        WHERE r.relation = to_regclass('{LEDGER}') AND r.mode = 'RowExclusiveLock' AND r.granted
            AND r.database = (SELECT oid FROM pg_database WHERE datname = current_database())
            AND t.locktype = 'transactionid' AND t.mode = 'ExclusiveLock' AND t.granted
    ) AS held
""")

# The changes, and which writers had not committed, as one snapshot sees both. Rows that were read before are looked at
# only when a transaction has ended that was pending, from where it can have some. A forgotten user's row has user 0.
_COLUMNS = """id, user_id, specialization, from_level, to_level, coalesce(reason, '') AS reason, advanced_by,
    applied_at, command_id, coalesce(before[3], from_level) AS highest"""
_IS_CHANGE = "from_level <> to_level AND user_id > 0"
_READ = text(f"""
    WITH held AS MATERIALIZED (
        SELECT ARRAY(
            SELECT xid FROM unnest(CAST(:writers AS bigint[])) AS w(xid)
            WHERE NOT pg_visible_in_snapshot(CAST(CAST(xid AS text) AS xid8), pg_current_snapshot())
        ) AS open
    ), ended AS MATERIALIZED (
        SELECT xid, above FROM held, unnest(CAST(:pending AS bigint[]), CAST(:above AS bigint[])) AS p(xid, above)
        WHERE xid <> ALL(open)
    )
    SELECT held.open, e.* FROM held LEFT JOIN (
        (SELECT {_COLUMNS} FROM {LEDGER}
         WHERE id > (SELECT min(above) FROM ended) AND id <= :reached
            AND xid = ANY(ARRAY(SELECT xid FROM ended)) AND {_IS_CHANGE})
        UNION ALL
        (SELECT {_COLUMNS} FROM {LEDGER}
         WHERE id > :reached AND id <= :last AND {_IS_CHANGE} ORDER BY id LIMIT :limit)
    ) AS e ON true
    ORDER BY e.id
""")
