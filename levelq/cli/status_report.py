"""What `levelq status` shows: the lanes, the workers, the totals and the problems, as far as the servers answer.

A server that does not answer is one of the problems.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from redis.exceptions import RedisError

from levelq_core.errors import ConfigurationError
from levelq_core.keys import Partition
from levelq_core.lanes import worker_alerts
from levelq_core.lanes.client import Lanes
from levelq_core.lanes.namespace_binding import DatabaseIdentity, bound_to, require_same
from levelq_core.lanes.parked import ParkedLanes, read
from levelq_core.lanes.protocol import Status
from levelq_core.lanes.wakeups import workers_of
from levelq_core.lanes.worker_alerts import WorkerAlert
from levelq_core.operations import key_faults
from levelq_core.operations.identity import identity_of
from levelq_core.operations.queries import Holder, counts
from levelq_core.operations.redischeck.health import refusal
from levelq_core.redis_client.wrong_type import is_wrong_type
from levelq_core.settings import Settings
from levelq_worker.rq_adapter.registry import suspension
from levelq_worker.support.parked_lanes import is_locked
from levelq_worker.support.partition_directory import partitions

from . import status_problems
from .connections import database_of, lanes_of, redis_of
from .screen import one_line


@dataclass
class StatusReport:
    """What was found. `lanes` is None if their Redis does not answer, `serving` if RQ's does not.

    `unexplained`: how many lanes are parked without a reason in Redis.
    """

    namespace: str
    bound_to: DatabaseIdentity | None = None
    lanes: dict[Partition, Status] | None = None
    parked: dict[Partition, ParkedLanes] = field(default_factory=dict)
    unexplained: int = 0
    serving: dict[Partition, set[str]] | None = None
    totals: dict[str, int | None] = field(default_factory=lambda: {"rejected": None, "quarantined": None})
    problems: list[str] = field(default_factory=list)

    @property
    def workers(self) -> int | None:
        """How many workers serve at least one of the partitions."""
        return None if self.serving is None else len(set().union(*self.serving.values()))

    @contextmanager
    def errors_are_problems(self) -> Iterator[None]:
        """A ConfigurationError inside becomes one of the problems."""
        try:
            yield
        except ConfigurationError as error:
            self.problems.append(one_line(str(error)))


def look(settings: Settings) -> StatusReport:
    """Read the lanes' Redis, RQ's and the database, as far as they answer."""
    report = StatusReport(settings.namespace)
    alerts: list[WorkerAlert] = []
    with report.errors_are_problems(), lanes_of(settings) as lanes:
        report.lanes = _statuses(report, lanes, settings)
        _read_parked(report, lanes, report.lanes)
        report.problems += status_problems.redis_problems(lanes.redis)
        alerts = worker_alerts.read(lanes.redis, lanes.keys)
        report.problems += status_problems.alert_problems(alerts)
        report.problems += map(str, key_faults.find(lanes, report.lanes))
        with suppress(ConfigurationError):  # one of those faults
            report.bound_to = bound_to(lanes)
    if report.lanes is not None:
        with report.errors_are_problems():
            _read_workers(report, settings, report.lanes, alerts=bool(alerts))
    holding: Holder | None = None
    if settings.database_url is not None:
        with report.errors_are_problems(), database_of(settings) as engine, engine.connect() as connection:
            report.problems += status_problems.database_problems(connection, settings)
            reasons = [lane.reason for parked in report.parked.values() for lane in parked.lanes]
            if report.unexplained or any(map(is_locked, reasons)):
                holding = status_problems.row_holder(connection, settings)
            report.totals |= counts(connection)
            if report.bound_to is not None:
                require_same(settings.namespace, report.bound_to, identity_of(connection))
    report.problems += status_problems.parked_problems(report.parked, report.unexplained, holding)
    return report


def _statuses(report: StatusReport, lanes: Lanes, settings: Settings) -> dict[Partition, Status]:
    """Of every partition that answers; in a cluster, a server may be down. Raises RedisError if none answers."""
    names = {partition.specialization for partition in lanes.partitions()} | set(settings.tracks)
    found: dict[Partition, Status] = {}
    failed: dict[Partition, RedisError] = {}
    for partition in partitions(lanes, names):
        try:
            found[partition] = lanes.status(partition)
        except RedisError as error:
            if not is_wrong_type(error):  # key_faults names those
                failed[partition] = error
    if failed and not found:
        raise next(iter(failed.values()))
    for why in dict.fromkeys(map(str, failed.values())):
        gone = [str(partition) for partition, error in failed.items() if str(error) == why]
        report.problems.append(one_line(f"{', '.join(gone)}: their server is away: {why}"))
    return found


def _read_parked(report: StatusReport, lanes: Lanes, found: dict[Partition, Status]) -> None:
    """Why lanes are parked. Raises RedisError."""
    for partition, status in found.items():
        report.parked[partition] = parked = read(lanes.redis, lanes.keys, partition)
        if status.parked > parked.total:  # read again: it may have changed between the two
            report.unexplained += max(0, min(status.parked, lanes.status(partition).parked) - parked.total)


def _read_workers(report: StatusReport, settings: Settings, found: dict[Partition, Status], *, alerts: bool) -> None:
    queues = {partition: settings.keys.queue(partition.specialization) for partition in found}
    with redis_of(settings, rq=True) as rq:
        suspended = suspension(rq)
        report.problems += [suspended] if suspended else []
        faults = key_faults.find_in_rq(rq, sorted(set(queues.values())))
        report.problems += map(str, faults)
        writable = refusal(rq) is None  # else a worker that works all the same cannot register
        if not faults:
            report.serving = {partition: workers_of(rq, queue) for partition, queue in queues.items()}
    with lanes_of(settings) as lanes:
        serving = report.serving if writable else None
        explained = alerts or suspended is not None
        report.problems += status_problems.lane_problems(lanes, settings, found, serving, explained=explained)
