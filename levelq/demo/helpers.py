"""The processes of the demo and of the load test: those that send, spoken to in JSON lines; the workers' supervisor."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import IO, Any, Self

import psutil

from levelq_core.errors import ConfigurationError
from levelq_core.settings import Settings
from levelq_worker.process.fork import with_parent

START_SECONDS, STOP_SECONDS = 60.0, 10.0


def environment(settings: Settings) -> dict[str, str]:
    """The caller's environment, but none of its LEVELQ_ variables: the demo is on its own servers."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LEVELQ_")}
    return kept | settings.environment()


def start(arguments: list[str], settings: Settings, log: Path, **options: Any) -> subprocess.Popen[str]:
    """Start a Python process; its errors go to `log`."""
    with log.open("ab") as errors:
        return subprocess.Popen(  # noqa: S603 - ourselves
            [sys.executable, *arguments],
            env=environment(settings),
            stderr=errors,
            text=True,
            start_new_session=True,  # Ctrl-C is the demo's to handle
            **options,
        )


class Helper:
    """A producer or the direct caller. It ends when this process does: its input ends then."""

    def __init__(
        self, module: str, task: dict[str, Any], settings: Settings, log: Path, package: str = __package__
    ) -> None:
        self.sent = 0
        self.counts: Counter[str] = Counter()
        self.result: dict[str, Any] | None = None
        self._log = log
        self._ready = threading.Event()
        self._done = threading.Event()
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._process = start(["-m", f"{package}.{module}"], settings, log, **pipes)
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        self._say(json.dumps(task))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None and not self.done:
            self._process.terminate()
        self._process.wait()
        self._listener.join()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()

    def await_ready(self) -> None:
        """Wait until it is prepared."""
        self._await(self._ready)

    @property
    def ready(self) -> bool:
        """Whether it waits for a word, or is done."""
        return self._ready.is_set()

    def go(self, word: str = "go") -> None:
        """Let it begin, and go on; the direct caller and a load test's sender end at the second word."""
        self._ready.clear()
        self._say(word)

    @property
    def done(self) -> bool:
        """Whether it has told its result, or died; `await_result` tells which."""
        return self._done.is_set()

    def await_result(self) -> dict[str, Any]:
        """What it has to report. Raises ConfigurationError with the end of its log if it died instead."""
        self._await(self._done)
        assert self.result is not None
        return self.result

    def _await(self, event: threading.Event) -> None:
        event.wait(START_SECONDS)
        if not event.is_set() or (self._done.is_set() and self.result is None):
            raise ConfigurationError(f"{self._log.stem} failed; {last_lines(self._log)}")

    def _say(self, line: str) -> None:
        pipe: IO[str] | None = self._process.stdin
        assert pipe is not None
        pipe.write(line + "\n")
        pipe.flush()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            message = json.loads(line)
            self.sent += message.get("sent", 0)
            self.counts.update(message.get("counts", {}))
            self.result = message.get("done", self.result)
            if "ready" in message:
                self._ready.set()
        self._ready.set()
        self._done.set()


class WorkerPool:
    """`levelq worker --processes N` as an operator starts it: a supervisor and its workers."""

    def __init__(self, processes: int, settings: Settings, log: Path) -> None:
        self.processes = processes
        self.peak_bytes = 0
        self._settings = settings
        self._log = log
        self._supervisor: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start the supervisor."""
        self._supervisor = start(
            ["-m", "levelq", "worker", "--processes", str(self.processes)],
            self._settings,
            self._log,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # the terminal belongs to the demo's screen
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
        if self._supervisor is None or self._supervisor.poll() is not None:
            return []
        found = []
        for child in psutil.Process(self._supervisor.pid).children():
            try:
                if child.status() != psutil.STATUS_ZOMBIE:
                    found.append(child)
            except psutil.NoSuchProcess:
                continue
        return found

    def memory(self) -> dict[int, int]:
        """Resident bytes by worker, and the peak noted."""
        sizes = {}
        for worker in self.workers():
            try:
                sizes[worker.pid] = worker.memory_info().rss
            except psutil.NoSuchProcess:
                continue
        self.peak_bytes = max([self.peak_bytes, *sizes.values()])
        return sizes

    def check(self) -> None:
        """Raise ConfigurationError with the end of the log if the supervisor is gone."""
        if self._supervisor is not None and self._supervisor.poll() is not None:
            raise ConfigurationError(f"levelq worker ended; {last_lines(self._log)}")

    def busiest(self) -> psutil.Process:
        """The worker that has worked most."""
        return max(self.workers(), key=lambda worker: sum(worker.cpu_times()[:2]))


def last_lines(log: Path) -> str:
    """The end of a log, on one line."""
    tail = log.read_text(errors="replace").splitlines()[-3:]
    return f"its log ends with: {' | '.join(tail)}" if tail else "its log is empty"
