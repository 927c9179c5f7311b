"""The supervisor: keeps N worker processes alive, passes signals on, waits for them at the end."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing.context import ForkProcess

from levelq_core.lanes.client import Lanes
from levelq_core.redis_client.pool import connect
from levelq_core.settings import Settings
from levelq_worker.support.backoff import Backoff
from levelq_worker.support.parked_lanes import burst_lines
from levelq_worker.support.partition_directory import partitions
from levelq_worker.support.preflight import preflight

from . import startup
from . import worker_main as child
from .fork import SAYS_WHERE, forked, reap_orphans

log = logging.getLogger("levelq")

NAME = "levelq-worker"  # of a child's process, which a health check may look for
LAST_WORDS_SECONDS = 1.0  # of a child that must be killed
LEAST_STOP_SECONDS = 5.0  # what an interpreter on a busy machine may need to end, however short the claims


def supervise(settings: Settings, processes: int, specializations: Sequence[str], burst: bool) -> int:
    """Run `processes` workers until SIGTERM, SIGINT or SIGHUP, or with `burst` until nothing is due.

    Returns an exit code: 0 after a clean stop or a finished burst, 1 if a child had to be killed.
    Raises ConfigurationError, before anything is started, for what cannot work.
    """
    preflight(settings)
    warn_of_too_many(processes)
    startup.hand_over()
    code = Supervisor(settings, processes, specializations, burst).run()
    if burst and code == 0:
        print(_left(settings, specializations))  # noqa: T201 - the command's result
    return code


def warn_of_too_many(processes: int) -> None:
    """Log a warning if there are more workers than cores that this process may use."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or processes
    if processes > cores:
        what = "%d worker processes on %d cores: more than one per core helps only where the servers are far away"
        log.warning(f"{what} (LEVELQ_PROCESSES)", processes, cores)


class Supervisor:
    """The children and what became of them."""

    def __init__(self, settings: Settings, processes: int, specializations: Sequence[str], burst: bool) -> None:
        self._settings = settings
        to_say = multiprocessing.get_context("fork").Semaphore()
        self._run = partial(child.run, settings, specializations, to_say, burst=burst)
        self._burst = burst
        self._slots = [Slot(settings.claim_seconds) for _ in range(processes)]
        self._stop_by: float | None = None
        self._signals = {signal.SIGCHLD, *startup.stop_signals()}

    def run(self) -> int:
        """Start, watch and restart the children; returns the exit code."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, self._signals)
        try:
            return self._watch()
        finally:
            for slot in self._slots:
                slot.kill()
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _watch(self) -> int:
        killed = False
        while True:
            for slot in self._slots:
                self._tend(slot)
            reap_orphans({slot.process.pid for slot in self._slots if slot.process is not None})
            if all(slot.process is None and slot.done for slot in self._slots):
                worst = max(slot.code for slot in self._slots)
                return 1 if killed else worst if worst == child.EXIT_MISCONFIGURED else 0
            received = signal.sigtimedwait(self._signals, self._patience())
            if received is not None and received.si_signo != signal.SIGCHLD:
                self._stop()
            if self._stop_by is not None and time.monotonic() > self._stop_by:
                killed |= self._end()

    def _tend(self, slot: Slot) -> None:
        """Note a child's end; start it again unless it is done."""
        if slot.process is not None and slot.process.exitcode is not None:
            slot.ended(finished=self._stop_by is not None or (self._burst and slot.process.exitcode == 0))
            if slot.code == child.EXIT_MISCONFIGURED:
                self._stop()
        if self._stop_by is not None and slot.process is None:
            slot.done = True
        if slot.process is None and not slot.done and time.monotonic() >= slot.start_at:
            slot.start(self._run)

    def _stop(self) -> None:
        """Pass the signal on. A worker needs at most a transaction to stop, and that is shorter than a claim."""
        if self._stop_by is None:
            self._stop_by = time.monotonic() + self._stop_seconds
        for slot in self._slots:
            if slot.process is not None:
                slot.process.terminate()

    def _end(self) -> bool:
        """End the children that did not end when they were asked to; whether there were any."""
        late = [slot for slot in self._slots if slot.alive]
        for slot in late:
            log.warning(
                "a worker did not end within %.0f s of being asked to: killed; where it stood:", self._stop_seconds
            )
            slot.dump_stacks()
        until = time.monotonic() + LAST_WORDS_SECONDS
        for slot in late:
            slot.kill(until - time.monotonic())
        return bool(late)

    @property
    def _stop_seconds(self) -> float:
        return max(self._settings.claim_seconds, LEAST_STOP_SECONDS)

    def _patience(self) -> float:
        """How long to wait for a signal: until the next start or the deadline of a stop."""
        now = time.monotonic()
        times = [slot.start_at for slot in self._slots if slot.process is None and not slot.done]
        times += [] if self._stop_by is None else [self._stop_by]
        return max(0.0, min(times, default=now + 60.0) - now)


class Slot:
    """One place for a child, filled again at most half a claim after it came free."""

    def __init__(self, claim_seconds: float) -> None:
        self.process: ForkProcess | None = None
        self.done = False
        self.code = 0
        self.start_at = 0.0
        self._pace = Backoff(claim_seconds)
        self._started = 0.0

    def start(self, run: Callable[[], int]) -> None:
        """Start the child; it ends with us, whatever ends us."""
        self._started = time.monotonic()
        self.process = forked(run, NAME)

    def ended(self, *, finished: bool) -> None:
        """The child has ended: done, or to be started again after a growing delay."""
        assert self.process is not None and self.process.exitcode is not None
        self.code = self.process.exitcode
        pid, self.process = self.process.pid, None
        if finished or self.code == child.EXIT_MISCONFIGURED:
            self.done = True
            return
        delay = self._pace.after(time.monotonic() - self._started)
        self.start_at = time.monotonic() + delay
        log.warning("worker %d ended with %d; starting another in %.1f s", pid, self.code, delay)

    @property
    def alive(self) -> bool:
        """Whether there is a child that has not ended."""
        return self.process is not None and self.process.exitcode is None

    def dump_stacks(self) -> None:
        """Have the child say where it stands, and end."""
        assert self.process is not None and self.process.pid is not None
        os.kill(self.process.pid, SAYS_WHERE)

    def kill(self, patience_seconds: float = 0.0) -> None:
        """End the child, if it does not end so soon by itself."""
        if self.process is not None and self.process.exitcode is None:
            self.process.join(max(0.0, patience_seconds))
            self.process.kill()
            self.process.join()


def _left(settings: Settings, specializations: Sequence[str]) -> str:
    """What a finished burst leaves."""
    with connect(settings.redis_url, settings.redis_seconds) as redis:
        lanes = Lanes(redis, settings)
        return "\n".join(burst_lines(lanes, partitions(lanes, specializations)))
