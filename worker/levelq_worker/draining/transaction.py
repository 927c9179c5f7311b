"""The one place of the queue's path that opens the transaction: begin, limits, couple, commit."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from hashlib import sha256
from typing import Any, NamedTuple

from sqlalchemy import Connection, Engine, RootTransaction, text
from sqlalchemy.exc import DBAPIError

from levelq_core.coupler.apply import batch_transaction
from levelq_core.coupler.bisect import Isolation
from levelq_core.coupler.lane_batch import Database, LaneBatch, Parked
from levelq_core.coupler.screening import Remembered
from levelq_core.database.cursors import Cursor
from levelq_core.database.engine import LimitedConnection
from levelq_core.database.schema import QUARANTINE, Schema, forget, reread, schema_of
from levelq_core.database.sqlstate import ErrorClass, classify
from levelq_core.domain.catalog import Catalog
from levelq_core.failpoints import failpoint
from levelq_core.settings import Settings


class QuarantinedEntry(NamedTuple):
    """An entry of a lane that is no command; `raw` is its first 4 KiB."""

    specialization: str
    user_id: int | None
    reason: str
    raw: bytes
    length: int


TRIPS = 5  # a batch's ten to twelve statements take so many times what its first two do, if they find nothing to do

# The server's limits for this transaction only: lock < statement < transaction < claim. Before it knew
# transactions' own limit, a stopped worker kept its row locks: what it leaves idle ends, too. And a commit
# must mean a commit: with synchronous_commit off, 170 of 400 acknowledged commits survived a crash. And a
# thousand lanes are a thousand looks into an index: for a table of 50,000 rows the planner would rather read it all.
_LIMITS = """
    SELECT set_config('lock_timeout', %s, true), set_config('statement_timeout', %s, true),
           set_config('idle_in_transaction_session_timeout', %s, true),
           CASE WHEN current_setting('server_version_num')::int >= 170000
                THEN set_config('transaction_timeout', %s, true) END,
           CASE WHEN current_setting('synchronous_commit') = 'off'
                THEN set_config('synchronous_commit', 'on', true) END,
           set_config('enable_hashjoin', 'off', true), set_config('enable_mergejoin', 'off', true)
"""

# An error turns the transaction's limit off, also one that a savepoint caught: set what is left of it.
_LIMIT_LEFT = """
    SELECT set_config('transaction_timeout',
        greatest(1, %s::int - (extract(epoch FROM clock_timestamp() - now()) * 1000)::int)::text, true)
    WHERE current_setting('server_version_num')::int >= 170000
"""

# While it waits for the rows of a COPY, a server's process knows none of its limits, so a worker that was stopped just
# then would hold its row locks until it goes on. Whoever finds lanes locked ends such transactions of our own kind.
_END_OVERDUE = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND usename = current_user AND pid <> pg_backend_pid()
      AND application_name = current_setting('application_name') AND wait_event = 'ClientRead'
      AND xact_start < clock_timestamp() - CAST(:seconds AS float8) * interval '1 second'
"""

# Keeps malformed entries; one that an earlier delivery of the same entry quarantined is left as it is.
_QUARANTINE = f"""
    INSERT INTO {QUARANTINE} (specialization, user_id, reason, raw, length, sha256)
    SELECT k.specialization, k.user_id, k.reason, k.raw, k.length, k.sha256
    FROM unnest(%s::text[], %s::bigint[], %s::text[], %s::bytea[], %s::bigint[], %s::bytea[]) WITH ORDINALITY
        AS k(specialization, user_id, reason, raw, length, sha256, n)
    WHERE NOT EXISTS (SELECT FROM {QUARANTINE} q WHERE q.sha256 = k.sha256 AND q.length = k.length
        AND q.reason = k.reason AND q.specialization = k.specialization AND q.user_id IS NOT DISTINCT FROM k.user_id)
    ORDER BY k.n
"""


class Applied(NamedTuple):
    """What came of a batch: the lanes that were parked, how long it took, and what an empty one would have taken."""

    parked: list[Parked]
    seconds: float
    empty_seconds: float


