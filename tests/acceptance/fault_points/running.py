"""The processes of a scenario as the test holds them: started, spoken to, awaited, ended with it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, Self

import psutil

from levelq_core import Command
from tests.acceptance.fault_points import processes
from tests.support.fixtures.waiting import until

WAIT_SECONDS = 120.0  # for something that another process does, at most: claims of a second make slow work slower

context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload([processes.__name__])


# multiprocessing can read a child's exit code once, and reads those of all children whenever one is started:
# two threads that do so at the same time, and one of them finds nothing and reports 255.
_one_at_a_time = threading.Lock()


class Process:
    """One process; its output goes into `log`."""

    def __init__(self, target: Callable[..., None], log: Path, *arguments: Any) -> None:
        self._process = context.Process(target=target, args=(log, *arguments), daemon=True)
        with _one_at_a_time:
            self._process.start()
        assert self._process.pid is not None
        self._pid = self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._code(0) is None:
            self.signal(signal.SIGKILL)
            self._code(WAIT_SECONDS)

    def _code(self, seconds: float) -> int | None:
        """Its exit code, if it ends in time."""
        wait([self._process.sentinel], seconds)
        with _one_at_a_time:
            return self._process.exitcode

    def signal(self, how: signal.Signals) -> None:
        """Send it a signal."""
        os.kill(self._pid, how)

    def stopped(self) -> bool:
        """Whether it is stopped by a signal."""
        return psutil.Process(self._pid).status() == psutil.STATUS_STOPPED

    def ended(self) -> int:
        """Wait for its end; its exit code, negative for the signal that killed it."""
        code = self._code(WAIT_SECONDS)
        if code is None:
            self.signal(signal.SIGUSR1)  # where it stands goes into its log
            raise AssertionError(f"it is still there, and {self._code(1.0)} after a second more")
        return code

    def there(self) -> bool:
        """Whether it has not ended."""
        return self._code(0) is None

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
    """The test's end of the connection to a hook."""

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
        """Whether the victim sent something."""
        return self._end.poll()

    def passed(self) -> float:
        """Wait for the victim's report that it passes the point; returns the time of it."""
        assert self._end.poll(WAIT_SECONDS), "the victim did not pass the point"
        when: float = self._end.recv()
        return when


def lapse(since: float, seconds: float) -> None:
    """Wait until `seconds` have gone by since a moment of time.time()."""
    until(lambda: time.time() >= since + seconds, seconds + WAIT_SECONDS)
