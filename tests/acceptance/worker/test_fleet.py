"""Workers that come and go while traffic flows: scaled up and down, restarted in turn, some for one specialization."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Self

import pytest
from redis import Redis

from levelq_core import Settings
from levelq_core.keys import Partition
from levelq_core.lanes.wakeups import workers_of
from levelq_core.operations.verify import Options, Recorder, verify
from levelq_producer import Producer
from tests.support.fixtures.keys import KEYS
from tests.support.fixtures.processes import Started
from tests.support.fixtures.recoveries import note
from tests.support.fixtures.waiting import until
from tests.support.system import PLAYER, System, ended, up

Start = Callable[..., Started]
COACH = Partition("COACH")
USERS, BURST, PAUSE_SECONDS = 200, 20, 0.1
FLOOD = 2 * USERS  # at once: a tenth of a second's work for four

# From the making of an id, just before its send, until its transaction began; each user's order of effect.
_DELAYS = """
    SELECT extract(epoch FROM applied_at - uuid_extract_timestamp(command_id))::float8 FROM levelq_ledger
"""


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Long claims, for which a lane that a worker kept would be missing; small ones, so that a worker that is asked
    to stop mostly has a batch in hand and the next one claimed.
    """
    short = {"claim_seconds": 5.0, "sweep_seconds": 0.5, "redis_seconds": 2.0, "batch_lanes": 5}
    return settings.model_copy(update=short)


class Traffic(threading.Thread):
    """Commands at a steady rate until the block ends, recorded for the checker."""

    def __init__(self, settings: Settings, history: Path) -> None:
        super().__init__(name="traffic")
        self._settings, self._history = settings, history
        self._ended, self._flood = threading.Event(), threading.Event()
        self.sent = 0

    def run(self) -> None:
        chance = random.Random(5)
        with Producer(self._settings) as producer, Recorder(self._history) as recorder:
            while not self._ended.wait(PAUSE_SECONDS):
                number = FLOOD if self._flood.is_set() else BURST
                commands = [up(chance.randint(1, USERS)) for _ in range(number)]
                recorder.intend(commands)
                recorder.sent(commands, [handle.error for handle in producer.send_many(commands)])
                self.sent += number
                if number == FLOOD:
                    self._flood.clear()

    def flows(self) -> None:
        """Wait for a second's worth of it."""
        wanted = self.sent + BURST / PAUSE_SECONDS
        until(lambda: self.sent >= wanted, what="traffic")

    def floods(self) -> None:
        """Have every worker busy, now."""
        self._flood.set()
        until(lambda: not self._flood.is_set(), what="the flood")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.join()


class Fleet:
    """Supervisors with one worker each, as on hosts of their own."""

    def __init__(self, start: Start, redis: Redis) -> None:
        self._start, self._redis = start, redis
        self.busy: Callable[[], None] = lambda: None  # what is done just before one is asked to stop
        self._hosts: list[Started] = []

    def grow(self, size: int) -> None:
        """Start workers until this number is at work."""
        while len(self._hosts) < size:
            self._hosts.append(self._start("worker"))
        until(lambda: self._redis.scard("rq:workers") == size, what=f"{size} workers at work")

    def shrink(self, size: int) -> None:
        """Ask the oldest to stop, one at once after the other, until so few are left."""
        leaving, self._hosts = self._hosts[: len(self._hosts) - size], self._hosts[len(self._hosts) - size :]
        self.busy()
        for host in leaving:
            host.terminate()
        for host in leaving:
            assert ended(host) == (0, "")

    def restart(self) -> None:
        """Each in its turn: it stops, another replaces it, and only then the next."""
        size = len(self._hosts)
        for _ in range(size):
            self.shrink(size - 1)
            self.grow(size)


def test_workers_join_and_leave_during_traffic_and_no_command_waits_for_a_claim_to_expire(
    start: Start, system: System, tmp_path: Path
) -> None:
    history = tmp_path / "history.jsonl"
    fleet = Fleet(start, system.redis)
    fleet.grow(1)
    with Traffic(system.settings, history) as traffic:
        fleet.busy = traffic.floods
        traffic.flows()
        fleet.grow(4)
        traffic.flows()
        fleet.restart()
        traffic.flows()
        fleet.shrink(1)
        traffic.flows()
    until(lambda: system.status().waiting == 0, what="the last command")
    delays = sorted(delay for (delay,) in system.rows(_DELAYS))
    note("scaled 1, 4, 1 and restarted one by one: the longest delay", recovered=delays[-1])
    assert len(delays) == traffic.sent
    assert delays[-1] < system.settings.claim_seconds
    report = verify(system.engine, system.redis, system.settings, Options(history=(history,), at_rest=True))
    assert report.examples == []


def test_a_worker_for_coach_alone_and_one_for_all_work_side_by_side(start: Start, system: System) -> None:
    def send(*specializations: str, number: int = 50) -> None:
        commands = [up(1 + n % 20, 1, name) for name in specializations for n in range(number)]
        assert not any(handle.error for handle in system.producer.send_many(commands))

    def applied(specialization: str) -> int:
        statement = "SELECT count(*) FROM levelq_ledger WHERE specialization = :name AND status = 'applied'"
        return int(system.rows(statement, name=specialization)[0][0])

    def stop(host: Started) -> None:
        host.terminate()
        assert host.wait(20) == 0

    coach_only = start("worker", "--specialization", "COACH")
    until(lambda: system.redis.scard("rq:workers") == 1, what="the worker for COACH")
    send("PLAYER", "COACH")
    until(lambda: applied("COACH") == 50, what="COACH from the worker for it")
    assert applied("PLAYER") == 0
    everything = start("worker")
    until(lambda: applied("PLAYER") == 50, what="PLAYER from the worker for all")
    assert [len(workers_of(system.redis, KEYS.queue(name))) for name in ("COACH", "PLAYER")] == [2, 1]
    for _ in range(10):
        send("COACH", "PLAYER")
    until(lambda: applied("COACH") == applied("PLAYER") == 550, what="both, from both")
    stop(coach_only)
    send("COACH")
    until(lambda: applied("COACH") == 600, what="COACH from the worker for all")
    stop(everything)
    for partition in (PLAYER, COACH):
        status = system.status(partition)
        assert (status.waiting, status.claimed, status.drains) == (0, 0, 0)
