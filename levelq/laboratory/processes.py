"""Processes that the demo and the load test start: helpers that speak JSON lines, and `levelq worker`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import psutil

from levelq_core.errors import ConfigurationError
from levelq_core.settings import Settings
from levelq_worker.process.fork import with_parent

START_SECONDS, STOP_SECONDS = 60.0, 10.0


def start_python(arguments: list[str], settings: Settings, log: Path, **options: Any) -> subprocess.Popen[str]:
    """Start Python with these settings and none of the caller's LEVELQ_ variables; its errors go to `log`."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("LEVELQ_")}
    with log.open("ab") as errors:
        return subprocess.Popen(  # noqa: S603 - levelq's own program and arguments
            [sys.executable, *arguments],
            env=inherited | settings.environment(),
            stderr=errors,
            text=True,
            start_new_session=True,  # Ctrl-C reaches only the parent, which stops its processes in order
            **options,
        )


class Helper:
    """A module run as a process: it gets a task, reports `ready`, waits for words, reports `counts` and `done`.

    It ends when this process does, because its input ends then. The module uses `read_task`, `report`, `wait_for_word`
    and `set_at_words`.
    """

    def __init__(self, module: str, task: dict[str, Any], settings: Settings, log: Path) -> None:
        self.counts: Counter[str] = Counter()  # as it reported them last
        self.ready = threading.Event()  # set when it waits for its first word, and when it has ended
        self.done = threading.Event()  # set when it has ended; `result` tells how
        self._result: dict[str, Any] | None = None
        self._log = log
        self._process = start_python(["-m", module], settings, log, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        self.send(json.dumps(task))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None and not self.done.is_set():
            self._process.terminate()
        self._listener.join()
        assert self._process.stdin is not None and self._process.stdout is not None
        with suppress(BrokenPipeError):  # a word that it no longer read
            self._process.stdin.close()
        self._process.stdout.close()

    def await_ready(self) -> None:
        """Wait until it is prepared. Raises ConfigurationError if it died or takes longer than START_SECONDS."""
        self._await(self.ready)

    def send(self, word: str) -> None:
        """Let it begin, go on or stop, as its module defines."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended; `result` returns how
            self._process.stdin.write(word + "\n")
            self._process.stdin.flush()

    def result(self) -> dict[str, Any]:
        """Wait for its result. Raises ConfigurationError, with the end of its log, if it died instead."""
        self._await(self.done)
        assert self._result is not None
        return self._result

    def _await(self, event: threading.Event) -> None:
        event.wait(START_SECONDS)
        if not event.is_set() or (self.done.is_set() and self._result is None):
            raise ConfigurationError(f"{self._log.stem} failed; {last_lines(self._log)}")

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            message = json.loads(line)
            self.counts = Counter(message.get("counts", self.counts))
            self._result = message.get("done", self._result)
            if "ready" in message:
                self.ready.set()
        self._process.wait()
        self.done.set()
        self.ready.set()


def read_task() -> dict[str, Any]:
    """In a helper: its task."""
    task: dict[str, Any] = json.loads(sys.stdin.readline())
    return task


def report(**message: Any) -> None:
    """In a helper: report `counts` or `done`."""
    print(json.dumps(message), flush=True)  # noqa: T201 - the protocol


def wait_for_word() -> str:
    """In a helper: report `ready` and wait for the next word; empty if the parent has ended."""
    report(ready=True)
    return sys.stdin.readline().strip()


def set_at_words(**events: threading.Event) -> None:
    """In a helper: set the event that each further word names, and all of them when the parent ends."""

    def listen() -> None:
        for line in sys.stdin:
            events[line.strip()].set()
        for event in events.values():
            event.set()

    threading.Thread(target=listen, daemon=True).start()


class WorkerPool:
    """`levelq worker --processes N` as an operator starts it: a supervisor and its workers."""

    def __init__(self, processes: int, settings: Settings, log: Path) -> None:
        self.processes = processes
        self._settings = settings
        self._log = log
        self._supervisor: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start the supervisor; its workers follow."""
        self._supervisor = start_python(
            ["-m", "levelq", "worker", "--processes", str(self.processes)],
            self._settings,
            self._log,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # the terminal belongs to the screen
            preexec_fn=with_parent(signal.SIGTERM),
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
