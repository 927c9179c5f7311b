"""How a run ends: what stop signals do, and what becomes of its folder."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Self

from levelq.server_account import make_temporary_folder
from levelq_core.errors import ConfigurationError
from levelq_worker.process.startup import hand_over_unblocked, stop_signals


class Interrupts:
    """Turns the first stop signal into KeyboardInterrupt, and ignores later ones: they must not interrupt the clean-up.

    While `reporting` is set the first one only sets `requested`, so that the run can end with a report.
    """

    def __init__(self) -> None:
        self.requested = False
        self.reporting = False

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._interrupt) for number in stop_signals()}
        hand_over_unblocked()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _interrupt(self, *_: object) -> None:
        if self.reporting and not self.requested:
            self.requested = True
            return
        for number in self._before:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt


def interruptible(what: str, run: Callable[[Interrupts], int]) -> int:
    """The exit code of a run, 130 if a stop signal ended it at once."""
    with Interrupts() as interrupts:
        try:
            return run(interrupts)
        except KeyboardInterrupt:
            # Not by rich: its buffer may hold what it was about to print.
            print(f"interrupted: all processes and servers of the {what} are stopped", flush=True)  # noqa: T201
            return 130


@dataclass
class RunFolder:
    """The folder for data, logs and recorded sends of a run. Set `kept` to keep a temporary one after a failure."""

    path: Path
    kept: bool


@contextmanager
def run_folder(prefix: str, given: Path | None, *, servers: bool) -> Iterator[RunFolder]:
    """The given folder, made if absent, or a temporary one. `servers`: PostgreSQL's account must reach it."""
    if given is None:
        folder = RunFolder(make_temporary_folder(prefix) if servers else Path(mkdtemp(prefix=prefix)), kept=False)
    else:
        folder = RunFolder(given.resolve(), kept=True)
        folder.path.mkdir(parents=True, exist_ok=True)
    try:
        yield folder
    finally:
        if not folder.kept:
            shutil.rmtree(folder.path, ignore_errors=True)


def require_empty(option: str, folder: Path | None) -> None:
    """Raise ConfigurationError naming the option if the folder holds anything: a run judges only what it did itself."""
    if folder is not None and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigurationError(f"{option}: expected an empty folder or a new one, got {str(folder)!r}")
