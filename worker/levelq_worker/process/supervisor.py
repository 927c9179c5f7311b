"""The supervisor: keeps N worker processes alive, passes stop signals on, and waits for the workers at the end."""

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
from levelq_core.lanes.partition_directory import partitions
from levelq_core.log_events import log_event
from levelq_core.operations.parked_advice import burst_lines
from levelq_core.operations.readings.pauses import active_pauses, pause_lines
from levelq_core.redis_client.pool import connect
from levelq_core.settings import Settings
from levelq_core.untrusted_text import printable
from levelq_worker.metrics.host import HostMetrics
from levelq_worker.support.backoff import restart_backoff
from levelq_worker.support.preflight import preflight

from . import startup
from . import worker_main as child
from .fork import DUMP_STACKS, forked, reap_orphans

NAME = "levelq-worker"  # of a worker's process, which a health check may look for
METRICS_NAME = "levelq-metrics"  # of the process that serves their figures
DUMP_SECONDS = 1.0  # for an overdue worker to write its stacks
LEAST_STOP_SECONDS = 5.0  # what an interpreter on a busy machine may need to end, however short the claims


def supervise(settings: Settings, processes: int, specializations: Sequence[str], burst: bool) -> int:
    """Run `processes` workers until SIGTERM, SIGINT or SIGHUP, or with `burst` until nothing is due.

    Returns an exit code: 0 after a clean stop or a finished burst, 1 if a worker had to be killed.
    Raises ConfigurationError, before anything is started, for what cannot work.
    """
    metrics = HostMetrics.open(settings, processes)
    preflight(settings)
    warn_of_too_many(processes)
    startup.hand_over()
    code = Supervisor(settings, processes, specializations, burst, metrics).run()
    if burst and code == 0:
        with connect(settings.redis_url, settings.redis_seconds) as redis:
            lanes = Lanes(redis, settings)
            found = partitions(lanes, specializations)
            paused = list(pause_lines(active_pauses(lanes, found)))
            print("\n".join(map(printable, burst_lines(lanes, found, paused))))  # noqa: T201 - the result
    return code


