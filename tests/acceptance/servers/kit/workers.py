"""Workers as an operator runs them: a supervisor, its children, and their log."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import psutil

from levelq_core import Settings


class Fleet(NamedTuple):
    """A supervisor and its workers. `inside`: the program and arguments that put them elsewhere."""

    settings: Settings
    processes: int = 1
    inside: Sequence[str] = ()
    environment: Mapping[str, str] = {}


class Workers:
    """`levelq worker`, its log in a file."""

    def __init__(self, fleet: Fleet, log: Path) -> None:
        self._log = log
        self._read = 0
        self._processes = fleet.processes
        command = [sys.executable, "-m", "levelq", "worker", "--processes", str(fleet.processes)]
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                [*fleet.inside, *command],
                env=os.environ | fleet.settings.environment() | dict(fleet.environment),
                stdout=out,
                stderr=out,
            )

    def at_work(self, listed: Collection[int | None]) -> bool:
        """Whether all worker processes are among these."""
        children = {child.pid for child in self.children()}
        return len(children) == self._processes and children <= set(listed)

    def children(self) -> list[psutil.Process]:
        """The worker processes under the supervisor."""
        return psutil.Process(self.process.pid).children()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to every worker process."""
        for child in self.children():
            child.send_signal(number)

    @property
    def log(self) -> str:
        """Their whole log."""
        return self._log.read_text(errors="replace")

    @property
    def news(self) -> str:
        """Their log since the last `mark`."""
        return self.log[self._read :]

    def mark(self) -> None:
        """Mark their whole log as read."""
        self._read = len(self.log)

    def stop(self) -> None:
        """Ask them to stop, and see that they do so cleanly."""
        self.process.terminate()
        assert self.process.wait(60) == 0

    def kill(self) -> None:
        """End what is left of them."""
        if self.process.poll() is None:
            for child in psutil.Process(self.process.pid).children(recursive=True):
                child.send_signal(signal.SIGKILL)
            self.process.kill()
            self.process.wait()
