"""What each worker process posts at every sweep: who it is, what it does now, how fast, and how late.

One hash holds them all, worker -> its report as JSON. A process that ends withdraws its report. One that is killed,
stopped or cut off leaves its last one for KEPT_SECONDS, so that it can be named; then readers skip it and live workers
remove it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from redis import Redis
from redis.exceptions import RedisError

from levelq_core.domain.lag_histogram import MOST_MS, bucket_of
from levelq_core.keys import Keys
from levelq_core.redis_client.topology import server_of, time_ms
from levelq_core.redis_client.wrong_type import unless_wrong_type
from levelq_core.untrusted_text import printable

KEPT_SECONDS = 600  # for how long the report of a silent worker is shown
MOST_WORKERS = 1_000  # in the hash; beyond, those that still post make it new
MOST_LANES = 5  # hot lanes in a report
WINDOWS = (10, 60, 600)  # seconds, of the rates
_TEXT = 500


def _shown(text: str) -> str:
    return printable(text, _TEXT)


Name = Annotated[str, AfterValidator(_shown)]
Count = Annotated[int, Field(ge=0, lt=2**53)]
Bucket = Annotated[int, Field(ge=0, le=bucket_of(MOST_MS))]  # a larger one stands for a number of as many bits
Seconds = Annotated[float, Field(ge=0, lt=1e12, allow_inf_nan=False)]
Rate = Seconds
State = Literal["idle", "draining", "transaction", "waiting"]


class _Posted(BaseModel):
    """A newer worker's further fields are ignored: during a deployment, versions differ."""

    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)


class PartitionFigures(_Posted):
    """What a worker did in one partition. A rate is decided commands (applied and rejected) a second.

    `decided` and `rejected`: rates over the last 10 s, 60 s and 10 min. `lags`: a histogram (lag_histogram.py) of the
    times from send to commit, of the commands decided in the last minute; `lags_10_min`: in the last ten.
    """

    decided: tuple[Rate, Rate, Rate]
    rejected: tuple[Rate, Rate, Rate]
    lags: dict[Bucket, Count] = Field(max_length=1_000)
    lags_10_min: dict[Bucket, Count] = Field(max_length=1_000)


class BatchFigures(_Posted):
    """The last batches. `commands` and `seconds`: the medians of the last five, `at_ms`: when the last was committed.

    `usual_seconds`: what transactions of this size took before, None while that is unknown. `slow_ms`: since
    when they have taken several times as long, None if they do not.
    """

    commands: Count
    seconds: Seconds
    usual_seconds: Seconds | None
    slow_ms: Count | None
    at_ms: Count


class HotLane(_Posted):
    """A lane that took a large share of batches: its commands in the last minute."""

    partition: Name
    user_id: Count
    commands: Count


class WorkerReport(_Posted):
    """One worker process, as it last reported. Times in ms are by the clock of Redis.

    `name`: host:pid. `rq_name`: its name in RQ's registry, None for a worker that works without RQ. `within_seconds`:
    how soon after a report the next one comes. `state`, since `state_ms`: "idle", "draining" or in a "transaction" of
    `partition`, or "waiting" for a server, `why` says for what. `progress_ms`: when the working thread last made
    progress, which it does within seconds in any state but idle. The counts are totals since the start. `memory_bytes`:
    resident memory, None where the system does not tell.
    """

    name: Name
    host: Name
    pid: Count
    rq_name: Name | None
    version: Name
    specializations: tuple[Name, ...] = Field(max_length=1_000)
    started_ms: Count
    posted_ms: Count
    within_seconds: Seconds
    state: State
    state_ms: Count
    partition: Name | None
    why: Name | None
    progress_ms: Count
    applied: Count
    rejected: Count
    duplicates: Count
    quarantined: Count
    batches: Count
    partitions: dict[Name, PartitionFigures] = Field(max_length=1_000)
    batch: BatchFigures | None
    hot: tuple[HotLane, ...] = Field(max_length=MOST_LANES)
    memory_bytes: Count | None


class Read(NamedTuple):
    """The reports, by name, and the time (ms) of the Redis that they are from."""

    reports: list[WorkerReport]
    now_ms: int

    def silent_seconds(self, report: WorkerReport) -> float:
        """For how long a worker has been silent beyond the time in which its next report was due; 0 if it is not."""
        age = (self.now_ms - report.posted_ms) / 1000
        return age if age > report.within_seconds else 0.0


class WorkerReports:
    """Posts the reports of one worker, under a name that no other has.

    `gone`: whether another worker is known to have died, so that its report can be removed.
    """

    def __init__(self, redis: Redis, keys: Keys, worker: str, gone: Callable[[WorkerReport], bool]) -> None:
        self._redis = redis
        self._key = keys.workers
        self._worker = worker
        self._gone = gone
        self._pruned_ms = 0

    def now_ms(self) -> int:
        """The time of the Redis that holds the reports. Raises RedisError."""
        return time_ms(server_of(self._redis, self._key))

    def post(self, report: WorkerReport) -> None:
        """Post the report. The first time and now and then, remove those of dead workers. Raises RedisError."""
        server = server_of(self._redis, self._key)
        with server.pipeline(transaction=False) as pipeline:
            pipeline.hset(self._key, self._worker, report.model_dump_json())
            pipeline.pexpire(self._key, 1000 * KEPT_SECONDS)
            pipeline.execute()
        if report.posted_ms - self._pruned_ms > 1000 * KEPT_SECONDS / 2:
            self._pruned_ms = report.posted_ms
            self._prune(server, report.posted_ms)

    def _prune(self, server: Any, now_ms: int) -> None:
        if int(server.hlen(self._key)) > MOST_WORKERS:
            server.delete(self._key)  # those that live post again
            return
        found: Mapping[bytes, bytes] = server.hgetall(self._key)
        others = {
            name: read_report(raw) for name, raw in found.items() if name.decode(errors="replace") != self._worker
        }
        dead = [name for name, other in others.items() if other and (_is_expired(other, now_ms) or self._gone(other))]
        if dead:
            server.hdel(self._key, *dead)

    def withdraw(self) -> None:
        """Remove the report: the process ends. It expires by itself if Redis does not answer."""
        with suppress(RedisError):
            self._redis.hdel(self._key, self._worker)


def read(redis: Redis, keys: Keys) -> list[WorkerReport]:
    """The reports of the last KEPT_SECONDS that can be read (see key_faults.py), by name. Raises RedisError."""
    return read_at(redis, keys).reports


def read_at(redis: Redis, keys: Keys) -> Read:
    """The same, with the time of Redis, which tells who is silent. Raises RedisError."""
    now = time_ms(server_of(redis, keys.workers))
    found = map(read_report, unless_wrong_type({}, redis.hgetall, keys.workers).values())
    reports = [report for report in found if report is not None and not _is_expired(report, now)]
    return Read(sorted(reports, key=lambda report: (report.host, report.pid, report.started_ms)), now)


def read_report(raw: bytes) -> WorkerReport | None:
    """A report; None if this is none that this version can read."""
    try:
        return WorkerReport.model_validate_json(raw)
    except (ValidationError, RecursionError):
        return None


def _is_expired(report: WorkerReport, now_ms: int) -> bool:
    return now_ms - report.posted_ms > 1000 * KEPT_SECONDS
