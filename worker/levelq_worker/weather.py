"""Infrastructure failures of one process: wait with growing delay, and say so once, not at every attempt."""

from __future__ import annotations

import logging
import random
import threading

log = logging.getLogger("levelq")

FIRST_SECONDS, MOST_SECONDS = 0.1, 5.0


class Weather:
    """Counts failures in a row across the drains of a process."""

    def __init__(self, stop: threading.Event, *, most_seconds: float = MOST_SECONDS) -> None:
        self._stop = stop
        self._most = most_seconds
        self._failures = 0

    @property
    def bad(self) -> bool:
        """Whether the last attempt failed."""
        return self._failures > 0

    def failed(self, what: str, *, unexpected: bool = False) -> None:
        """Note a failure and wait, with jitter, longer each time; returns at once when asked to stop."""
        if not self._failures:
            log.warning("waiting: %s", what, exc_info=unexpected)
        self._failures += 1
        delay = min(self._most, FIRST_SECONDS * 2.0 ** min(self._failures - 1, 16))
        self._stop.wait(delay * random.uniform(0.5, 1.0))  # noqa: S311 - jitter

    def passed(self) -> None:
        """Note a success."""
        if self._failures:
            log.warning("working again after %d failed attempts", self._failures)
        self._failures = 0
