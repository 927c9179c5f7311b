"""What `levelq explain` reads from the servers: as much of each as can be read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from redis import Redis
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from levelq_core.database.schema import schema_of
from levelq_core.database.sqlstate import in_words
from levelq_core.domain.record import Lane
from levelq_core.errors import ConfigurationError, SchemaError
from levelq_core.lanes import drift_report, worker_alerts, worker_reports
from levelq_core.lanes.client import Lanes
from levelq_core.lanes.progress import Progress, progress_of
from levelq_core.lanes.user_lane import UserLane
from levelq_core.lanes.wakeups import workers_of
from levelq_core.operations.connections import redis_errors_named, redis_of
from levelq_core.operations.dbcheck import pair_fixes
from levelq_core.operations.parked_advice import is_locked
from levelq_core.operations.queries import Pair
from levelq_core.operations.rq_registry import suspension
from levelq_core.operations.wording import one_line
from levelq_core.settings import Settings

from .history import Wanted, decided, quarantined
from .levels import FoundRows, RowHolder, holders, rows_of
from .pauses import ActivePause
from .problems import held_by, row_holder
from .timeline import (
    Event,
    audit_events,
    complete,
    decided_events,
    progression_events,
    quarantined_events,
    unread_events,
    waiting_events,
)
from .waiting import OutboxRows, WaitingCommand, first_in_outbox, outbox_rows, user_lanes
from .workers import notes_about, report_of

Read = TypeVar("Read")

_UTC = text("SET LOCAL TIME ZONE 'UTC'")


@dataclass
class LaneInRedis:
    """What Redis has of one lane; `silent`: for how long the worker that has claimed it has not reported."""

    lane: UserLane
    first: tuple[WaitingCommand, ...]
    progress: Progress
    blocked: bool
    paused: ActivePause | None
    silent: float


@dataclass
class Found:
    """What was found so far. `redis` and `database`: why that server cannot be read."""

    drift_policy: str = "report"

    lanes: dict[str, list[LaneInRedis]] = field(default_factory=dict)
    alert: worker_alerts.WorkerAlert | None = None
    suspended: bool = False
    workers: dict[str, int] = field(default_factory=dict)
    rows: dict[str, FoundRows] = field(default_factory=dict)
    outbox: dict[str, OutboxRows] = field(default_factory=dict)
    holders: dict[str, tuple[RowHolder, ...]] = field(default_factory=dict)
    repairs: dict[str, str] = field(default_factory=dict)
    held: str | None = None
    events: list[Event] = field(default_factory=list)
    unread: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    redis: str | None = None
    database: str | None = None

    @contextmanager
    def noting(self, server: str) -> Iterator[None]:
        """A ConfigurationError inside becomes a problem, and the reason why the server cannot be read."""
        try:
            yield
        except ConfigurationError as error:
            self.problems.append(one_line(str(error)))
            setattr(self, server, self.problems[-1])


def read_redis(found: Found, redis: Redis, settings: Settings, wanted: Wanted, first: int) -> None:
    """The lanes that hold something, what keeps them, and what keeps workers from working. Raises RedisError."""
    keys, user_id = settings.keys, wanted.user_id
    reports = worker_reports.read_at(redis, keys)
    silent = {report.name: reports.silent_seconds(report) for report in reports.reports}
    found.notes += notes_about(user_id, report_of(reports, settings))
    if (audit := drift_report.read(redis, keys)) is not None:
        found.drift_policy = audit.policy
    found.alert = next(iter(worker_alerts.read(redis, keys)), None)
    for lane, commands, paused in user_lanes(redis, settings, user_id, wanted.specialization, first):
        if lane.waiting == 0 and lane.parked is None and lane.claimed_until_ms is None:
            continue
        name = lane.partition.specialization
        layout = Lanes(redis, settings).read_layouts({name}).found.get(name)
        found.lanes.setdefault(name, []).append(
            LaneInRedis(
                lane,
                commands,
                progress_of(redis, keys, lane.partition),
                layout is not None and layout.is_blocked(lane.partition),
                paused,
                silent.get(lane.claimed_by or "", 0.0),
            )
        )


def read_rq(found: Found, settings: Settings) -> None:
    """Who serves the lanes that hold something, and whether RQ is suspended. Raises ConfigurationError."""
    with redis_of(settings, rq=True) as rq, redis_errors_named(settings, rq=True):
        found.suspended = suspension(rq) is not None
        for name in {*found.lanes, *found.outbox}:
            found.workers[name] = len(workers_of(rq, settings.keys.queue(name)))


def read_database(
    found: Found, connection: Connection, settings: Settings, wanted: Wanted, limit: int, first: int
) -> None:
    """Rows, locks, outbox and events. What this role may not read is a problem. Raises DBAPIError."""
    user_id = wanted.user_id
    connection.execute(_UTC)

    def part(what: str, read: Callable[[], Iterable[Read]]) -> list[Read]:
        try:
            return list(read())
        except (DBAPIError, SchemaError) as error:
            if isinstance(error, DBAPIError) and error.connection_invalidated:
                raise
            connection.rollback()  # rather than a savepoint around each part, two round trips of each
            connection.execute(_UTC)
            found.problems.append(one_line(f"{what} unknown: {in_words(error)}"))
            return []

    found.rows = {row.levels.specialization: row for row in part("levels", lambda: rows_of(connection, user_id))}
    found.outbox = dict(part("outbox", lambda: outbox_rows(connection, user_id).items()))
    entries = part("decisions", lambda: decided(connection, wanted, limit))
    kinds = (
        part("retries", lambda: decided_events(connection, entries)),
        part("progressions", lambda: progression_events(connection, wanted, limit)),
        part("quarantine", lambda: quarantined_events(quarantined(connection, wanted, limit))),
        part("audit", lambda: audit_events(connection, wanted, limit)),
    )
    found.events += complete(kinds, limit)
    found.unread = dict(part("consumers", lambda: unread_events(connection, wanted).items()))
    for name, rows in found.outbox.items():
        if rows.unpushed and wanted.specialization in (None, name):
            lane = Lane(name, user_id)
            commands = part("outbox", lambda lane=lane: first_in_outbox(connection, lane, first))  # type: ignore[misc]
            found.events += waiting_events(commands, name, rows.unpushed)
    for name, row in found.rows.items():
        found.holders[name] = tuple(part("row locks", lambda row=row: holders(connection, row.lockers)))  # type: ignore[misc]
    different = [row.levels for row in found.rows.values() if not row.levels.in_step]
    if different:
        pairs = [Pair(user_id, pair.specialization, pair.progress_level, pair.license_level) for pair in different]
        fixes = part("repairs", lambda: pair_fixes(connection, pairs, schema_of(connection), settings.tracks))
        found.repairs = dict(zip((pair.specialization for pair in pairs), fixes, strict=False))
    parked = [one.lane.parked for lanes in found.lanes.values() for one in lanes if one.lane.parked is not None]
    if any(is_locked(lane.reason) for lane in parked):
        found.held = next(iter(part("row locks", lambda: [held_by(row_holder(connection, settings))])), None)
