"""How long batches take, against what batches of their size usually take: whether the database has become slow.

A larger batch takes longer, so each is compared with earlier ones of its size, within a factor of two. For a size that
was not seen yet, the next larger size that was gives the limit, or the next smaller one in proportion: both are more
than such a batch should take. So a burst, which makes batches larger, is not called slow.
"""

from __future__ import annotations

from collections import deque
from statistics import median
from typing import NamedTuple

RECENT = 5  # batches that are compared; a single slow one changes nothing
LEAST_USUAL = 10  # batches before anything is called usual
MOST_USUAL = 50  # of each size
SLOW_FACTOR, FAST_FACTOR = 4.0, 2.0  # slow from the first on, until below the second
SLOW_SECONDS = 0.1  # what is faster is never called slow
ACCEPTED_SECONDS = 1800.0  # after so long, what was slow becomes the usual


class _Batch(NamedTuple):
    entries: int
    seconds: float
    usual: float | None


class BatchTimes:
    """The last batches of a process. `commands`, `seconds` and `usual`: medians of the last five.

    `slow_since`: the monotonic time since when they are slow, None if they are not.
    """

    def __init__(self) -> None:
        self.commands = 0
        self.seconds = 0.0
        self.usual: float | None = None
        self.slow_since: float | None = None
        self.last = 0.0  # monotonic time of the last one
        self._recent: deque[_Batch] = deque(maxlen=RECENT)
        self._usual: dict[int, deque[float]] = {}
        self._known = 0

    def add(self, entries: int, seconds: float, now: float) -> None:
        """Take in a committed batch. One that is slow does not change what is usual."""
        usual = self._usual_of(entries)
        self._recent.append(_Batch(entries, seconds, usual))
        self.last = now
        self.commands = round(median(batch.entries for batch in self._recent))
        self.seconds = median(batch.seconds for batch in self._recent)
        known = [batch.usual for batch in self._recent if batch.usual is not None]
        self.usual = median(known) if known else None
        self._judge(now)
        is_slow = usual is not None and seconds >= max(SLOW_SECONDS, SLOW_FACTOR * usual)
        if self.slow_since is None and not is_slow:
            size = entries.bit_length()
            self._usual.setdefault(size, deque(maxlen=MOST_USUAL)).append(seconds)
            self._known += 1

    def _judge(self, now: float) -> None:
        factors = [batch.seconds / batch.usual for batch in self._recent if batch.usual]
        factor = median(factors) if len(factors) > RECENT // 2 else 0.0
        if self.slow_since is None:
            if factor >= SLOW_FACTOR and self.seconds >= SLOW_SECONDS:
                self.slow_since = now
        elif factor < FAST_FACTOR:
            self.slow_since = None
        elif now - self.slow_since > ACCEPTED_SECONDS:
            self.slow_since, self._known = None, 0
            self._usual.clear()
            self._recent.clear()

    def _usual_of(self, entries: int) -> float | None:
        """What a batch of this size should take at most; None while too few were seen."""
        if self._known < LEAST_USUAL:
            return None
        size = entries.bit_length()
        at_least = [known for known in self._usual if known >= size]
        if at_least:
            return median(self._usual[min(at_least)])
        largest = max(self._usual)
        return median(self._usual[largest]) * 2.0 ** (size - largest)
