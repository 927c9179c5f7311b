"""How durations are spread, and how they are written."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Self


class Percentiles(NamedTuple):
    """Percentiles of durations in seconds, and the longest; all are 0 if nothing was measured."""

    size: int
    p50: float
    p90: float
    p99: float
    p999: float
    longest: float

    @classmethod
    def of(cls, seconds: Iterable[float]) -> Self:
        """By nearest rank: each percentile is a duration that was measured."""
        ordered = sorted(seconds)
        return cls(len(ordered), *(percentile(ordered, percent) for percent in (50, 90, 99, 99.9, 100)))


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The smallest value that at least `percent` of the values do not exceed; 0 if there are none."""
    if not ordered:
        return 0.0
    return ordered[max(0, math.ceil(percent / 100 * len(ordered) - 1e-9) - 1)]


def duration(seconds: float) -> str:
    """A duration in at most three digits: 4.2 ms, 37 ms, 1.25 s, 12 s."""
    if seconds < 0.9995:
        milliseconds = 1000 * seconds
        return f"{milliseconds:.1f} ms" if milliseconds < 9.95 else f"{milliseconds:.0f} ms"
    return f"{seconds:.2f} s" if seconds < 9.995 else f"{seconds:.0f} s"
