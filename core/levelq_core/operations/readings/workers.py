"""What each worker does now, how fast and how late commands are applied, and which worker is stopped or slow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

from redis import Redis

from levelq_core.domain.lag_histogram import merged, quantile
from levelq_core.lanes.worker_reports import (
    WINDOWS,
    BatchFigures,
    PartitionFigures,
    Read,
    WorkerReport,
    read_at,
)
from levelq_core.operations.connections import redis_of
from levelq_core.operations.wording import count, duration, time_of, when_utc
from levelq_core.settings import Settings

from .records import Reading, Time

RECENT_MS = 60_000  # a batch before that says nothing about the database now
MOST_HOT_LANES = 10
HOT_SHARE, HOT_COMMANDS = 0.5, 1_000  # of a partition in a minute: above both, a user is worth a mention
TOTAL = "all"


class Rates(Reading):
    """How fast and how late the commands of a partition are decided, by all workers. `partition`: "all" for the sum.

    The rates are commands decided (applied or rejected) a second, over the last 10 s, minute and ten minutes;
    `rejected_1_min`: the part of them that was rejected. A lag is the time from send to commit, None where nothing was
    decided; `lag_p50_seconds` and `lag_p99_seconds` are of the last minute, within 7 %.
    """

    partition: str
    rate_10_s: float
    rate_1_min: float
    rate_10_min: float
    rejected_1_min: float
    lag_p50_seconds: float | None
    lag_p99_seconds: float | None
    lag_p99_10_min_seconds: float | None


class HotLane(Reading):
    """A lane that takes a large share of the batches: its commands in the last minute."""

    partition: str
    user_id: int
    commands: int


class WorkerStatus(Reading):
    """One worker process. `state`, since `since`: as in its report, but "silent" if it has stopped reporting.

    `reported`: its last report. `rate_10_s` and `rate_1_min`: commands it decided a second. `batch_commands` and
    `batch_seconds`: the medians of its last five batches; `usual_seconds`: what such batches took before. `slow_since`:
    since when they have taken several times as long, None if they do not.
    """

    name: str
    host: str
    pid: int
    rq_name: str | None
    version: str
    specializations: tuple[str, ...]
    state: Literal["idle", "draining", "transaction", "waiting", "silent"]
    since: Time
    partition: str | None
    why: str | None
    started: Time
    reported: Time
    progress: Time
    applied: int
    rejected: int
    duplicates: int
    quarantined: int
    batches: int
    rate_10_s: float
    rate_1_min: float
    last_batch: Time | None
    batch_commands: int | None
    batch_seconds: float | None
    usual_seconds: float | None
    slow_since: Time | None
    memory_bytes: int | None


class WorkersReport(Reading):
    """What `levelq workers` prints; `model_dump_json()` is what `levelq workers --json` prints.

    `workers`: by host and process id; one that ended is not among them, one that fell silent is for ten minutes.
    `rates`: of each partition in which something was decided in the last ten minutes; `total`: their sum. `problems`
    and `notes`: one line each.
    """

    namespace: str
    workers: tuple[WorkerStatus, ...]
    rates: tuple[Rates, ...]
    total: Rates
    hot_lanes: tuple[HotLane, ...]
    problems: tuple[str, ...]
    notes: tuple[str, ...]


def workers(settings: Settings | None = None) -> WorkersReport:
    """Read the reports of all workers: what `levelq workers` prints. Changes nothing.

    `settings`: those of the environment unless given. It blocks: on an event loop, run it in a thread. Raises
    ConfigurationError if the settings cannot be read, or Redis does not answer.
    """
    settings = Settings.of(settings)
    with redis_of(settings) as redis:
        return read_workers(redis, settings)


def read_workers(redis: Redis, settings: Settings) -> WorkersReport:
    """The same, on a client of the lanes' Redis. Raises RedisError."""
    return report_of(read_at(redis, settings.keys), settings)


def report_of(found: Read, settings: Settings) -> WorkersReport:
    """The same, of reports that were read."""
    figures: dict[str, list[PartitionFigures]] = {}
    for report in found.reports:
        if not found.silent_seconds(report):
            for partition, posted in report.partitions.items():
                figures.setdefault(partition, []).append(posted)
    every = [posted for of_partition in figures.values() for posted in of_partition]
    rates = tuple(_rates(partition, figures[partition]) for partition in sorted(figures))
    hot_lanes = tuple(_hot_lanes([report for report in found.reports if not found.silent_seconds(report)]))
    return WorkersReport(
        namespace=settings.namespace,
        workers=tuple(_worker(found, report) for report in found.reports),
        rates=rates,
        total=_rates(TOTAL, every),
        hot_lanes=hot_lanes,
        problems=(*_silent(found), *_hanging(found, settings), *_slow(found)),
        notes=(*_versions(found), *hot_users(hot_lanes, rates)),
    )


def _rates(partition: str, figures: Sequence[PartitionFigures]) -> Rates:
    last, longer = merged(posted.lags for posted in figures), merged(posted.lags_10_min for posted in figures)
    rates = [round(sum(posted.decided[window] for posted in figures), 2) for window in range(len(WINDOWS))]
    return Rates(
        partition=partition,
        rate_10_s=rates[0],
        rate_1_min=rates[1],
        rate_10_min=rates[2],
        rejected_1_min=round(sum(posted.rejected[1] for posted in figures), 2),
        lag_p50_seconds=quantile(last, 0.5),
        lag_p99_seconds=quantile(last, 0.99),
        lag_p99_10_min_seconds=quantile(longer, 0.99),
    )