class Transaction:
    """Applies batches on one engine."""

    def __init__(self, engine: Engine, settings: Settings, catalog: Catalog) -> None:
        self._engine = engine
        self._catalog = catalog
        self._checks = Remembered()
        self._commit_refused = False  # by a constraint that was not checked before
        whole = settings.transaction_ms
        self._limits = tuple(str(ms) for ms in (settings.lock_ms, settings.statement_ms, whole, whole))

    def apply(
        self,
        works: Sequence[LaneBatch],
        quarantined: Sequence[QuarantinedEntry],
        between: Callable[[], None],
        meanwhile: Callable[[], None] = lambda: None,
        committing: Callable[[], None] = lambda: None,
    ) -> Applied:
        """Decide all commands of these lanes and quarantine the quarantined, in one transaction.

        A lane is parked from its first command that could not be decided, with the reason.
        `between` is called between attempts at isolating a fault; `meanwhile` whenever a statement is waited for,
        `committing` while the commit is written to disk, and neither may raise. Raises SQLAlchemy's DBAPIError: nothing
        is decided then, unless COMMIT itself was lost, which the ledger will tell at the next attempt.
        """
        parked: list[Parked] = []
        begun = time.monotonic()
        with self._engine.connect() as connection, connection.begin() as transaction:
            failpoint("begin")
            with _waits(connection, meanwhile), batch_transaction(connection, "queue") as (cursor, stamp):
                cursor.execute(_LIMITS, self._limits)
                trips = time.monotonic() - begun
                quarantine(cursor, quarantined)
                if works:
                    isolation = Isolation(
                        cursor,
                        self._database(schema_of(connection)),
                        stamp,
                        parked=parked,
                        checks=self._checks,
                        reread=lambda: self._database(reread(connection)),
                        between=partial(self._go_on, cursor, between),
                    )
                    isolation.run(works)
                    if isolation.tables_changed:
                        forget(self._engine)
            failpoint("commit request")
            deciding = time.monotonic() - begun
            with _waits(connection, committing):
                self._commit(transaction)
            failpoint("commit reply")
        seconds = time.monotonic() - begun
        return Applied(parked, seconds, TRIPS * trips + seconds - deciding)

    def _database(self, schema: Schema) -> Database:
        database = Database.of(schema, self._catalog)
        return database.checking_all_deferred() if self._commit_refused else database

    def _commit(self, transaction: RootTransaction) -> None:
        try:
            transaction.commit()
        except DBAPIError as error:
            if classify(error) is ErrorClass.ISOLATE:
                self._commit_refused = True
            raise

    def end_overdue(self) -> int:
        """End the transactions of other workers that have outlived a batch's limit; how many. Raises DBAPIError."""
        seconds = int(self._limits[-1]) / 1000
        with self._engine.begin() as connection:
            return sum(connection.execute(text(_END_OVERDUE), {"seconds": seconds}).scalars())

    def probe(self) -> None:
        """Raise DBAPIError if the database cannot be reached, ConfigurationError if it lacks what we need."""
        with self._engine.connect() as connection:
            schema_of(connection)

    def _go_on(self, cursor: Cursor[Any], between: Callable[[], None]) -> None:
        """After an attempt that failed."""
        cursor.execute(_LIMIT_LEFT, self._limits[-1:])
        between()


def _waits(connection: Connection, work: Callable[[], None]) -> AbstractContextManager[None]:
    raw = connection.connection.driver_connection
    return raw.meanwhile(work) if isinstance(raw, LimitedConnection) else nullcontext()


def quarantine(cursor: Cursor[Any], quarantined: Sequence[QuarantinedEntry]) -> None:
    """Keep these entries in the quarantine; those that are there already are left as they are."""
    if quarantined:
        rows = [(*found, sha256(found.raw).digest()) for found in dict.fromkeys(quarantined)]
        cursor.execute(_QUARANTINE, [list(column) for column in zip(*rows, strict=True)])
