"""A deep backlog: worked off fairly, and after the death of every worker as if nothing had been."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil
import pytest
from redis import Redis
from sqlalchemy import Engine, text

from levelq_core import LevelUp, Settings
from levelq_core.keys import Partition
from levelq_core.lanes.client import Lanes
from levelq_core.operations.verify import Options, Recorder, verify
from levelq_producer import Producer
from tests.support.fixtures.processes import Started, children
from tests.support.fixtures.recoveries import note
from tests.support.fixtures.waiting import until

PLAYER = Partition("PLAYER")
LANES, DEEP = 10_000, 100_000
HOT = LANES + 1


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"claim_seconds": 2.0, "sweep_seconds": 0.2, "redis_seconds": 1.0})


def send(settings: Settings, users: Iterable[int], history: Path) -> None:
    """One command for each of these users, in their order, while no worker serves them."""
    commands = [LevelUp(user_id=user, specialization="PLAYER", xp_gained=1) for user in users]
    with Producer(settings) as producer, Recorder(history) as recorder:
        recorder.sent(commands, [handle.error for handle in producer.send_many(commands)])


def decided(engine: Engine) -> int:
    with engine.connect() as connection:
        return int(connection.execute(text("SELECT count(*) FROM levelq_ledger")).scalar_one())


def test_ten_thousand_lanes_beside_one_of_a_hundred_thousand_commands_each_have_their_turn(
    start: Callable[..., Started], settings: Settings, redis: Redis, own_engine: Engine, tmp_path: Path
) -> None:
    """The hot lane is first in line, and gets one batch's share before everybody else has had theirs.

    One worker, so that the order of claims is the order of the ledger whatever else the machine does.
    """
    send(settings, [HOT] * DEEP + list(range(1, LANES + 1)), tmp_path / "history.jsonl")
    worker = start("worker", "--processes", "1", "--burst")
    output, _ = worker.communicate(timeout=100)
    assert worker.returncode == 0, output
    with own_engine.connect() as connection:
        users = connection.execute(text("SELECT user_id FROM levelq_ledger ORDER BY id")).scalars().all()
    assert len(users) == DEEP + LANES
    turns = [n for n, user in enumerate(users, 1) if user != HOT]
    assert turns[-1] - LANES == settings.lane_commands
    assert turns[-1] <= 2 * sum(turns) / LANES


def test_all_workers_killed_with_a_hundred_thousand_waiting(
    start: Callable[..., Started], settings: Settings, redis: Redis, own_engine: Engine, tmp_path: Path
) -> None:
    history = tmp_path / "history.jsonl"
    send(settings, [user for _ in range(DEEP // 2_000) for user in range(1, 2_001)], history)
    worker = start("worker", "--processes", "2")
    until(lambda: decided(own_engine) > 0, what="the first batches")
    victims = [psutil.Process(worker.pid), *children(worker)]
    for victim in victims:
        victim.send_signal(signal.SIGKILL)
    psutil.wait_procs(victims, timeout=20)
    before, killed = decided(own_engine), time.monotonic()
    left = Lanes(redis, settings).status(PLAYER).waiting
    assert left > DEEP / 2
    start("worker", "--processes", "2")
    until(lambda: decided(own_engine) > before, 60, "the first commands after it")
    note("all workers killed with 100,000 waiting: the first command", recovered=time.monotonic() - killed)
    until(lambda: Lanes(redis, settings).status(PLAYER).waiting == 0, 90, "the backlog to be worked off")
    note("the same: the last command", recovered=time.monotonic() - killed)
    report = verify(own_engine, redis, settings, Options(history=(history,), at_rest=True))
    assert report.examples == []
    assert decided(own_engine) == DEEP
