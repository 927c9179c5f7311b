"""Infrastructure failures of one process: wait with growing delay, and say so once, not at every attempt.

Each cause once in the log; for `levelq status`, the last one in a notice that is there as long as it lasts.
"""

from __future__ import annotations

import logging
import os
import random
import socket

from redis import Redis

from levelq_core.lanes.worker_alerts import WorkerAlerts
from levelq_core.settings import Settings

from .stop import Stop

log = logging.getLogger("levelq")

FIRST_SECONDS, MOST_SECONDS = 0.1, 5.0
MOST_SAID = 5  # causes of one spell of weather: a server that starts again gives several, one that flaps many


class Outage:
    """Counts failures in a row across the drains of a process."""

    def __init__(self, stop: Stop, *, most_seconds: float = MOST_SECONDS, notices: WorkerAlerts | None = None) -> None:
        self._stop = stop
        self._most = most_seconds
        self._notices = notices
        self._failures = 0
        self._said: set[str] = set()

    @property
    def bad(self) -> bool:
        """Whether the last attempt failed."""
        return self._failures > 0

    def failed(self, what: str, *, unexpected: bool = False) -> None:
        """Note a failure and wait, with jitter, longer each time; returns at once when asked to stop."""
        if what not in self._said and len(self._said) < MOST_SAID:
            log.warning("waiting: %s", what, exc_info=unexpected)
            self._said.add(what)
        self._failures += 1
        if self._notices is not None:
            self._notices.post(what)
        delay = min(self._most, FIRST_SECONDS * 2.0 ** min(self._failures - 1, 16))
        self._stop.wait(delay * random.uniform(0.5, 1.0))  # noqa: S311 - jitter

    def passed(self) -> None:
        """Note a success."""
        if self._failures:
            log.warning("working again after %d failed attempts", self._failures)
            self.end()
        self._failures = 0
        self._said.clear()

    def end(self) -> None:
        """Take the notice back: it has passed, or nobody waits here any more."""
        if self._failures and self._notices is not None:
            self._notices.withdraw()


def alerts_of(redis: Redis, settings: Settings, thread: str = "") -> WorkerAlerts:
    """This process's notice, or that of a thread of it. It outlasts the longest attempt and the wait after it."""
    worker = f"{socket.gethostname()}:{os.getpid()}"
    return WorkerAlerts(
        redis, settings.keys, f"{worker} {thread}".rstrip(), 2 * settings.claim_seconds + 2 * MOST_SECONDS
    )
