"""The transaction of a batch: begin, decide, commit. The queue's path opens transactions only here."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from typing import Any, NamedTuple

import psycopg
from psycopg import generators
from psycopg.errors import error_from_result
from psycopg.pq import ExecStatus
from sqlalchemy import Connection, Engine, text

from levelq_core.coupler.apply import batch_transaction
from levelq_core.coupler.bisect import Isolation
from levelq_core.coupler.lane_batch import BatchInfo, Database, LaneBatch, Parked
from levelq_core.coupler.screening import Remembered
from levelq_core.database.cursors import Cursor
from levelq_core.database.schema import QUARANTINE, Schema, forget, reread, schema_of
from levelq_core.database.sqlstate import ErrorClass, classify
from levelq_core.domain.catalog import Catalog
from levelq_core.failpoints import failpoint
from levelq_core.settings import Settings
from levelq_worker.support.worker_name import worker_name


class QuarantinedEntry(NamedTuple):
    """An entry of a lane that is no command; `raw` is its first 4 KiB."""

    specialization: str
    user_id: int | None
    reason: str
    raw: bytes
    length: int


EMPTY_TRIPS = 5  # an empty batch would take as long as its first two statements five times, and the commit

# Limits of this transaction only: lock < statement < transaction < claim. PostgreSQL 16 has no transaction_timeout, so
# the idle limit ends a worker that is stopped between two statements. A commit must survive a crash, so
# synchronous_commit is never off. Nested loops: a thousand lanes are found by index, where the planner might read a
# whole table.
_LIMITS = """
    SELECT set_config('lock_timeout', %s, true), set_config('statement_timeout', %s, true),
           set_config('idle_in_transaction_session_timeout', %s, true),
           CASE WHEN current_setting('server_version_num')::int >= 170000
                THEN set_config('transaction_timeout', %s, true) END,
           CASE WHEN current_setting('synchronous_commit') = 'off'
                THEN set_config('synchronous_commit', 'on', true) END,
           set_config('enable_hashjoin', 'off', true), set_config('enable_mergejoin', 'off', true)
"""

# An error turns transaction_timeout off, even one that a savepoint caught: set what is left of it.
_LIMIT_LEFT = """
    SELECT set_config('transaction_timeout',
        greatest(1, %s::int - (extract(epoch FROM clock_timestamp() - now()) * 1000)::int)::text, true)
    WHERE current_setting('server_version_num')::int >= 170000
"""

# While a server process waits for the rows of a COPY, none of its limits apply, so a worker stopped at that moment
# keeps its row locks. A worker that finds lanes locked ends such transactions of other workers.
_END_OVERDUE = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND usename = current_user AND pid <> pg_backend_pid()
      AND application_name = current_setting('application_name') AND wait_event = 'ClientRead'
      AND xact_start < clock_timestamp() - CAST(:seconds AS float8) * interval '1 second'
"""

# Keeps malformed entries, each once, however often it is delivered.
_QUARANTINE = f"""
    INSERT INTO {QUARANTINE} (specialization, user_id, reason, raw, length, sha256)
    SELECT k.specialization, k.user_id, k.reason, k.raw, k.length, k.sha256
    FROM unnest(%s::text[], %s::bigint[], %s::text[], %s::bytea[], %s::bigint[], %s::bytea[]) WITH ORDINALITY
        AS k(specialization, user_id, reason, raw, length, sha256, n)
    WHERE NOT EXISTS (SELECT FROM {QUARANTINE} q WHERE q.sha256 = k.sha256 AND q.length = k.length
        AND q.reason = k.reason AND q.specialization = k.specialization AND q.user_id IS NOT DISTINCT FROM k.user_id)
    ORDER BY k.n
"""


