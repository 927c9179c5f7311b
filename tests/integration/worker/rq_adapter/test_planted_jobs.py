"""Jobs and queue entries that other programs put on a levelq queue: refused, and shown safely and short."""

import json
import logging
import signal
import time
import zlib
from typing import Any

import pytest
from redis import Redis
from rq import Queue
from rq.job import Job
from rq.serializers import JSONSerializer

from levelq_core import Settings
from levelq_core.lanes.wakeups import FAILURE_SECONDS, FUNCTION
from levelq_worker.rq_adapter.job import MOST_BYTES, LaneJob
from levelq_worker.rq_adapter.worker import LaneWorker
from tests.support.fixtures.keys import KEYS
from tests.support.system import PLAYER, System

QUEUE = KEYS.queue("PLAYER")


def plant(redis: Redis, function: str = FUNCTION, *args: Any, **options: Any) -> Job:
    """A job as a program with access to RQ's Redis would enqueue it."""
    return Queue(QUEUE, connection=redis, serializer=JSONSerializer).enqueue_call(function, args=args, **options)


def work(settings: Settings, redis: Redis) -> None:
    LaneWorker([QUEUE], connection=redis, settings=settings).work(burst=True)


def fetch(redis: Redis, job: Job) -> LaneJob:
    """The job as a worker reads it."""
    found = LaneJob.fetch(job.id, connection=redis, serializer=JSONSerializer)
    assert isinstance(found, LaneJob)
    return found


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def work_beside(system: System) -> int:
    """A wake-up is queued behind what was planted; how many of two commands a worker then applies."""
    system.fill(2)
    plant(system.redis, FUNCTION, "PLAYER")
    work(system.settings, system.redis)
    return system.applied()


