"""Who rests where workers are more than the cores can serve. Seats are between processes, so the workers are some."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from levelq_worker.process.fork import forked
from levelq_worker.support import seats
from levelq_worker.support.seats import Seats, idle_and_all, seats_for
from levelq_worker.support.stop import Stop

BUSY, BETWEEN, IDLE = 0.0, 0.07, 0.2  # the cores' idle share
NOT_COUNTED = 9.0
TICKS = os.sysconf("SC_CLK_TCK")


class Clock:
    """One core that is idle for a given share of the time."""

    def __init__(self) -> None:
        self.share = BUSY
        self._idle = self._all = 0

    def idle_and_all(self, cores: object) -> tuple[int, int]:
        if self.share != NOT_COUNTED:
            self._idle += round(100 * self.share)
            self._all += 100
        return self._idle, self._all


class Worker:
    """A worker of a supervisor that made these seats. It ends with `end`."""

    enough = 0.0  # seconds of a drain, to judge by
    patience = 3_600.0  # how long it rests at most

    def __init__(self, shared: Seats) -> None:
        self._seats = shared
        self._wire, self._inside = multiprocessing.Pipe()
        self._process = forked(self._serve, "seated")
        assert self._process.pid is not None
        self.pid = self._process.pid

    def _serve(self) -> int:
        clock = Clock()
        seats.idle_and_all, seats.ENOUGH_SECONDS = clock.idle_and_all, self.enough
        stop = Stop()
        signal.signal(signal.SIGTERM, lambda *_: stop.set())
        while True:
            asked = self._inside.recv()
            if asked is None:
                self._inside.send("rests")
                self._seats.find(stop, self.patience)
                self._inside.send("goes on")
            else:
                clock.share = asked
                self._seats.watch()
                self._inside.send(self._seats.surplus())

    def surplus(self, share: float) -> bool:
        """Whether its drain is, with the cores idle for this share of the time."""
        self._wire.send(share)
        return bool(self._wire.recv())

    def rest(self) -> None:
        """Have it look for a seat."""
        self._wire.send(None)
        assert self._wire.recv() == "rests"

    @property
    def rests(self) -> bool:
        """Whether it still looks, a few looks later."""
        return not self._wire.poll(4 * seats.LOOK_SECONDS)

    def goes_on(self) -> bool:
        """Wait until it does."""
        return self._wire.poll(10) and self._wire.recv() == "goes on"

    def end(self) -> None:
        self._process.kill()
        self._process.join()


@pytest.fixture
def workers() -> Iterator[Callable[[int, int], list[Worker]]]:
    """Makes so many workers on so many cores."""
    made: list[Worker] = []

    def make(count: int, cores: int) -> list[Worker]:
        shared = Seats(range(cores))
        made.extend(Worker(shared) for _ in range(count))
        return made

    yield make
    for worker in made:
        worker.end()


Make = Callable[[int, int], list[Worker]]


def seated_and_surplus(workers: Make) -> tuple[Worker, Worker]:
    """Two workers on one busy core: who has its seat, and who has none."""
    first, second = workers(2, 1)
    assert (first.surplus(BUSY), second.surplus(BUSY)) == (False, True)
    return first, second


def test_full_cores_have_one_drain_each(workers: Make) -> None:
    assert [worker.surplus(BUSY) for worker in workers(4, 2)] == [False, False, True, True]


def test_who_has_a_seat_keeps_it(workers: Make) -> None:
    first, second = workers(2, 1)
    for _ in range(3):
        assert (first.surplus(BUSY), second.surplus(BUSY)) == (False, True)


def test_where_cores_are_idle_a_seat_is_left_to_one_who_rests(workers: Make) -> None:
    first, second = seated_and_surplus(workers)
    second.rest()
    assert second.rests
    assert not first.surplus(BETWEEN)
    assert second.rests
    assert not first.surplus(IDLE)
    assert second.goes_on()
    assert (first.surplus(IDLE), first.surplus(BUSY)) == (False, True)


def test_a_worker_at_rest_goes_on_when_the_holder_of_a_seat_is_killed(workers: Make) -> None:
    first, second = seated_and_surplus(workers)
    second.rest()
    os.kill(first.pid, signal.SIGKILL)
    assert second.goes_on()
    assert not second.surplus(BUSY)


def test_a_worker_at_rest_stops_when_asked(workers: Make) -> None:
    _, second = seated_and_surplus(workers)
    second.rest()
    os.kill(second.pid, signal.SIGTERM)
    assert second.goes_on()


def test_a_holder_that_hangs_is_not_waited_for_longer_than_was_said(
    workers: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Worker, "patience", 0.2)
    first, second = seated_and_surplus(workers)
    os.kill(first.pid, signal.SIGSTOP)
    begun = time.monotonic()
    second.rest()
    assert second.goes_on()
    assert time.monotonic() - begun >= 0.2


def test_a_short_drain_is_not_judged(workers: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Worker, "enough", 60.0)
    first, second = workers(2, 1)
    assert (first.surplus(BUSY), second.surplus(BUSY)) == (False, False)
    second.rest()
    assert second.goes_on()


def test_one_who_is_alone_never_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seats, "ENOUGH_SECONDS", 0.0)
    alone = Seats()
    alone.watch()
    assert not alone.surplus()
    alone.find(Stop(), 3_600)


def test_there_are_seats_only_for_more_workers_than_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5})
    made: list[object] = []
    monkeypatch.setattr(seats, "Seats", made.append)
    seats_for(2)
    seats_for(3)
    assert made == [(), {3, 5}]


def test_where_nobody_counts_nobody_rests(workers: Make) -> None:
    _, second = seated_and_surplus(workers)
    assert not second.surplus(NOT_COUNTED)


@pytest.mark.parametrize("found", ["", "cpu  1 2 3 4 5 6 7 8 9 10\n", "cpu7 1 2 3 4 5 6 7 8 9 10\nintr 1 2\n", None])
def test_a_kernel_that_does_not_tell_of_these_cores(found: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(_: Path) -> str:
        if found is None:
            raise PermissionError
        return found

    monkeypatch.setattr(Path, "read_text", read)
    assert idle_and_all([0, 1]) == (0, 0)


def test_ticks_are_those_of_the_given_cores() -> None:
    before = psutil.cpu_times(percpu=True)
    found = [idle_and_all([core]) for core in range(len(before))]
    after = psutil.cpu_times(percpu=True)
    for least, (idle, all_), most in zip(before, found, after, strict=True):
        assert least.idle + least.iowait - 0.05 <= idle / TICKS <= most.idle + most.iowait + 0.05
        assert sum(least[:8]) - 0.05 <= all_ / TICKS <= sum(most[:8]) + 0.05
    idle, all_ = (sum(ticks) for ticks in zip(*found, strict=True))
    together = idle_and_all(range(len(before)))
    assert idle <= together[0]
    assert all_ <= together[1]
