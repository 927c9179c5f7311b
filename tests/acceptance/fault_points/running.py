"""The processes of a scenario as the test holds them: started, spoken to, awaited, ended with it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import psutil

from levelq_core import Command
from tests.acceptance.fault_points import processes
from tests.fixtures.waiting import until

WAIT_SECONDS = 120.0  # for something that another process does, at most: claims of a second make slow work slower

context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload([processes.__name__])


class Process:
    """One process; its output goes into `log`."""

    def __init__(self, target: Callable[..., None], log: Path, *arguments: Any) -> None:
        self.process = context.Process(target=target, args=(log, *arguments), daemon=True)
        self.process.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.join()

    def signal(self, how: signal.Signals) -> None:
        """Send it a signal."""
        assert self.process.pid is not None
        os.kill(self.process.pid, how)

    def stopped(self) -> bool:
        """Whether it is stopped by a signal."""
        return psutil.Process(self.process.pid).status() == psutil.STATUS_STOPPED

    def ended(self) -> int:
        """Wait for its end; its exit code, negative for the signal that killed it."""
        self.process.join(WAIT_SECONDS)
        if self.process.exitcode is None:
            self.signal(signal.SIGUSR1)  # where it stands goes into its log
            self.process.join(1.0)
            raise AssertionError("it is still there")
        return self.process.exitcode

    def stop(self) -> None:
        """Ask it to end, and wait."""
        self.signal(signal.SIGTERM)
        assert (code := self.ended()) == 0, f"it ended with {code}"


class Application(Process):
    """A process that sends the rounds it is given."""

    def __init__(self, log: Path, *arguments: Any) -> None:
        self._rounds, theirs = context.Pipe()
        self._sending = False
        super().__init__(processes.application, log, *arguments, theirs)
        theirs.close()

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        self._rounds.close()

    def begin(self, commands: Sequence[Command]) -> None:
        """Give it a round."""
        self._rounds.send(commands)
        self._sending = True

    def done(self) -> bool:
        """Whether all of its round is known to be queued."""
        return not self._sending or self._rounds.poll()

    def finish(self) -> None:
        """Wait until it is."""
        if self._sending:
            assert self._rounds.poll(WAIT_SECONDS), "it is still sending"
            self._rounds.recv()
            self._sending = False

    def stop(self) -> None:
        """Nothing more comes."""
        self._rounds.send(None)
        assert (code := self.ended()) == 0, f"it ended with {code}"


class Wire:
    """The test's end of what is said between it and a hook."""

    def __init__(self) -> None:
        self._end, self.far_end = context.Pipe()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end.close()
        self.far_end.close()

    def arm(self) -> None:
        """The next passage of the hook's point is the one."""
        self._end.send("now")

    def go_on(self) -> None:
        """What it waits for there is done."""
        self._end.send("go on")

    def heard(self) -> bool:
        """Whether the victim said something."""
        return self._end.poll()

    def passed(self) -> float:
        """When the victim said that it passes the point; waits for it."""
        assert self._end.poll(WAIT_SECONDS), "the victim did not pass the point"
        when: float = self._end.recv()
        return when


def lapse(since: float, seconds: float) -> None:
    """Wait until `seconds` have gone by since a moment of time.time()."""
    until(lambda: time.time() >= since + seconds, seconds + WAIT_SECONDS)
