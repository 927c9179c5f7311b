"""The worker processes that the demo and the load test start."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Self

import psutil

from levelq_core.errors import ConfigurationError
from levelq_core.settings import Settings
from levelq_worker.process.fork import with_parent

START_SECONDS, STOP_SECONDS = 60.0, 10.0


class WorkerPool:
    """`levelq worker --processes N` as an operator starts it: a supervisor and its workers."""

    def __init__(self, processes: int, settings: Settings, log: Path) -> None:
        self.processes = processes
        self._settings = settings
        self._log = log
        self._supervisor: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the supervisor; its workers follow."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("LEVELQ_")}
        with self._log.open("ab") as errors:
            self._supervisor = subprocess.Popen(  # noqa: S603 - levelq's own program and arguments
                [sys.executable, "-m", "levelq", "worker", "--processes", str(self.processes)],
                env=inherited | self._settings.environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,  # the terminal belongs to the screen
                stderr=errors,
                start_new_session=True,  # Ctrl-C reaches only the parent, which stops its processes in order
                preexec_fn=with_parent(signal.SIGTERM),  # noqa: PLW1509 - one system call
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._supervisor is None:
            return
        workers = self.workers()
        self._supervisor.terminate()
        try:
            self._supervisor.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._supervisor.kill()
            self._supervisor.wait()
        for worker in psutil.wait_procs(workers, timeout=STOP_SECONDS)[1]:
            worker.kill()

    def workers(self) -> list[psutil.Process]:
        """The worker processes that live now."""
        found: list[psutil.Process] = []
        if self._supervisor is not None and self._supervisor.poll() is None:
            for child in psutil.Process(self._supervisor.pid).children():
                with suppress(psutil.NoSuchProcess):
                    if child.status() != psutil.STATUS_ZOMBIE:
                        found.append(child)
        return found

    def memory(self) -> dict[int, int]:
        """Resident bytes by process id of the worker."""
        sizes = {}
        for worker in self.workers():
            with suppress(psutil.NoSuchProcess):
                sizes[worker.pid] = worker.memory_info().rss
        return sizes

    def busiest(self) -> psutil.Process:
        """The worker that has used the most CPU time."""
        return max(self.workers(), key=lambda worker: sum(worker.cpu_times()[:2]))

    def check(self) -> None:
        """Raise ConfigurationError with the end of the log if the supervisor has ended."""
        if self._supervisor is not None and self._supervisor.poll() is not None:
            raise ConfigurationError(f"levelq worker ended; {last_lines(self._log)}")


def last_lines(log: Path) -> str:
    """The end of a log, on one line."""
    tail = log.read_text(errors="replace").splitlines()[-3:]
    return f"its log ends with: {' | '.join(tail)}" if tail else "its log is empty"
