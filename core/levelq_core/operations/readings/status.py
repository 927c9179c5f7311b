"""What waits, who serves it and what is wrong, as far as the servers answer. One that does not is a problem, too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from itertools import chain, islice

from redis.exceptions import RedisError
from sqlalchemy import Engine

from levelq_core.errors import ConfigurationError
from levelq_core.keys import Partition
from levelq_core.lanes import drift_report, parked, worker_alerts
from levelq_core.lanes.client import Lanes
from levelq_core.lanes.drift_report import DriftReport
from levelq_core.lanes.namespace_binding import DatabaseIdentity, bound_to, require_same
from levelq_core.lanes.parked import ParkedLanes
from levelq_core.lanes.partition_directory import partitions
from levelq_core.lanes.protocol import Status
from levelq_core.lanes.wakeups import workers_of
from levelq_core.operations import key_faults
from levelq_core.operations.connections import database_of, lanes_of, redis_errors_named, redis_of, require_engine
from levelq_core.operations.identity import identity_of
from levelq_core.operations.parked_advice import is_locked, is_raised_by_code
from levelq_core.operations.queries import Holder, bounded_counts
from levelq_core.operations.redischeck.health import refusal
from levelq_core.operations.rq_registry import suspension
from levelq_core.operations.wording import count, one_line, time_of
from levelq_core.redis_client.wrong_type import is_wrong_type
from levelq_core.settings import Settings

from . import problems
from .bounds import ONCE, Bounds
from .hot_spots import HotSpots, deep_lanes, list_writers, quarantine_groups
from .pauses import ActivePause, active_pauses, pause_lines
from .records import ParkedLane, Reading, Time
from .triggers import trigger_notes
from .workers import Rates, WorkersReport, read_workers

MOST_PARKED = 100  # lanes in a report
_TOTALS = ("rejected", "rejected_open", "quarantined")


class PartitionStatus(Reading):
    """One partition: how many commands wait, and how many lanes are ready, claimed and parked.

    `oldest_seconds`: the age of the oldest command.
    """

    partition: str
    specialization: str
    waiting: int
    ready: int
    claimed: int
    parked: int
    oldest_seconds: float


class StatusReport(Reading):
    """What `levelq status` prints; `model_dump_json()` is what `levelq status --json` prints.

    `database`: the database that the namespace is bound to. `lanes_readable`: False if the lanes' Redis does not
    answer; `partitions` is then empty. `rejected` and `quarantined`: totals within the ledger's retention, None without
    a database. `rejected_open`: those that an operator has neither retried nor discarded, without what was cancelled.
    `estimated`: the names of those of the three that are estimates; up to 10,000 they are exact.
    `workers`: how many serve a partition, None if RQ's Redis does not answer. `problems`: what is wrong and what to do,
    one line each; empty if all is well. `notes`: what is unusual, but no problem. `parked_lanes`: the first 100, per
    partition the oldest first. `rates`: of each partition in which something was decided in the last ten minutes, as
    the workers report it; `total`: their sum, None if the lanes' Redis does not answer. `pauses`: what operators have
    paused, also a problem, because it must not be forgotten. `compared`: when the workers last finished an audit of all
    levels, whose finds are problems; None if none is known, as after `levelq sync --all`, which asks for a new one.
    """

    namespace: str
    database: str | None
    lanes_readable: bool
    partitions: tuple[PartitionStatus, ...]
    rejected: int | None
    rejected_open: int | None
    quarantined: int | None
    workers: int | None
    problems: tuple[str, ...]
    parked_lanes: tuple[ParkedLane, ...]
    pauses: tuple[ActivePause, ...] = ()
    hot_spots: HotSpots = HotSpots()
    notes: tuple[str, ...] = ()
    rates: tuple[Rates, ...] = ()
    total: Rates | None = None
    estimated: tuple[str, ...] = ()
    compared: Time | None = None


@dataclass
class Found:
    """What was found so far. `lanes` is None if their Redis does not answer, `serving` if RQ's does not.

    `unexplained`: how many lanes are parked without a reason in Redis.
    """

    namespace: str
    bound_to: DatabaseIdentity | None = None
    lanes: dict[Partition, Status] | None = None
    parked: dict[Partition, ParkedLanes] = field(default_factory=dict)
    unexplained: int = 0
    pauses: list[ActivePause] = field(default_factory=list)
    serving: dict[Partition, set[str]] | None = None
    totals: dict[str, int | None] = field(default_factory=lambda: dict.fromkeys(_TOTALS))
    problems: list[str] = field(default_factory=list)
    workers: WorkersReport | None = None
    trigger_notes: list[str] = field(default_factory=list)
    drift: DriftReport | None = None
    holding: Holder | None = None
    estimated: tuple[str, ...] = ()
    hot_spots: HotSpots = field(default_factory=HotSpots)

    @contextmanager
    def errors_are_problems(self) -> Iterator[None]:
        """A ConfigurationError inside becomes one of the problems."""
        try:
            yield
        except ConfigurationError as error:
            self.problems.append(one_line(str(error)))

    def report(self) -> StatusReport:
        """The record for the caller."""
        held = problems.held_by(self.holding)
        waiting = ((partition, lane) for partition, found in self.parked.items() for lane in found.lanes)
        return StatusReport(
            namespace=self.namespace,
            database=None if self.bound_to is None else str(self.bound_to),
            lanes_readable=self.lanes is not None,
            partitions=tuple(partition_status(*item) for item in (self.lanes or {}).items()),
            **self.totals,
            workers=None if self.serving is None else len(set(chain.from_iterable(self.serving.values()))),
            problems=tuple(self.problems),
            parked_lanes=tuple(ParkedLane.of(*item, held) for item in islice(waiting, MOST_PARKED)),
            hot_spots=self.hot_spots,
            notes=tuple(self._notes()),
            rates=() if self.workers is None else self.workers.rates,
            total=None if self.workers is None else self.workers.total,
            pauses=tuple(self.pauses),
            estimated=self.estimated,
            compared=time_of(self.drift.finished_ms) if self.drift and self.drift.finished_ms else None,
        )

    def _notes(self) -> Iterator[str]:
        if self.workers is not None:
            yield from self.workers.notes
        yield from self.trigger_notes
        if number := self.totals["rejected_open"]:
            about = "about " if "rejected_open" in self.estimated else ""
            yield f"{about}{count(number, 'rejected command')} to be retried or discarded: levelq rejected list"


def partition_status(partition: Partition, seen: Status) -> PartitionStatus:
    """The record of what a partition holds."""
    return PartitionStatus(
        partition=str(partition),
        specialization=partition.specialization,
        waiting=seen.waiting,
        ready=seen.ready,
        claimed=seen.claimed,
        parked=seen.parked,
        oldest_seconds=round(seen.oldest_seconds, 3),
    )


def status(settings: Settings | None = None, *, engine: Engine | None = None) -> StatusReport:
    """Read what waits in the lanes, how many workers serve and what is wrong: what `levelq status` prints.

    `settings`: those of the environment unless given. It opens two connections to the lanes' Redis (one for scripts),
    one to RQ's if that is another, one to the database of LEVELQ_DATABASE_URL if set, and closes them. `engine`: a
    SQLAlchemy Engine on psycopg 3 on that database, the application's own, to use instead.

    It changes nothing. A server that does not answer is one of the problems; nothing is raised for it. It blocks: for
    seconds where a server is silent, and half a second where a partition seems to stand still. On an event loop, run
    it in a thread. Raises ConfigurationError if the settings cannot be read, InvalidArgument, TypeError.
    """
    settings = Settings.of(settings)
    if engine is not None:
        require_engine(engine)
    return find(settings, engine).report()


def find(settings: Settings, engine: Engine | None, bounds: Bounds = ONCE) -> Found:
    """Read all of it; what a server does not answer is one of the problems."""
    found = Found(settings.namespace)
    with found.errors_are_problems(), lanes_of(settings) as lanes:
        alerts = False
        with found.errors_are_problems(), redis_errors_named(settings):
            found.lanes = _statuses(found, lanes, settings)
            alerts = _read_redis(found, lanes, settings, found.lanes, bounds)
        if found.lanes is not None:
            with found.errors_are_problems(), redis_errors_named(settings):
                _read_workers(found, lanes, settings, found.lanes, bounds, alerts=alerts)
    if settings.database_url is not None:
        with found.errors_are_problems():
            _read_database(found, settings, engine, bounds)
    if found.hot_spots.quarantined:
        with found.errors_are_problems(), redis_of(settings) as redis:
            found.hot_spots = found.hot_spots.model_copy(update={"list_writers": list_writers(redis)})
    found.problems += problems.parked_problems(found.parked, found.unexplained, found.holding)
    return found


def _read_redis(
    found: Found, lanes: Lanes, settings: Settings, statuses: dict[Partition, Status], bounds: Bounds
) -> bool:
    """Parked lanes, the servers' state, what workers post, unreadable keys; returns whether workers post anything."""
    found.pauses = active_pauses(lanes, statuses, bounds.pauses)
    found.problems += pause_lines(found.pauses, bounds.pauses)
    _read_parked(found, lanes, statuses, bounds.parked)
    holding = [partition for partition, seen in statuses.items() if seen.waiting]
    found.hot_spots = deep_lanes(lanes.redis, lanes.keys, holding, bounds.due)
    found.problems += problems.full_lanes(found.hot_spots, settings.lane_limit)
    found.problems += problems.redis_problems(lanes.redis)
    alerts = worker_alerts.read(lanes.redis, lanes.keys)
    found.problems += problems.alert_problems(alerts)
    found.workers = read_workers(lanes.redis, settings)
    found.problems += found.workers.problems
    found.drift = drift_report.read(lanes.redis, lanes.keys)
    found.problems += problems.drift_problems(found.drift)
    found.problems += map(str, key_faults.find(lanes, statuses, bounds.members))
    with suppress(ConfigurationError):  # one of those faults
        found.bound_to = bound_to(lanes)
    return bool(alerts)


