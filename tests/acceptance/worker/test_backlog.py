"""A deep backlog: worked off fairly, and after the death of every worker as if nothing had been."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil
import pytest

from levelq_core import Settings
from levelq_core.operations.verify import Options, Recorder, verify
from tests.support.fixtures.processes import Started, children
from tests.support.fixtures.recoveries import note
from tests.support.fixtures.waiting import until
from tests.support.system import System, up

LANES, DEEP = 10_000, 100_000
HOT = LANES + 1


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"claim_seconds": 2.0, "sweep_seconds": 0.2, "redis_seconds": 1.0})


def send(system: System, users: Iterable[int], history: Path) -> None:
    """One command for each of these users, in their order, while no worker serves them."""
    commands = [up(user) for user in users]
    with Recorder(history) as recorder:
        recorder.sent(commands, [handle.error for handle in system.producer.send_many(commands)])


def test_ten_thousand_lanes_beside_one_of_a_hundred_thousand_commands_each_have_their_turn(
    start: Callable[..., Started], system: System, tmp_path: Path
) -> None:
    """The hot lane is first in line, and gets one batch's share before every other lane has had its share.

    One worker, so that the order of claims is the order of the ledger whatever else the machine does.
    """
    send(system, [HOT] * DEEP + list(range(1, LANES + 1)), tmp_path / "history.jsonl")
    worker = start("worker", "--processes", "1", "--burst")
    output, _ = worker.communicate(timeout=100)
    assert worker.returncode == 0, output
    users = [user for (user,) in system.rows("SELECT user_id FROM levelq_ledger ORDER BY id")]
    assert len(users) == DEEP + LANES
    turns = [n for n, user in enumerate(users, 1) if user != HOT]
    assert turns[-1] - LANES == system.settings.lane_commands
    assert turns[-1] <= 2 * sum(turns) / LANES


def test_all_workers_killed_with_a_hundred_thousand_waiting(
    start: Callable[..., Started], system: System, tmp_path: Path
) -> None:
    history = tmp_path / "history.jsonl"
    send(system, [user for _ in range(DEEP // 2_000) for user in range(1, 2_001)], history)
    worker = start("worker", "--processes", "2")
    until(lambda: system.applied() > 0, what="the first batches")
    victims = [psutil.Process(worker.pid), *children(worker)]
    for victim in victims:
        victim.send_signal(signal.SIGKILL)
    psutil.wait_procs(victims, timeout=20)
    before, killed = system.applied(), time.monotonic()
    left = system.status().waiting
    assert left > DEEP / 2
    start("worker", "--processes", "2")
    until(lambda: system.applied() > before, 60, "the first commands after it")
    note("all workers killed with 100,000 waiting: the first command", recovered=time.monotonic() - killed)
    until(lambda: system.status().waiting == 0, 90, "the backlog to be worked off")
    note("the same: the last command", recovered=time.monotonic() - killed)
    report = verify(system.engine, system.redis, system.settings, Options(history=(history,), at_rest=True))
    assert report.examples == []
    assert system.applied() == DEEP
