"""What the coupler's tests share: reading and filling the tables, holding locks, running the queue."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import psycopg
from psycopg.rows import dict_row
from redis import Redis
from sqlalchemy import Connection, Engine, text

from levelq_core import Command, Outcome, Settings
from levelq_core.coupler.lane_batch import LaneBatch, Parked
from levelq_core.domain.codec import encode
from levelq_core.keys import Partition
from levelq_worker.draining.context import Runtime
from levelq_worker.draining.drain import Drain
from levelq_worker.draining.transaction import QuarantinedEntry, Transaction, Transactions
from tests.support.fixtures.keys import KEYS
from tests.support.fixtures.waiting import until
from tests.support.model import APPLICATION, OWN, TOTALS, Columns, LaneKey, Model, Row

TABLES = ("license_progressions", "user_licenses", "specialization_progress", "levelq_ledger", "levelq_outbox")

_PROGRESS = """
    SELECT student_id, specialization_id, current_level AS level, coalesce(total_xp, 0) AS total_xp,
           coalesce(completed_sessions, 0) AS completed_sessions, coalesce(completed_projects, 0) AS completed_projects,
           coalesce(theory_hours_completed, 0) AS theory_hours, coalesce(practice_hours_completed, 0) AS practice_hours
    FROM specialization_progress
"""
_LICENSES = """
    SELECT user_id, specialization_type, current_level AS level, coalesce(max_achieved_level, current_level) AS highest
    FROM user_licenses
"""
_PROGRESSIONS = """
    SELECT l.user_id, l.specialization_type, a.from_level, a.to_level, a.advanced_by, a.advancement_reason,
           a.requirements_met
    FROM license_progressions a JOIN user_licenses l ON l.id = a.user_license_id ORDER BY a.id
"""


class Tables(NamedTuple):
    """The three tables; of the progressions the order within each lane."""

    progress: dict[LaneKey, Row]
    licenses: dict[LaneKey, Row]
    progressions: dict[LaneKey, list[Row]]


@contextmanager
def _transaction(bind: Engine | Connection) -> Iterator[Connection]:
    """The caller's, or with an engine one of its own, which is committed."""
    if isinstance(bind, Connection):
        yield bind
    else:
        with bind.begin() as connection:
            yield connection


def _read(bind: Engine | Connection, statement: str) -> list[Row]:
    with _transaction(bind) as connection:
        return [dict(row) for row in connection.execute(text(statement)).mappings()]


def tables(bind: Engine | Connection) -> Tables:
    """What the database holds."""
    progress, licenses, audit = (_read(bind, statement) for statement in (_PROGRESS, _LICENSES, _PROGRESSIONS))
    return Tables(
        {(row.pop("student_id"), row.pop("specialization_id")): row for row in progress},
        {(row.pop("user_id"), row.pop("specialization_type")): row for row in licenses},
        _by_lane(_audited(row) for row in audit),
    )


def predicted(model: Model) -> Tables:
    """What the database holds by the model."""
    return Tables(model.progress, model.licenses, _by_lane(model.progressions))


def _audited(row: Mapping[str, Any]) -> Row:
    met = row["requirements_met"]
    return {
        "lane": (row["user_id"], row["specialization_type"]),
        "from": row["from_level"],
        "to": row["to_level"],
        "by": row["advanced_by"],
        "why": row["advancement_reason"],
        "met": json.loads(met) if isinstance(met, str) else met,
    }


def _by_lane(rows: Any) -> dict[LaneKey, list[Row]]:
    lanes: dict[LaneKey, list[Row]] = {}
    for row in rows:
        lanes.setdefault(row["lane"], []).append(row)
    return lanes


def comparable(outcome: Outcome) -> Row:
    """An outcome without what the model does not predict: its id, its lane and its message."""
    return outcome.model_dump(exclude={"command_id", "user_id", "specialization", "message"})


def clear(connection: Connection) -> None:
    """Empty the tables: for a few rows DELETE is several times as fast as TRUNCATE."""
    for table in TABLES:
        connection.execute(text(f"DELETE FROM {table}"))


_PUT_PROGRESS = """
    INSERT INTO specialization_progress (student_id, specialization_id, current_level, total_xp, completed_sessions,
        completed_projects, theory_hours_completed, practice_hours_completed, created_at)
    VALUES (:user, :name, :level, :total_xp, :completed_sessions, :completed_projects, :theory_hours, :practice_hours,
        now())
"""
_PUT_LICENSE = """
    INSERT INTO user_licenses (user_id, specialization_type, current_level, max_achieved_level, started_at)
    VALUES (:user, :name, :level, :highest, now())
"""


def put_progress(bind: Engine | Connection, lane: LaneKey, level: int, **totals: int | None) -> None:
    """A progress row that was there before; totals that are not given are 0, None is NULL."""
    values = {"user": lane[0], "name": lane[1], "level": level, **dict.fromkeys(TOTALS, 0), **totals}
    with _transaction(bind) as connection:
        connection.execute(text(_PUT_PROGRESS), values)


