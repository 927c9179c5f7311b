"""Back-off: how long to wait before the next attempt at something that fails."""

from __future__ import annotations

FIRST_SECONDS, MOST_SECONDS = 0.2, 10.0  # before a process or a worker is started again
HEALTHY_SECONDS = 30.0  # an attempt that lasted longer counts as a success


class Backoff:
    """Delays that double with each failure in a row, from `first_seconds` to `most_seconds`."""

    def __init__(self, first_seconds: float, most_seconds: float) -> None:
        self.failures = 0
        self._first = first_seconds
        self._most = most_seconds

    def next_delay(self, lasted_seconds: float = 0.0) -> float:
        """Note that an attempt failed after `lasted_seconds`; the seconds to wait before the next one."""
        if lasted_seconds > HEALTHY_SECONDS:
            self.reset()
        delay = min(self._most, self._first * 2.0 ** min(self.failures, 16))
        self.failures += 1
        return delay

    def reset(self) -> None:
        """Note a success."""
        self.failures = 0


def restart_backoff(claim_seconds: float) -> Backoff:
    """For what is started again whenever it ends: at most half a claim later."""
    return Backoff(FIRST_SECONDS, min(MOST_SECONDS, claim_seconds / 2))