class Transactions:
    """Opens the transactions of one engine, one at a time, and keeps what one batch teaches about the next."""

    def __init__(self, engine: Engine, settings: Settings, catalog: Catalog) -> None:
        self.engine = engine
        self.checks = Remembered()
        self.commit_refused = False  # by a constraint that no statement had checked
        self._catalog = catalog
        whole = settings.transaction_ms
        self._limits = tuple(str(ms) for ms in (settings.lock_ms, settings.statement_ms, whole, whole))

    @contextmanager
    def open(self) -> Iterator[Transaction]:
        """A transaction for one batch, with its limits set; rolled back if the block raises before it is committed.

        Raises SQLAlchemy's DBAPIError. Nothing is decided then, unless COMMIT was sent and its answer lost: then the
        next attempt reads the ledger.
        """
        begun = time.monotonic()
        with self.engine.connect() as connection, connection.begin():
            failpoint("begin")
            with batch_transaction(connection, "queue", worker_name()) as (cursor, info):
                cursor.execute(_LIMITS, self._limits)
                yield Transaction(self, connection, cursor, info, begun)

    def database(self, schema: Schema) -> Database:
        """What batches need to know of the tables."""
        database = Database.of(schema, self._catalog)
        return database.checking_all_deferred() if self.commit_refused else database

    def renew_limit(self, cursor: Cursor[Any]) -> None:
        """Set transaction_timeout again after an error."""
        cursor.execute(_LIMIT_LEFT, self._limits[-1:])

    def end_overdue(self) -> int:
        """End the transactions of other workers that have outlived a batch's limit; how many. Raises DBAPIError."""
        seconds = int(self._limits[-1]) / 1000
        with self.engine.begin() as connection:
            return sum(connection.execute(text(_END_OVERDUE), {"seconds": seconds}).scalars())

    def probe(self) -> None:
        """Raise DBAPIError if the database cannot be reached, ConfigurationError if it lacks what levelq needs."""
        with self.engine.connect() as connection:
            schema_of(connection)


class Transaction:
    """One batch's transaction. Call `decide`, `send_commit` and `confirm_commit`, in this order.

    Once it is committed: `seconds` that it took, `empty_seconds` that it would have taken without a command, and
    `lock_seconds` that locking the rows took.
    """

    seconds = empty_seconds = lock_seconds = 0.0

    def __init__(
        self, owner: Transactions, connection: Connection, cursor: Cursor[Any], info: BatchInfo, begun: float
    ) -> None:
        assert isinstance(connection.connection.driver_connection, psycopg.Connection)
        self._owner = owner
        self._connection = connection
        self._raw = connection.connection.driver_connection
        self._cursor = cursor
        self._info = info
        self._begun = begun
        self._trips_seconds = time.monotonic() - begun

    def decide(
        self, lanes: Sequence[LaneBatch], quarantined: Sequence[QuarantinedEntry], between: Callable[[], None]
    ) -> list[Parked]:
        """Decide all commands of these lanes, and write what follows and the quarantined entries; the parked lanes.

        A lane is parked from its first command that could not be decided. `between` is called between attempts at
        isolating a fault.
        """
        parked: list[Parked] = []
        quarantine(self._cursor, quarantined)
        if lanes:
            owner = self._owner

            def go_on() -> None:
                owner.renew_limit(self._cursor)
                between()

            isolation = Isolation(
                self._cursor,
                owner.database(schema_of(self._connection)),
                self._info,
                parked=parked,
                checks=owner.checks,
                reread=lambda: owner.database(reread(self._connection)),
                between=go_on,
            )
            isolation.run(lanes)
            self.lock_seconds = isolation.locking.seconds
            if isolation.tables_changed:
                forget(owner.engine)
        return parked

    def send_commit(self) -> None:
        """Send COMMIT; `confirm_commit` receives the answer. Do nothing with the database in between."""
        failpoint("commit request")
        self._sent = time.monotonic()
        self._raw.pgconn.send_query(b"COMMIT")

    def confirm_commit(self) -> None:
        """Wait for COMMIT's answer. SQLAlchemy's own commit, which comes next, then finds nothing to do."""
        (result,) = self._raw.wait(generators.execute(self._raw.pgconn))
        if result.status != ExecStatus.COMMAND_OK:
            error = error_from_result(result)
            self._owner.commit_refused |= classify(error) is ErrorClass.ISOLATE
            raise error
        failpoint("commit reply")
        committed = time.monotonic()
        self.seconds = committed - self._begun
        self.empty_seconds = EMPTY_TRIPS * self._trips_seconds + committed - self._sent


def quarantine(cursor: Cursor[Any], quarantined: Sequence[QuarantinedEntry]) -> None:
    """Keep these entries in the quarantine; those that are there already are left as they are."""
    if quarantined:
        rows = [(*found, sha256(found.raw).digest()) for found in dict.fromkeys(quarantined)]
        cursor.execute(_QUARANTINE, [list(column) for column in zip(*rows, strict=True)])
