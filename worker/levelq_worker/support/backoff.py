"""How long to wait before what has ended is begun again."""

from __future__ import annotations

FIRST_SECONDS, MOST_SECONDS = 0.2, 10.0  # doubling, at most half a claim
HEALTHY_SECONDS = 30.0  # what lived so long begins with a clean record


class Backoff:
    """Counts the failures of one thing that is begun again and again, at most half a claim after it ended."""

    def __init__(self, claim_seconds: float) -> None:
        self._most_seconds = min(MOST_SECONDS, claim_seconds / 2)
        self._failures = 0

    def after(self, lived_seconds: float) -> float:
        """The seconds to wait, longer each time, unless it lived for long."""
        self._failures = 1 if lived_seconds > HEALTHY_SECONDS else self._failures + 1
        return min(self._most_seconds, FIRST_SECONDS * 2.0 ** min(self._failures - 1, 16))
