"""What a namespace holds, as numbers for a monitor: of its lanes, its workers and its tables. See `levelq metrics`.

A reading is cheap enough for every few seconds: the ledger's size is an estimate, nothing is counted that may be large
for longer than COUNT_MS, and a server that is silent is given up. docs/reference/metrics.md is compared with GAUGES.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from redis.exceptions import RedisError
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from levelq_core.database.engine import engine_open
from levelq_core.database.sqlstate import in_words
from levelq_core.database.table_names import LEDGER, OUTBOX
from levelq_core.errors import ConfigurationError
from levelq_core.keys import Partition
from levelq_core.lanes import drift_report, pauses, worker_alerts, worker_reports
from levelq_core.lanes.client import Lanes
from levelq_core.lanes.partition_directory import partitions
from levelq_core.lanes.protocol import Status
from levelq_core.lanes.wakeups import workers_of
from levelq_core.operations.connections import database_of, lanes_of, redis_of
from levelq_core.operations.dbcheck import check_read_only
from levelq_core.operations.queries import counts
from levelq_core.operations.redischeck.health import refusal
from levelq_core.operations.rq_registry import suspension
from levelq_core.operations.wording import one_line
from levelq_core.redis_client.topology import servers_of
from levelq_core.redis_client.wrong_type import is_wrong_type
from levelq_core.settings import Settings

from .records import Reading

COUNT_MS = 2_000

GAUGES: dict[str, tuple[tuple[str, ...], str]] = {  # name: labels, meaning
    "levelq_up": (("server",), "Whether the server answers: redis, rq or postgresql."),
    "levelq_writable": (("server",), "Whether the server takes writes: redis or postgresql."),
    "levelq_unreadable": ((), "How many figures of this reading could not be read; the log names them."),
    "levelq_waiting_commands": (("specialization",), "Commands in all lanes."),
    "levelq_ready_lanes": (("specialization",), "Lanes that may be claimed now."),
    "levelq_claimed_lanes": (("specialization",), "Lanes that a drain holds."),
    "levelq_parked_lanes": (("specialization",), "Lanes that wait for a later time, without those of paused users."),
    "levelq_oldest_command_age_seconds": (
        ("specialization",),
        "Age of the oldest command, without paused users' lanes; 0 if none waits.",
    ),
    "levelq_drains": (("specialization",), "Drains at work."),
    "levelq_paused": (("specialization",), "1 if an operator has paused the specialization."),
    "levelq_paused_lanes": (("specialization",), "Lanes of users whom an operator has paused."),
    "levelq_workers": (("specialization",), "RQ workers that serve it."),
    "levelq_suspended": ((), "1 while `rq suspend` is in force."),
    "levelq_worker_reports": (("state",), "Workers by what they reported last; silent: the next report is overdue."),
    "levelq_workers_slow": ((), "Workers whose batches take several times as long as usual."),
    "levelq_worker_alerts": ((), "Workers that wait for the end of an outage."),
    "levelq_drift_pairs": ((), "Pairs out of step that the last audit found and did not repair."),
    "levelq_drift_finished_timestamp_seconds": ((), "When the last audit ended."),
    "levelq_rejected_commands": ((), "Rejected commands in the ledger."),
    "levelq_quarantined_entries": ((), "Entries in the quarantine."),
    "levelq_outbox_rows": ((), "Commands in the outbox."),
    "levelq_outbox_oldest_age_seconds": ((), "Age of the oldest command in the outbox; 0 if there is none."),
    "levelq_ledger_rows": ((), "Rows of the ledger, as PostgreSQL estimates them."),
    "levelq_ledger_size_bytes": ((), "Size of the ledger with its indexes."),
}
STATES = ("idle", "draining", "transaction", "waiting", "silent")


class Sample(Reading):
    """One number: the name of a gauge, its labels, its value."""

    name: str
    labels: Mapping[str, str]
    value: float


class Gauges(Reading):
    """One reading. `problems`: what could not be read and why, one line each; its figures are absent."""

    samples: tuple[Sample, ...]
    problems: tuple[str, ...]


def gauges(settings: Settings | None = None) -> Gauges:
    """Read all gauges once. A server that is away is `levelq_up` 0; nothing is raised for it.

    `settings`: those of the environment unless given. Raises ConfigurationError if they cannot be read.
    """
    settings = Settings.of(settings)
    found = _Found(settings)
    with found.server("redis"), lanes_of(settings) as lanes:
        _read_lanes(found, lanes)
    if "redis" in found.away and settings.rq_url is None:
        found.add("levelq_up", 0, "rq")  # the same server, which would be waited for again
    else:
        with found.server("rq"), redis_of(settings, rq=True) as rq:
            found.add("levelq_suspended", suspension(rq) is not None)
            for name in settings.tracks:
                found.add("levelq_workers", len(workers_of(rq, settings.keys.queue(name))), name)
    if settings.database_url is not None:
        with (
            found.server("postgresql"),
            engine_open(settings, name="levelq metrics", limited=True) as engine,
            database_of(settings, engine) as used,
            used.connect() as connection,
        ):
            _read_database(found, connection)
    found.add("levelq_unreadable", len(found.problems))
    return Gauges(samples=tuple(found.samples), problems=tuple(found.problems))


class _Found:
    """What was read so far."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.samples: list[Sample] = []
        self.problems: list[str] = []
        self.away: set[str] = set()

    def add(self, name: str, value: float, *labels: str) -> None:
        """Note a number."""
        self.samples.append(Sample(name=name, labels=dict(zip(GAUGES[name][0], labels, strict=True)), value=value))

    @contextmanager
    def server(self, name: str) -> Iterator[None]:
        """A ConfigurationError inside means that this server is away; else it is up."""
        try:
            yield
        except ConfigurationError as error:
            self.away.add(name)
            self.problems.append(one_line(str(error)))
        self.add("levelq_up", name not in self.away, name)

    @contextmanager
    def unless_wrong_type(self) -> Iterator[None]:
        """A key of another type than expected is one of the problems. Raises other RedisErrors."""
        try:
            yield
        except RedisError as error:
            if not is_wrong_type(error):
                raise
            self.problems.append(f"{one_line(str(error))}; `levelq status` names the key")

    @contextmanager
    def in_savepoint(self, connection: Connection) -> Iterator[None]:
        """A statement that is refused or too slow is one of the problems. Raises DBAPIError without a connection."""
        try:
            with connection.begin_nested():
                yield
        except DBAPIError as error:
            if error.connection_invalidated or connection.invalidated:
                raise
            self.problems.append(f"LEVELQ_DATABASE_URL: {one_line(in_words(error))}")