def warn_of_too_many(processes: int) -> None:
    """Log a warning if there are more workers than cores that this process may use."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or processes
    if processes > cores:
        what = "%(processes)d worker processes on %(cores)d cores: more than one per core helps only "
        what += "where the servers are far away (LEVELQ_PROCESSES)"
        log_event(logging.WARNING, "too_many_processes", what, processes=processes, cores=cores)


class Supervisor:
    """The workers, and what became of them; with `metrics`, also the process that serves their figures."""

    def __init__(
        self,
        settings: Settings,
        processes: int,
        specializations: Sequence[str],
        burst: bool,
        metrics: HostMetrics | None = None,
    ) -> None:
        may_print = multiprocessing.get_context("fork").Semaphore()
        self._run = partial(child.run, settings, specializations, may_print, burst=burst)
        self._burst = burst
        self._metrics = metrics
        self._workers = [SupervisedWorker(settings.claim_seconds) for _ in range(processes)]
        self._exporter = SupervisedWorker(settings.claim_seconds, METRICS_NAME)
        self._stop_seconds = max(settings.claim_seconds, LEAST_STOP_SECONDS)
        self._stop_by: float | None = None
        self._signals = {signal.SIGCHLD, *startup.stop_signals()}

    def run(self) -> int:
        """Start, watch and restart the workers; returns the exit code."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, self._signals)
        try:
            return self._watch()
        finally:
            for worker in (*self._workers, self._exporter):
                worker.kill()
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _watch(self) -> int:
        killed = False
        while True:
            self._restart_exporter()
            for number, worker in enumerate(self._workers):
                self._reap_and_restart(number, worker)
            own = (*self._workers, self._exporter)
            reap_orphans({worker.process.pid for worker in own if worker.process is not None})
            if all(worker.process is None and worker.done for worker in self._workers):
                misconfigured = any(worker.exit_code == child.EXIT_MISCONFIGURED for worker in self._workers)
                return 1 if killed else child.EXIT_MISCONFIGURED if misconfigured else 0
            received = signal.sigtimedwait(self._signals, self._seconds_to_wait())
            if received is not None and received.si_signo != signal.SIGCHLD:
                self._stop()
            if self._stop_by is not None and time.monotonic() > self._stop_by:
                killed |= self._kill_overdue()

    def _restart_exporter(self) -> None:
        """Keep the process that serves the figures alive. It holds none of them, and may be killed at any moment."""
        exporter = self._exporter
        if exporter.process is not None and not exporter.alive:
            exporter.ended(finished=False)
        if self._metrics is not None and exporter.process is None and time.monotonic() >= exporter.start_at:
            exporter.start(self._metrics.serve)

    def _reap_and_restart(self, number: int, worker: SupervisedWorker) -> None:
        """Note a worker's end; start it again unless it is done."""
        if worker.process is not None and worker.process.exitcode is not None:
            if self._metrics is not None:
                self._metrics.ended(number)
            worker.ended(finished=self._stop_by is not None or (self._burst and worker.process.exitcode == 0))
            if worker.exit_code == child.EXIT_MISCONFIGURED:
                self._stop()
        if self._stop_by is not None and worker.process is None:
            worker.done = True
        if worker.process is None and not worker.done and time.monotonic() >= worker.start_at:
            if self._metrics is not None:
                self._metrics.began(number)
            worker.start(partial(self._work, number))

    def _work(self, number: int) -> int:
        """What a worker process runs."""
        if self._metrics is None:
            return self._run()
        self._metrics.close_port()  # a worker that outlives its supervisor must not keep it from the next one
        return self._run(figures=self._metrics.figures[number])

    def _stop(self) -> None:
        """Pass the signal on. A worker stops after its transaction at the latest, which is shorter than a claim."""
        if self._stop_by is None:
            self._stop_by = time.monotonic() + self._stop_seconds
        for worker in self._workers:
            if worker.process is not None:
                worker.process.terminate()

    def _kill_overdue(self) -> bool:
        """Kill the workers that did not stop in time, after they have written their stacks; whether there were any."""
        overdue = [worker for worker in self._workers if worker.alive]
        for worker in overdue:
            what = "a worker did not end within %(seconds).0f s of being asked to: killed; where it stood:"
            log_event(logging.WARNING, "worker_overdue", what, seconds=self._stop_seconds)
            worker.dump_stacks()
        until = time.monotonic() + DUMP_SECONDS
        for worker in overdue:
            worker.kill(until - time.monotonic())
        return bool(overdue)

    def _seconds_to_wait(self) -> float:
        """How long to wait for a signal: until the next start or the deadline of a stop."""
        now = time.monotonic()
        times = [worker.start_at for worker in self._workers if worker.process is None and not worker.done]
        times += [] if self._metrics is None or self._exporter.process is not None else [self._exporter.start_at]
        times += [] if self._stop_by is None else [self._stop_by]
        return max(0.0, min(times, default=now + 60.0) - now)


class SupervisedWorker:
    """One worker process, started again at most half a claim after it ends. `name`: see `forked`."""

    def __init__(self, claim_seconds: float, name: str = NAME) -> None:
        self._name = name
        self.process: ForkProcess | None = None
        self.done = False
        self.exit_code = 0
        self.start_at = 0.0
        self._backoff = restart_backoff(claim_seconds)
        self._started = 0.0

    def start(self, run: Callable[[], int]) -> None:
        """Start the process; it ends with this one."""
        self._started = time.monotonic()
        self.process = forked(run, self._name)

    def ended(self, *, finished: bool) -> None:
        """The process has ended: the worker is done, or to be started again after a growing delay."""
        assert self.process is not None and self.process.exitcode is not None
        self.exit_code = self.process.exitcode
        pid, self.process = self.process.pid, None
        if finished or self.exit_code == child.EXIT_MISCONFIGURED:
            self.done = True
            return
        delay = self._backoff.next_delay(time.monotonic() - self._started)
        self.start_at = time.monotonic() + delay
        what = "%(program)s %(pid)d ended with %(exit_code)d; starting another in %(seconds).1f s"
        fields = {"program": self._name.removeprefix("levelq-"), "pid": pid, "exit_code": self.exit_code}
        log_event(logging.WARNING, "process_ended", what, **fields, seconds=delay)

    @property
    def alive(self) -> bool:
        """Whether there is a process that has not ended."""
        return self.process is not None and self.process.exitcode is None

    def dump_stacks(self) -> None:
        """Have the process write the stacks of its threads, and end."""
        assert self.process is not None and self.process.pid is not None
        os.kill(self.process.pid, DUMP_STACKS)

    def kill(self, patience_seconds: float = 0.0) -> None:
        """Kill the process, unless it ends within `patience_seconds`."""
        if self.process is not None and self.process.exitcode is None:
            self.process.join(max(0.0, patience_seconds))
            self.process.kill()
            self.process.join()
