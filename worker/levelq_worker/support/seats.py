"""Which workers of one supervisor go on draining where they are more than the cores can serve.

Cores that change hands between many drains find their caches cold each time: with four workers on two cores a command
took a tenth more processor time, with eight a fifth. So a worker rests where cores are never idle, unless it has one of
the seats, of which there is one for each core. Where cores are idle, because workers wait for servers on hosts of
their own, nobody rests.
"""

from __future__ import annotations

import fcntl
import os
import sys
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from .stop import Stop

LOOK_SECONDS = 0.05  # between two looks for a free seat: a lock with a time limit there is not
ENOUGH_SECONDS = 0.5  # of a drain, to judge by: the kernel counts what a core does in hundredths of a second
FULL, ROOMY = 0.05, 0.1  # the cores' idle share: with less, more workers do no good; with more, there is room for one


class Seats:
    """Made by the supervisor, shared by the workers it forks: one for each of these cores, or none for who is alone.

    A seat is a byte of a file that never was on a disk, and to have it is a lock on it: it comes free with its
    holder's end, whatever ends it. It is kept between drains, and does no harm to anybody then: a wake-up that
    is there for others would be taken by its idle holder first.
    """

    def __init__(self, cores: Collection[int] = ()) -> None:
        self._cores = cores
        self._file = os.memfd_create("levelq-seats") if cores else -1
        self._mine: int | None = None
        self._full = False
        self._since, self._before = 0.0, (0, 0)

    def watch(self) -> None:
        """A drain begins, or what is judged of it begins anew."""
        self._full = False
        if self._cores:
            self._since, self._before = time.monotonic(), idle_and_all(self._cores)

    def surplus(self) -> bool:
        """Whether this drain should end: the cores are never idle, and others have the seats."""
        if not self._cores or time.monotonic() - self._since < ENOUGH_SECONDS:
            return False
        before = self._before
        self.watch()
        idle, all_ = (now - then for now, then in zip(self._before, before, strict=True))
        if idle >= ROOMY * all_:
            self._leave()  # to one who rests
        self._full = idle < FULL * all_  # never where nobody counts
        return self._full and not self._take()

    def find(self, stop: Stop, seconds: float) -> None:
        """After a drain that was surplus, wait for a seat, at most for `seconds`: its holder may hang."""
        until = time.monotonic() + seconds
        while self._full and not self._take() and not stop.is_set() and time.monotonic() < until:
            time.sleep(LOOK_SECONDS)

    def _take(self) -> bool:
        for seat in range(len(self._cores)):
            if self._mine is None:
                with suppress(BlockingIOError, PermissionError):
                    fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, seat)
                    self._mine = seat
        return self._mine is not None

    def _leave(self) -> None:
        if self._mine is not None:
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, self._mine)
            self._mine = None


def seats_for(processes: int) -> Seats:
    """Seats for so many workers, if they are more than the cores they may run on and the kernel tells of those."""
    cores = os.sched_getaffinity(0) if sys.platform == "linux" and hasattr(os, "memfd_create") else ()
    return Seats(cores if len(cores) < processes else ())


def idle_and_all(cores: Collection[int]) -> tuple[int, int]:
    """For how many ticks these cores together had nothing to do, or waited for a disk; and how many there were.

    Of each core's line in /proc/stat, says proc(5): user, nice, system, idle, iowait, irq, softirq, steal. In some
    containers it is empty or counts other cores, and then both are zero.
    """
    wanted = {f"cpu{core}" for core in cores}
    try:
        lines = [line.split() for line in Path("/proc/stat").read_text().splitlines()]
    except OSError:
        return 0, 0
    ticks = [[int(number) for number in numbers[:8]] for name, *numbers in lines if name in wanted]
    return sum(core[3] + core[4] for core in ticks), sum(map(sum, ticks))
