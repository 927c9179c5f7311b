"""How a load test ends: at its own end, at a first Ctrl-C with a report, at a second one at once."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path
from tempfile import mkdtemp
from typing import Self

from levelq.server_account import make_temporary_folder
from levelq_worker.process.startup import hand_over_unblocked, stop_signals


class Interrupts:
    """Catches stop signals. While there is something to report a first one asks for the end; else they end it."""

    def __init__(self) -> None:
        self.asked = False
        self.reporting = False  # there is something to report
        self._signals = stop_signals()
        self._before: list[object] = []

    def __enter__(self) -> Self:
        self._before = [signal.signal(number, self._interrupt) for number in self._signals]
        hand_over_unblocked()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in zip(self._signals, self._before, strict=True):
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _interrupt(self, *_: object) -> None:
        if self.reporting and not self.asked:
            self.asked = True
            return
        for number in self._signals:
            signal.signal(number, signal.SIG_IGN)  # what follows, the cleaning up, is not to be interrupted
        raise KeyboardInterrupt


class Folder:
    """Where servers' data, logs and histories go. A temporary one is removed, unless something was wrong."""

    def __init__(self, given: Path | None, *, servers: bool) -> None:
        self._given = given
        self._servers = servers
        self._wrong = False

    def __enter__(self) -> Self:
        if self._given is None:
            make = make_temporary_folder if self._servers else mkdtemp
            self.path = Path(make(prefix="levelq-loadtest-"))
        else:
            self.path = self._given.resolve()
            self.path.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        if self._given is None and not self._wrong:
            shutil.rmtree(self.path, ignore_errors=True)

    def keep(self) -> None:
        """Have it stay, for whoever looks for the cause."""
        self._wrong = True

    @property
    def kept(self) -> bool:
        """Whether it will be there afterwards."""
        return self._given is not None or self._wrong
