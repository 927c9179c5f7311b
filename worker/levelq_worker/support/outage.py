"""Outages of Redis and PostgreSQL: wait with growing delay, and log each cause once, not at every attempt.

While an outage lasts, an alert in Redis shows its last cause to `levelq status`.
"""

from __future__ import annotations

import logging
import random

from redis import Redis
from redis.exceptions import RedisError

from levelq_core.database.sqlstate import driver_error, in_words
from levelq_core.lanes.worker_alerts import WorkerAlerts
from levelq_core.log_events import log_event
from levelq_core.settings import Settings

from .backoff import Backoff
from .stop import Stop
from .worker_name import worker_name

FIRST_SECONDS, MOST_SECONDS = 0.1, 5.0
MOST_LOGGED = 5  # causes of one outage that are logged: a starting server gives several, a flapping one many


class Outage:
    """Counts failures in a row across the drains of a process."""

    def __init__(self, stop: Stop, *, most_seconds: float = MOST_SECONDS, notices: WorkerAlerts | None = None) -> None:
        self._stop = stop
        self._backoff = Backoff(FIRST_SECONDS, most_seconds)
        self._notices = notices
        self._logged: set[str] = set()

    @property
    def bad(self) -> bool:
        """Whether the last attempt failed."""
        return self._backoff.failures > 0

    def failed(self, what: str, *, unexpected: bool = False) -> None:
        """Note a failure and wait, with jitter, longer each time; returns at once when asked to stop."""
        if what not in self._logged and len(self._logged) < MOST_LOGGED:
            log_event(logging.WARNING, "outage", "waiting: %(error)s", error=what, exc_info=unexpected)
            self._logged.add(what)
        if self._notices is not None:
            self._notices.post(what)
        self._stop.wait(self._backoff.next_delay() * random.uniform(0.5, 1.0))  # noqa: S311 - jitter

    def passed(self) -> None:
        """Note a success."""
        if self.bad:
            what, failures = "working again after %(attempts)d failed attempts", self._backoff.failures
            log_event(logging.WARNING, "outage_over", what, attempts=failures)
            self.end()
        self._backoff.reset()
        self._logged.clear()

    def end(self) -> None:
        """Withdraw the alert: the outage has passed, or this process ends."""
        if self.bad and self._notices is not None:
            self._notices.withdraw()


def describe(error: Exception) -> str:
    """An error in one line, with the server that raised it."""
    server = "PostgreSQL: " if driver_error(error) is not error else "Redis: " if isinstance(error, RedisError) else ""
    return server + in_words(error)


def alerts_of(redis: Redis, settings: Settings, thread: str = "") -> WorkerAlerts:
    """The alert of this process or of one of its threads. It outlasts the longest attempt and the wait after it."""
    worker = f"{worker_name()} {thread}".rstrip()
    return WorkerAlerts(redis, settings.keys, worker, 2 * settings.claim_seconds + 2 * MOST_SECONDS)
