"""RQ's own tools beside a live worker, and a worker that is stopped: what they tell, and what levelq tells."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from sqlalchemy import Engine

import levelq
from levelq import Producer, Settings
from tests.support.fixtures.keys import KEYS
from tests.support.fixtures.processes import Started, children
from tests.support.fixtures.waiting import until
from tests.support.system import PLAYER, up

Start = Callable[..., Started]


@pytest.fixture
def brief(settings: Settings) -> Settings:
    """Short claims, so that their end is seen within a second."""
    return settings.model_copy(update={"claim_seconds": 1.0, "sweep_seconds": 0.2, "redis_seconds": 0.5})


def rq(settings: Settings, *arguments: str) -> str:
    """The output of `rq ... --url URL`."""
    command = [str(Path(sys.executable).parent / "rq"), *arguments, "--url", settings.queue_url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout


def wake_ups(info: str) -> int:
    """How many jobs `rq info` shows in the queue of PLAYER."""
    queued = next(line for line in info.splitlines() if line.startswith("levelq.PLAYER "))
    assert queued.endswith(", 0 executing, 0 finished, 0 failed")
    return int(queued.partition(",")[0].split()[-1])


def test_rq_info_counts_wake_ups_and_rq_suspend_holds_workers_until_resume(
    brief: Settings, redis: Redis, own_engine: Engine, start: Start
) -> None:
    start("worker", "--processes", "1", **brief.environment())
    until(lambda: redis.scard("rq:workers:levelq.PLAYER") == 1, what="the worker")
    assert "1 workers, " in rq(brief, "info") and "idle levelq." in rq(brief, "info")
    rq(brief, "suspend")
    with Producer(brief) as producer:
        producer.send_many([up(7, reason="a match") for _ in range(30)])
        until(lambda: "suspended levelq." in rq(brief, "info"), what="the worker to see it")
        assert 1 <= until(lambda: wake_ups(rq(brief, "info")), what="a wake-up") < 30  # one serves many commands
        seen = levelq.status(brief)
        assert [problem.partition(":")[0] for problem in seen.problems] == ["workers are suspended by rq suspend"]
        assert (seen.workers, seen.partitions[-1].waiting) == (1, 30)
        explained = levelq.explain(brief, 7)
        assert explained.cause == "suspended" and "`rq resume --url $LEVELQ_REDIS_URL`" in explained.conclusion
        rq(brief, "resume")
        producer.wait_until_applied(7, "PLAYER", timeout=30)
    until(lambda: not redis.exists("rq:queue:levelq.PLAYER"), what="the wake-ups to be taken")
    assert levelq.explain(brief, 7).cause == "fine" and levelq.status(brief).problems == ()


def test_lane_that_a_stopped_worker_has_claimed_names_the_worker(
    brief: Settings, redis: Redis, own_engine: Engine, start: Start
) -> None:
    supervisor = start("worker", "--processes", "1", **brief.environment() | {"LEVELQ_BATCH_COMMANDS": "5"})
    (child,) = until(lambda: children(supervisor), what="the child")
    claimed = KEYS.of(PLAYER, "claimed")
    with Producer(brief) as producer:
        while True:  # until it is stopped with a claim in hand
            producer.send_many([up(user) for user in range(1, 400)])
            until(lambda: redis.zcard(claimed), what="a claim")
            child.send_signal(signal.SIGSTOP)
            if redis.zcard(claimed):
                break
            child.send_signal(signal.SIGCONT)
    first: Any = redis.zrange(claimed, 0, 0)[0]
    user = int(first)
    until(lambda: levelq.explain(brief, user).cause == "claim_expired", what="the claim to run out")
    (lane,) = levelq.explain(brief, user).lanes
    name = f"{socket.gethostname()}:{child.pid}"
    assert lane.lanes[0].claimed_by == name
    assert lane.conclusion.startswith(f"PLAYER: the claim of {name}")
    os.kill(child.pid, signal.SIGCONT)