def test_planted_name_with_escape_sequences_is_shown_without_them(
    settings: Settings, redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    plant(redis, "os.system\x1b[2J\x07\nWARNING forged", "x" * 10_000_000)
    job = plant(redis, "evil\x1b[31m" + "y" * 1_000, "PLAYER")
    work(settings, redis)
    shown = warnings(caplog)
    assert any(f"job {job.id} refused: " in line and "evil\\x1b[31m" in line for line in shown)
    assert all(line.isprintable() and len(line) < 500 for line in shown)
    assert not any(len(record.getMessage()) > 500 for record in caplog.records)


@pytest.mark.parametrize(
    "data",
    [b"", b"x", b"[" * 4_000, b"\xff" * 100, b"[1,2,3,4]", b"{}", b"null", zlib.compress(b" " * 50_000_000)],
    ids=["empty", "text", "deep", "bytes", "numbers", "object", "null", "bomb"],
)
def test_planted_data_that_cannot_be_read_is_refused_and_the_next_job_runs(system: System, data: bytes) -> None:
    job = plant(system.redis, FUNCTION, "PLAYER")
    system.redis.hset(job.key, mapping={"data": data, "created_at": "never", "timeout": "soon", "retries_left": "many"})
    assert work_beside(system) == 2
    kept = system.redis.ttl(job.key)
    assert data == b"" or 0 < kept <= FAILURE_SECONDS


@pytest.mark.parametrize("name", ["player", "PLAYER:x:0", "A" * 200, "PLAYER:1:0\x1b[2J"])
def test_planted_partition_that_is_none_is_refused(
    settings: Settings, redis: Redis, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    plant(redis, FUNCTION, name)
    work(settings, redis)
    (line,) = warnings(caplog)
    assert "refused" in line and line.isprintable() and len(line) < 300
    assert redis.exists(KEYS.of(PLAYER, "drains")) == 0


def test_planted_timeout_interrupts_no_drain(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    alarms: list[int] = []
    monkeypatch.setattr(signal, "alarm", alarms.append)
    system.fill(2)
    plant(system.redis, FUNCTION, "PLAYER", timeout=1)
    work(system.settings, system.redis)
    assert system.applied() == 2
    assert alarms == []


def test_planted_limits_are_replaced_by_the_workers_own(settings: Settings, redis: Redis) -> None:
    job = plant(redis, FUNCTION, "PLAYER", timeout=1, result_ttl=10**8, failure_ttl=10**8, ttl=10**8, meta={"a": 1})
    counts: dict[Any, Any] = {"retries_left": 5, "repeats_left": 9, "enqueue_at_front": 1}
    names = {"group_id": "g", "rate_limit_key": "k", "dependency_ids": '["other"]'}
    calls = {"success_callback_name": "os.abort", "webhooks": '[{"url": "http://127.0.0.1:1"}]'}
    redis.hset(job.key, mapping=counts | names | calls)
    read = fetch(redis, job)
    assert (read.timeout, read.failure_ttl, read.ttl, read.meta) == (-1, FAILURE_SECONDS, None, {})
    assert read.result_ttl == FAILURE_SECONDS
    assert (read.retries_left, read.repeats_left, read.group_id, read.rate_limit_key) == (None, None, None, None)
    assert (read._dependency_ids, read.webhooks, read.success_callback, read.enqueue_at_front) == ([], [], None, None)
    work(settings, redis)
    assert 0 < redis.ttl(job.key) <= FAILURE_SECONDS


def test_planted_failure_is_neither_retried_nor_kept_for_long_and_enqueues_no_dependent(
    settings: Settings, redis: Redis
) -> None:
    queue = Queue(QUEUE, connection=redis, serializer=JSONSerializer)
    first = plant(redis, "os.abort", failure_ttl=10**8)
    for dependency in (first, plant(redis, FUNCTION, "PLAYER")):
        queue.enqueue_call("os.abort", depends_on=dependency)
    redis.hset(first.key, mapping={"retries_left": 1000, "retry_intervals": "[0]"})
    work(settings, redis)
    assert 0 < redis.ttl(first.key) <= FAILURE_SECONDS
    assert queue.count == 0


@pytest.mark.parametrize(
    "entry", [b"\xff\xfe", b"", b"a b\x1b[2J", b"x" * 1_000_000], ids=["bytes", "empty", "esc", "huge"]
)
def test_queue_entry_that_is_no_job_id_is_dropped_and_the_next_job_runs(
    system: System, caplog: pytest.LogCaptureFixture, entry: bytes
) -> None:
    system.redis.lpush(f"rq:queue:{QUEUE}", entry)
    assert work_beside(system) == 2
    dropped = [message for message in caplog.messages if "dropped from a queue" in message]
    assert len(dropped) == 1 and dropped[0].isprintable() and len(dropped[0]) < 200


def test_job_key_of_another_type_is_passed_over(system: System) -> None:
    system.redis.set("rq:job:planted", "no hash")
    system.redis.rpush(f"rq:queue:{QUEUE}", "planted")
    assert work_beside(system) == 2


def test_reading_a_huge_job_does_not_fetch_it(redis: Redis) -> None:
    job = plant(redis, FUNCTION, "PLAYER")
    redis.hset(job.key, "data", json.dumps([FUNCTION, None, ["x" * 20_000_000], {}]))
    redis.config_resetstat()
    begun = redis.info("stats")["total_net_output_bytes"]
    read = fetch(redis, job)
    assert read.refused is not None and f"at most {MOST_BYTES}" in str(read.refused)
    assert redis.info("stats")["total_net_output_bytes"] - begun < 1_000_000


def test_suspended_worker_holds_the_wake_up_it_took_until_it_is_resumed(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An idle worker waits for a job inside RQ's dequeue, where it does not see that it is suspended."""
    redis = system.redis
    system.fill(2)
    redis.set("rq:suspended", 1)
    applied: list[int] = []

    def resume(_: float) -> None:
        applied.append(system.applied())
        redis.delete("rq:suspended")

    monkeypatch.setattr(time, "sleep", resume)
    worker = LaneWorker([QUEUE], connection=redis, settings=system.settings)
    worker.register_birth()  # type: ignore[no-untyped-call]
    job = fetch(redis, plant(redis, FUNCTION, "PLAYER"))
    worker.execute_job(job, Queue(QUEUE, connection=redis, serializer=JSONSerializer))
    worker._runtime.close()
    assert applied == [0]
    assert system.applied() == 2