def _read_database(found: Found, settings: Settings, engine: Engine | None, bounds: Bounds) -> None:
    """Its problems, who holds rows, totals and the binding. Raises ConfigurationError."""
    with database_of(settings, engine, name="levelq status") as used, used.connect() as connection:
        found.problems += problems.database_problems(connection, settings, bounds.newest)
        reasons = [lane.reason for of_partition in found.parked.values() for lane in of_partition.lanes]
        if found.unexplained or any(map(is_locked, reasons)):
            found.holding = problems.row_holder(connection, settings)
        slow = found.workers is not None and any(worker.slow_since for worker in found.workers.workers)
        found.trigger_notes += trigger_notes(connection, slow=slow, refused=any(map(is_raised_by_code, reasons)))
        numbers, found.estimated = bounded_counts(connection)
        found.totals |= numbers
        if found.totals["quarantined"]:
            found.hot_spots = found.hot_spots.model_copy(update={"quarantined": quarantine_groups(connection)})
        if found.bound_to is not None:
            require_same(settings.namespace, found.bound_to, identity_of(connection))


def _statuses(found: Found, lanes: Lanes, settings: Settings) -> dict[Partition, Status]:
    """Of every partition that answers; in a cluster, a server may be down. Raises RedisError if none answers."""
    names = {partition.specialization for partition in lanes.partitions()} | set(settings.tracks)
    statuses: dict[Partition, Status] = {}
    failed: dict[Partition, RedisError] = {}
    for partition in partitions(lanes, names):
        try:
            statuses[partition] = lanes.status(partition)
        except RedisError as error:
            if not is_wrong_type(error):  # key_faults names those
                failed[partition] = error
    if failed and not statuses:
        raise next(iter(failed.values()))
    for why in dict.fromkeys(map(str, failed.values())):
        gone = [str(partition) for partition, error in failed.items() if str(error) == why]
        found.problems.append(one_line(f"{', '.join(gone)}: their server is away: {why}"))
    return statuses