def put_license(bind: Engine | Connection, lane: LaneKey, level: int, highest: int | None) -> None:
    with _transaction(bind) as connection:
        connection.execute(text(_PUT_LICENSE), {"user": lane[0], "name": lane[1], "level": level, "highest": highest})


def put_rows(bind: Engine | Connection, lane: LaneKey, level: int, **totals: Any) -> None:
    put_progress(bind, lane, level, **totals)
    put_license(bind, lane, level, level)


def is_application(url: str) -> bool:
    """Whether this database has the application's schema."""
    with psycopg.connect(url) as connection:
        return connection.execute("SELECT to_regclass('users') IS NOT NULL").fetchone() == (True,)


def columns_of(url: str) -> Columns:
    """The model's bounds for this database."""
    return APPLICATION if is_application(url) else OWN


def ledger(bind: Engine | Connection) -> list[Row]:
    return _read(bind, "SELECT * FROM levelq_ledger ORDER BY id")


@contextmanager
def session(url: str) -> Iterator[psycopg.Connection[Row]]:
    """Another connection: what it locks stays locked until it ends its transaction."""
    with psycopg.connect(url, row_factory=dict_row) as connection:
        yield connection
        connection.rollback()


def wait_until_blocked_by(url: str, holder: psycopg.Connection[Any]) -> None:
    """Return once some other connection waits for a lock that `holder` has."""
    pid = holder.info.backend_pid
    with psycopg.connect(url, autocommit=True) as observer:
        query = "SELECT count(*) FROM pg_stat_activity WHERE %s = ANY(pg_blocking_pids(pid))"
        until(lambda: observer.execute(query, (pid,)).fetchone() != (0,), what="a transaction to wait for the holder")


def free(url: str, statement: str) -> bool:
    """Whether the rows of this SELECT could be locked at once."""
    with psycopg.connect(url) as probe:
        try:
            probe.execute(f"{statement} FOR UPDATE NOWAIT")
        except psycopg.errors.LockNotAvailable:
            return False
        return True


class Seen(NamedTuple):
    """One batch that was committed: its lanes with their decisions, in the order of the claim."""

    works: Sequence[LaneBatch]
    parked: Sequence[Parked]


class Observed(Transactions):
    """The worker's transactions, which also keep what they decided and committed."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        super().__init__(engine, settings, settings.tracks)
        self.seen: list[Seen] = []

    @contextmanager
    def open(self) -> Iterator[Transaction]:
        """Note the decisions once they are committed."""
        with super().open() as transaction:
            decide, decided = transaction.decide, []

            def noted(lanes: Sequence[LaneBatch], *others: Any) -> list[Parked]:
                parked = decide(lanes, *others)
                decided.append(Seen(lanes, parked))
                return parked

            transaction.decide = noted  # type: ignore[method-assign, assignment]
            yield transaction
        self.seen += decided


def apply_batch(
    transactions: Transactions,
    lanes: Sequence[LaneBatch],
    quarantined: Sequence[QuarantinedEntry] = (),
    between: Callable[[], None] = lambda: None,
) -> list[Parked]:
    """Decide and commit a batch, as a drain does; the parked lanes."""
    with transactions.open() as transaction:
        parked = transaction.decide(lanes, quarantined, between)
        transaction.send_commit()
        transaction.confirm_commit()
    return parked


@contextmanager
def runtime(settings: Settings) -> Iterator[Runtime]:
    """A worker's runtime whose transaction is observed."""
    made = Runtime(settings)
    made.transactions = Observed(made.engine, settings)
    try:
        yield made
    finally:
        made.close()


def push(worker: Runtime, commands: Sequence[Command], *, reply: bool = False) -> None:
    """Append encoded commands to their lanes, past the producer's own validation."""
    for command in commands:
        push_raw(worker, command.specialization, command.user_id, encode(command, reply=reply))


def push_raw(worker: Runtime, specialization: str, user_id: int, payload: bytes) -> None:
    """Append any bytes to a lane, stamped as every entry is."""
    (answer,) = worker.lanes.push([(Partition(specialization), [(user_id, [payload])])])
    assert not isinstance(answer, Exception) and answer.lanes == [(1, "")]


def push_bare(redis: Redis, specialization: str, user: int | str, raw: bytes) -> None:
    """Append any bytes to a lane by hand, without the protocol."""
    redis.rpush(KEYS.lane(Partition(specialization), user), raw)


def drain_all(worker: Runtime, *specializations: str) -> None:
    """Drain until nothing waits in these partitions."""
    for name in specializations:
        partition = Partition(name)
        until(lambda partition=partition: _drained(worker, partition), what=f"{partition} to be empty")  # type: ignore[misc]


def _drained(worker: Runtime, partition: Partition) -> bool:
    Drain(worker, partition).run()
    status = worker.lanes.status(partition)
    return status.ready == status.claimed == status.parked == 0
