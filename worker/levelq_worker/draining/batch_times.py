"""How long batches take, against what batches of their size usually take: whether the database has become slow.

A larger batch takes longer, so each is compared with earlier ones of its size, within a factor of two. For a size that
was not seen yet, the next larger size that was gives the limit, or the next smaller one in proportion: both are more
than such a batch should take. So a burst, which makes batches larger, is not called slow.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

RECENT = 5  # batches that are compared; a single slow one changes nothing
LEAST_USUAL = 10  # batches before anything is called usual
MOST_USUAL = 50  # of each size
SLOW_FACTOR, FAST_FACTOR = 4.0, 2.0  # slow from the first on, until below the second
SLOW_SECONDS = 0.1  # a faster batch is not slow; a slow spell ends below half of it
ACCEPTED_SECONDS = 1800.0  # after this, what was slow becomes the usual


class _Batch(NamedTuple):
    entries: int
    seconds: float
    usual: float | None


class _Usual:
    """The seconds of the last batches of one size. Their median is computed at every fifth."""

    def __init__(self) -> None:
        self.median = 0.0
        self._last: deque[float] = deque(maxlen=MOST_USUAL)
        self._added = 0

    def add(self, seconds: float) -> None:
        self._last.append(seconds)
        if self._added % RECENT == 0:
            self.median = _median(self._last)
        self._added += 1


def _median(values: Iterable[float]) -> float:
    """The greater of the two in the middle, of an even number; statistics.median takes ten times as long."""
    ordered = sorted(values)
    return ordered[len(ordered) // 2]


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
        self._usual: dict[int, _Usual] = {}
        self._known = 0

    def add(self, entries: int, seconds: float, now: float) -> None:
        """Take in a committed batch. One that is slow does not change what is usual."""
        usual = self._usual_of(entries)
        self._recent.append(_Batch(entries, seconds, usual))
        self.last = now
        self.commands = int(_median(batch.entries for batch in self._recent))
        self.seconds = _median(batch.seconds for batch in self._recent)
        self._judge(now)
        is_slow = usual is not None and seconds >= max(SLOW_SECONDS, SLOW_FACTOR * usual)
        if self.slow_since is None and not is_slow:
            self._usual.setdefault(entries.bit_length(), _Usual()).add(seconds)
            self._known += 1

    def _judge(self, now: float) -> None:
        known = [(batch.seconds / batch.usual, batch.usual) for batch in self._recent if batch.usual]
        self.usual = _median(usual for _, usual in known) if known else None
        factor = _median(factor for factor, _ in known) if len(known) > RECENT // 2 else 0.0
        if self.slow_since is None:
            if factor >= SLOW_FACTOR and self.seconds >= SLOW_SECONDS:
                self.slow_since = now
        elif factor < FAST_FACTOR or self.seconds < SLOW_SECONDS / 2:
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
        known = self._usual.get(size)
        if known is not None:
            return known.median
        larger = [each for each in self._usual if each > size]
        if larger:
            return self._usual[min(larger)].median
        largest = max(self._usual)
        return self._usual[largest].median * 2.0 ** (size - largest)