def _read_lanes(found: _Found, lanes: Lanes) -> None:
    """What Redis holds. Raises the last RedisError after all was tried: of a cluster, one server may be down."""
    settings, redis, keys = found.settings, lanes.redis, lanes.keys
    failure: RedisError | None = None
    found.add("levelq_writable", all(refusal(server) is None for server in servers_of(redis)), "redis")
    by_name: dict[str, list[Partition]] = {name: [] for name in settings.tracks}
    for partition in partitions(lanes, list(settings.tracks)):
        by_name[partition.specialization].append(partition)
    for name, parts in by_name.items():
        try:
            with found.unless_wrong_type():
                seen = [lanes.status(part) for part in parts]
                _add_lanes(found, name, seen)
                paused = [pauses.pauses(redis, keys, part) for part in parts]
                for_pauses = sum(pauses.lanes_parked(redis, keys, part) for part in parts)
                found.add("levelq_parked_lanes", max(0, sum(part.parked for part in seen) - for_pauses), name)
                found.add("levelq_paused", any(None in by_user for by_user in paused), name)
                found.add("levelq_paused_lanes", sum(len(by_user.keys() - {None}) for by_user in paused), name)
        except RedisError as error:
            failure = error
    if failure is not None:
        raise failure
    with found.unless_wrong_type():
        _add_workers(found, lanes)
        drift = drift_report.read(redis, keys)
        if drift is not None:
            found.add("levelq_drift_pairs", drift.remaining)
            found.add("levelq_drift_finished_timestamp_seconds", drift.finished_ms / 1000)


def _add_lanes(found: _Found, name: str, parts: list[Status]) -> None:
    for gauge, field in (
        ("waiting_commands", "waiting"), ("ready_lanes", "ready"), ("claimed_lanes", "claimed"),
        ("drains", "drains"),
    ):  # fmt: skip
        found.add(f"levelq_{gauge}", sum(getattr(part, field) for part in parts), name)
    oldest = max((part.oldest_seconds for part in parts if part.waiting), default=0)
    found.add("levelq_oldest_command_age_seconds", oldest, name)


def _add_workers(found: _Found, lanes: Lanes) -> None:
    read = worker_reports.read_at(lanes.redis, lanes.keys)
    states = Counter("silent" if read.silent_seconds(report) else report.state for report in read.reports)
    for state in STATES:
        found.add("levelq_worker_reports", states[state], state)
    slow = [report for report in read.reports if report.batch is not None and report.batch.slow_ms is not None]
    found.add("levelq_workers_slow", len(slow))
    found.add("levelq_worker_alerts", len(worker_alerts.read(lanes.redis, lanes.keys)))


def _read_database(found: _Found, connection: Connection) -> None:
    """What the tables hold. Raises DBAPIError."""
    connection.execute(text("SELECT set_config('statement_timeout', :ms, true)"), {"ms": str(COUNT_MS)})
    found.add("levelq_writable", not any(check_read_only(connection)), "postgresql")
    with found.in_savepoint(connection):
        rows, size = connection.execute(_LEDGER).one()
        if rows is not None:
            found.add("levelq_ledger_rows", rows)
        found.add("levelq_ledger_size_bytes", size)
    with found.in_savepoint(connection):
        rows, age = connection.execute(_OUTBOX).one()
        found.add("levelq_outbox_rows", rows)
        found.add("levelq_outbox_oldest_age_seconds", age)
    with found.in_savepoint(connection):
        totals: dict[str, Any] = counts(connection)
        found.add("levelq_rejected_commands", totals["rejected"])
        found.add("levelq_quarantined_entries", totals["quarantined"])


# As the planner estimates: rows per page at the last ANALYZE or VACUUM, times the pages there are now.
_LEDGER = text(f"""
    SELECT CASE WHEN reltuples >= 0
                THEN reltuples / greatest(relpages, 1) * pg_relation_size(oid) / current_setting('block_size')::int END,
           pg_total_relation_size(oid)
    FROM pg_class WHERE oid = CAST('{LEDGER}' AS regclass)
""")

_OUTBOX = text(f"""
    SELECT count(*), coalesce(CAST(extract(epoch FROM now() - min(created_at)) AS float8), 0) FROM {OUTBOX}
""")