def _read_parked(found: Found, lanes: Lanes, statuses: dict[Partition, Status], most: int) -> None:
    """Why lanes are parked. Raises RedisError."""
    for partition, seen in statuses.items():
        found.parked[partition] = here = parked.read(lanes.redis, lanes.keys, partition, most)
        if seen.parked > here.total:  # read again: it may have changed between the two
            found.unexplained += max(0, min(seen.parked, lanes.status(partition).parked) - here.total)


def _read_workers(
    found: Found,
    lanes: Lanes,
    settings: Settings,
    statuses: dict[Partition, Status],
    bounds: Bounds,
    *,
    alerts: bool,
) -> None:
    """Who serves, and partitions that stand still. Raises RedisError, ConfigurationError."""
    queues = {partition: settings.keys.queue(partition.specialization) for partition in statuses}
    with nullcontext(lanes.redis) if settings.rq_url is None else redis_of(settings, rq=True) as rq:
        suspended = suspension(rq)
        found.problems += [suspended] if suspended else []
        faults = key_faults.find_in_rq(rq, sorted(set(queues.values())))
        found.problems += map(str, faults)
        writable = refusal(rq) is None  # else a worker that works all the same cannot register
        if not faults:
            found.serving = {partition: workers_of(rq, queue) for partition, queue in queues.items()}
    serving = found.serving if writable else None
    explained = alerts or suspended is not None
    paused = {name for pause in found.pauses if pause.user is None for name in pause.partitions}
    going = {partition: seen for partition, seen in statuses.items() if str(partition) not in paused}
    found.problems += problems.lane_problems(
        lanes, settings, going, serving, explained=explained, again_seconds=bounds.again_seconds
    )