def _worker(found: Read, report: WorkerReport) -> WorkerStatus:
    silent = found.silent_seconds(report) > 0
    batch = report.batch
    slow = batch.slow_ms if batch is not None and _is_recent(found, batch) else None
    same = report.model_dump(include=set(WorkerStatus.model_fields) - {"state", "partitions", "batch"})
    return WorkerStatus.model_validate({
        **same,
        "state": "silent" if silent else report.state,
        "since": time_of(report.posted_ms if silent else report.state_ms),
        "started": time_of(report.started_ms),
        "reported": time_of(report.posted_ms),
        "progress": time_of(report.progress_ms),
        **{name: 0.0 if silent else _rate(report, window) for window, name in enumerate(("rate_10_s", "rate_1_min"))},
        "last_batch": None if batch is None else time_of(batch.at_ms),
        "batch_commands": None if batch is None else batch.commands,
        "batch_seconds": None if batch is None else batch.seconds,
        "usual_seconds": None if batch is None else batch.usual_seconds,
        "slow_since": None if slow is None else time_of(slow),
    })  # fmt: skip


def _rate(report: WorkerReport, window: int) -> float:
    return round(sum(posted.decided[window] for posted in report.partitions.values()), 2)


def _is_recent(found: Read, batch: BatchFigures) -> bool:
    return found.now_ms - batch.at_ms < RECENT_MS


def _hot_lanes(reports: Sequence[WorkerReport]) -> Iterator[HotLane]:
    commands: Counter[tuple[str, int]] = Counter()
    for report in reports:
        for lane in report.hot:
            commands[lane.partition, lane.user_id] += lane.commands
    for (partition, user_id), of_lane in commands.most_common(MOST_HOT_LANES):
        yield HotLane(partition=partition, user_id=user_id, commands=of_lane)


def _silent(found: Read) -> Iterator[str]:
    for report in found.reports:
        seconds = found.silent_seconds(report)
        if seconds:
            since = when_utc(time_of(report.posted_ms))
            yield (
                f"worker {report.name} is silent since {since} ({duration(seconds)}): it is stopped, dead or cut off; "
                f"on host {report.host}: ps -o pid,stat,args {report.pid} (T: stopped, kill -CONT {report.pid})"
            )


def _hanging(found: Read, settings: Settings) -> Iterator[str]:
    """Workers that report, but whose working thread makes no progress: each step of a drain has a limit."""
    for report in found.reports:
        seconds = (report.posted_ms - report.progress_ms) / 1000
        busy = report.state in ("draining", "transaction")
        if busy and seconds > settings.claim_seconds and not found.silent_seconds(report):
            yield (
                f"worker {report.name} hangs in {report.partition} ({report.state}) for {duration(seconds)}; restart "
                f"it on host {report.host}: kill {report.pid}"
            )


def _slow(found: Read) -> Iterator[str]:
    """One line for the database, with the figures of the worker whose batches are slowest against their usual."""
    slow = [
        (report.batch.seconds / report.batch.usual_seconds, report.batch)
        for report in found.reports
        if report.batch is not None
        and report.batch.slow_ms is not None
        and report.batch.usual_seconds
        and _is_recent(found, report.batch)
        and not found.silent_seconds(report)
    ]
    if slow:
        _, worst = max(slow, key=lambda found: found[0])
        since = when_utc(time_of(min(batch.slow_ms or 0 for _, batch in slow)))
        yield (
            f"batches take {_brief(worst.seconds)}, usually {_brief(worst.usual_seconds or 0)} for this "
            f"size ({count(worst.commands, 'command')}): the database is slow since {since}; look for triggers, waits "
            "for locks and load: SELECT pid, wait_event, query FROM pg_stat_activity WHERE state <> 'idle'"
        )


def _brief(seconds: float) -> str:
    return duration(seconds) if seconds >= 0.1 else f"{seconds:.3f} s"


def hot_users(lanes: Iterable[HotLane], rates: Iterable[Rates]) -> Iterator[str]:
    """A line for each user who has most commands of a busy partition: a loop in a program, or a user to watch."""
    decided = {rate.partition: 60 * rate.rate_1_min for rate in rates}
    for lane in lanes:
        share = lane.commands / max(decided.get(lane.partition, 0), lane.commands, 1)
        if share > HOT_SHARE and lane.commands >= HOT_COMMANDS:
            yield f"user {lane.user_id} has {share:.0%} of the commands of {lane.partition} in the last minute"


def notes_about(user_id: int, report: WorkersReport) -> Iterator[str]:
    """Those of these lines that are about one user."""
    return hot_users((lane for lane in report.hot_lanes if lane.user_id == user_id), report.rates)


def _versions(found: Read) -> Iterator[str]:
    versions = Counter(report.version for report in found.reports if not found.silent_seconds(report))
    if len(versions) > 1:
        listed = ", ".join(f"{version} ({count(workers, 'worker')})" for version, workers in sorted(versions.items()))
        yield f"workers run different versions: {listed}"
