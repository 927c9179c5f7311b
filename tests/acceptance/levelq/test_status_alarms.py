"""What `levelq status` reports of real workers: nothing while they make progress, and soon when they do not."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from itertools import count, islice

import pytest
from redis import Redis
from sqlalchemy import Engine

from levelq_core import LevelUp, Settings
from levelq_core.domain.codec import encode
from levelq_core.keys import Partition
from levelq_core.operations.readings.status import status as look
from levelq_core.operations.readings.workers import workers
from tests.support.fixtures.command_line import NOWHERE, Levelq
from tests.support.fixtures.keys import KEYS
from tests.support.fixtures.processes import Started, children
from tests.support.fixtures.proxy import Proxy
from tests.support.fixtures.waiting import until

Start = Callable[..., Started]
PARTITIONS = [Partition(name) for name in ("COACH", "INTERNSHIP", "PLAYER")]
PLAYER = PARTITIONS[-1]
DEAD = "its workers are dead, hang, or cannot reach Redis"
SUSPENDED = "workers are suspended by rq suspend: they drain nothing; `rq resume` lets them go on"
USERS = count(1)


def backlog(redis: Redis, users: int, *partitions: Partition, age_seconds: int = 60) -> None:
    """One command in each of new lanes, as if they had waited for a minute, and without a wake-up."""
    seconds, _ = redis.time()
    at = 1000 * (seconds - age_seconds)
    for partition in partitions:
        with redis.pipeline() as pipeline:
            for user in islice(USERS, users):
                command = LevelUp(user_id=user, specialization=partition.specialization, xp_gained=1)
                pipeline.rpush(KEYS.lane(partition, user), b"%013d" % at + encode(command))
                pipeline.zadd(KEYS.of(partition, "ready"), {str(user): at})
            pipeline.incrby(KEYS.of(partition, "count"), users)
            pipeline.execute()


def waiting(redis: Redis, partition: Partition) -> int:
    return int(redis.get(KEYS.of(partition, "count")) or 0)


def alarms(settings: Settings) -> list[str]:
    return [problem for problem in look(settings).problems if DEAD in problem]


@pytest.fixture
def brief(settings: Settings) -> Settings:
    """Short claims: the death of a worker shows within a second and a half."""
    return settings.model_copy(update={"claim_seconds": 1.0, "sweep_seconds": 0.2, "redis_seconds": 0.5})


@pytest.fixture
def worker(brief: Settings, start: Start) -> Start:
    """Start one worker process with short claims; returns once it is registered."""

    def begin(*options: str, **environment: str) -> Started:
        process = start("worker", "--processes", "1", *options, **(brief.environment() | environment))
        until(lambda: look(brief).workers, what="the worker")
        return process

    return begin


def suspend(redis: Redis, backlogged: int) -> None:
    """Suspend the one worker, and wait until it has noticed."""
    redis.set("rq:suspended", 1)
    backlog(redis, backlogged, PLAYER)
    (worker,) = redis.smembers("rq:workers")
    until(lambda: redis.hget(worker, "state") == b"suspended", what="the worker to see it")


def drain_partly(redis: Redis) -> None:
    """A backlog that the worker has begun to drain, in small batches."""
    backlog(redis, 2_000, PLAYER, age_seconds=0)
    until(lambda: waiting(redis, PLAYER) < 2_000, what="the first drain")


def test_old_backlog_that_workers_drain_in_turn_raises_no_alarm(
    settings: Settings, redis: Redis, own_engine: Engine, start: Start
) -> None:
    """One worker serves three partitions, so each is without a drain for two thirds of the time."""
    start("worker", "--processes", "1", LEVELQ_BATCH_COMMANDS="20", LEVELQ_SLICE_SECONDS="0.3")
    backlog(redis, 5_000, *PARTITIONS)
    until(lambda: all(waiting(redis, partition) < 5_000 for partition in PARTITIONS), what="the first drains")
    without_drain = 0
    for _ in range(25):
        for partition in PARTITIONS:
            if waiting(redis, partition) < 4_000:  # were it empty, nothing would wake a worker before the next sweep
                backlog(redis, 1_000, partition)
        without_drain += sum(not redis.zcard(KEYS.of(partition, "drains")) for partition in PARTITIONS)
        seen = look(settings)
        assert (seen.problems, seen.workers) == ((), 1)
    assert without_drain > 0


SMALL_BATCHES = {"LEVELQ_BATCH_COMMANDS": "5"}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_workers_that_end_or_hang_raise_an_alarm_within_a_claim_and_a_sweep(
    brief: Settings, redis: Redis, worker: Start, number: signal.Signals
) -> None:
    supervisor = worker(**SMALL_BATCHES)
    (child,) = until(lambda: children(supervisor), what="the child")
    drain_partly(redis)
    if number == signal.SIGKILL:
        os.kill(supervisor.pid, signal.SIGKILL)
    child.send_signal(number)
    assert alarms(brief) == []  # a claim has not passed
    (alarm,) = until(lambda: alarms(brief), what="the alarm")
    assert alarm.startswith("PLAYER:1:0: ")
    assert waiting(redis, PLAYER) > 0


def test_worker_that_cannot_reach_redis_raises_an_alarm(brief: Settings, redis: Redis, worker: Start) -> None:
    with Proxy(brief.redis_url.removeprefix("unix://").partition("?")[0]) as proxy:
        behind = {"LEVELQ_REDIS_URL": f"redis://127.0.0.1:{proxy.port}/0", "LEVELQ_RQ_URL": brief.redis_url}
        worker(**SMALL_BATCHES, **behind)
        drain_partly(redis)
        proxy.lose("requests", "replies")
        until(lambda: alarms(brief), what="the alarm")
        proxy.heal()
        until(lambda: not alarms(brief), what="the end of the alarm")


def test_specialization_without_a_worker_is_named(brief: Settings, redis: Redis, worker: Start) -> None:
    worker("-s", "COACH")
    backlog(redis, 3, PLAYER, age_seconds=0)
    (problem,) = look(brief).problems
    assert problem == "PLAYER:1:0: 3 commands waiting and no worker serves it: levelq worker -s PLAYER"


def test_status_exits_0_where_nothing_is_wrong_and_1_where_something_is(redis: Redis, levelq: Levelq) -> None:
    assert (levelq("status").code, levelq("status", "--json").code) == (0, 0)
    backlog(redis, 1, PLAYER, age_seconds=0)
    assert (levelq("status").code, levelq("status", "--json").code) == (1, 1)
    assert levelq("status", LEVELQ_REDIS_URL=f"redis://{NOWHERE}").code == 2


def test_suspended_workers_are_named_and_drain_nothing(
    brief: Settings, redis: Redis, own_engine: Engine, worker: Start
) -> None:
    worker()
    suspend(redis, 50)
    assert list(look(brief).problems) == [SUSPENDED]
    assert waiting(redis, PLAYER) == 50
    redis.delete("rq:suspended")
    until(lambda: not waiting(redis, PLAYER), what="the drain")


def test_suspended_burst_drains_nothing_and_reports_that(
    brief: Settings, redis: Redis, own_engine: Engine, start: Start
) -> None:
    backlog(redis, 3, PLAYER)
    redis.set("rq:suspended", 1)
    burst = start("worker", "--processes", "1", "--burst", **brief.environment())
    output, _ = burst.communicate(timeout=60)
    assert (burst.returncode, output) == (2, f"levelq: {SUSPENDED}\n")
    assert waiting(redis, PLAYER) == 3


def test_rq_keys_of_another_type_are_named_and_keep_no_command_from_being_applied(
    brief: Settings, redis: Redis, own_engine: Engine, worker: Start, start: Start
) -> None:
    worker("-s", "PLAYER", "-s", "COACH")
    keys = ["rq:queue:levelq.PLAYER", "rq:workers", "rq:workers:levelq.PLAYER", "rq:queues", "rq:wip:levelq.PLAYER"]
    redis.delete(*keys)
    for key in keys:
        redis.hset(key, "of", "another type")
    backlog(redis, 3, *PARTITIONS[::2], age_seconds=0)
    until(lambda: not any(waiting(redis, partition) for partition in PARTITIONS), what="the drains")
    problems = look(brief).problems
    assert all(any(line.startswith(f"{key}: expected a ") for line in problems) for key in keys), problems
    rebuild = start("rebuild", **brief.environment())
    output, _ = rebuild.communicate(timeout=60)
    assert (rebuild.returncode, output.count("removed  rq:")) == (0, len(keys)), output
    until(lambda: look(brief).workers == 1, what="the worker to work with RQ again")
    assert list(look(brief).problems) == []


def test_suspension_that_expires_is_named_with_the_seconds_left(settings: Settings, redis: Redis) -> None:
    redis.set("rq:suspended", 1, ex=90)
    (problem,) = look(settings).problems
    assert problem.startswith("workers are suspended by rq suspend for another ")


def test_worker_is_listed_again_after_redis_lost_everything_or_its_key_ran_out(
    brief: Settings, redis: Redis, worker: Start
) -> None:
    worker("-s", "PLAYER")
    (key,) = redis.smembers("rq:workers")
    for everything in (True, False):
        redis.delete(*(redis.keys("*") if everything else [key, "rq:workers", "rq:workers:levelq.PLAYER"]))
        until(lambda: look(brief).workers == 1, what="the worker to register again")
        assert redis.smembers("rq:workers") == redis.smembers("rq:workers:levelq.PLAYER") == {key}
        assert {b"birth", b"queues", b"pid", b"hostname", b"last_heartbeat"} <= set(redis.hkeys(key))
        assert 0 < redis.ttl(key) <= 62


def test_worker_is_listed_again_after_a_freeze_that_outlived_its_key(
    brief: Settings, redis: Redis, worker: Start
) -> None:
    (child,) = children(worker())
    (key,) = redis.smembers("rq:workers")
    child.suspend()
    redis.pexpire(key, 1)  # as after a freeze of two claims and a minute
    until(lambda: look(brief).workers == 0, what="its key to run out")
    child.resume()
    until(lambda: look(brief).workers == 1, what="the worker to register again")
    assert redis.hget(key, "queues") == b"levelq.PLAYER,levelq.COACH,levelq.INTERNSHIP"


def test_suspended_worker_registers_again_after_redis_lost_everything(
    brief: Settings, redis: Redis, worker: Start
) -> None:
    worker()
    suspend(redis, 1)
    redis.delete(*redis.keys("rq:worker*"))
    until(lambda: look(brief).workers == 1, what="the worker to register again")


def test_stopped_worker_is_named_with_its_host_until_it_goes_on_or_is_replaced(
    brief: Settings, redis: Redis, worker: Start
) -> None:
    def silent() -> list[str]:
        return [problem for problem in look(brief).problems if "is silent since" in problem]

    supervisor = worker()
    (child,) = until(lambda: children(supervisor), what="the child")
    child.send_signal(signal.SIGSTOP)
    (problem,) = until(silent, what="the silence")
    assert problem.startswith(f"worker {socket.gethostname()}:{child.pid} is silent since ")
    child.send_signal(signal.SIGCONT)
    until(lambda: not silent(), what="the next report")
    child.kill()
    (successor,) = until(lambda: set(children(supervisor)) - {child}, what="its successor")
    until(lambda: [found.pid for found in workers(brief).workers] == [successor.pid], what="its report alone")
    supervisor.terminate()
    until(lambda: not workers(brief).workers, what="the end of the report")
