"""The figures of a load test, from the times at which commands were meant, begun, acknowledged and committed."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

from levelq_core.operations.verify.send_log import Reader, Send

from .arrivals import intended_in

MOST_BINS = 120
_STEPS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0)


class Percentiles(NamedTuple):
    """How seconds are spread: percentiles, and the longest. Nothing measured: all are 0."""

    size: int
    p50: float
    p90: float
    p99: float
    p999: float
    longest: float


def spread(seconds: Iterable[float]) -> Percentiles:
    """Percentiles by nearest rank: each is a time that somebody waited."""
    ordered = sorted(seconds)
    p50, p90, p99, p999, longest = (percentile(ordered, percent) for percent in (50, 90, 99, 99.9, 100))
    return Percentiles(len(ordered), p50, p90, p99, p999, longest)


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The least value that so many percent do not exceed; of nothing, 0."""
    if not ordered:
        return 0.0
    return ordered[max(0, math.ceil(percent / 100 * len(ordered) - 1e-9) - 1)]


class CommandTiming(NamedTuple):
    """One command's times, Unix seconds; None where it did not come so far."""

    intended: float
    begun: float
    told: float | None  # that it is queued
    committed: float | None

    @property
    def queued(self) -> bool:
        """Whether it came into a lane; what was refused waits for nothing."""
        return self.told is not None or self.committed is not None

    @property
    def wait(self) -> float | None:
        """From when it was meant to be sent until it was committed: what its user saw."""
        return None if self.committed is None else self.committed - self.intended

    @property
    def closed(self) -> float | None:
        """From when it was sent: what a test that sends when the last answer is there would have told."""
        return None if self.committed is None else self.committed - self.begun


def courses(histories: Sequence[Path], committed: dict[bytes, float]) -> list[CommandTiming]:
    """Every command that was begun, in the order in which it was meant to be."""
    begun: dict[UUID, float] = {}
    told: dict[UUID, float] = {}
    for _, _, line in Reader(histories).new():
        if isinstance(line, Send):
            if line.intent:
                begun.setdefault(line.command_id, line.sent_at)
            elif line.acknowledged:
                told.setdefault(line.command_id, line.sent_at)
    found = [CommandTiming(intended_in(id_), at, told.get(id_), committed.get(id_.bytes)) for id_, at in begun.items()]
    return sorted(found, key=lambda course: course.intended)


class Figures(NamedTuple):
    """What the report says in numbers, in seconds and commands."""

    waits: Percentiles  # from the intended time to the commit
    closed: Percentiles  # from the actual send to the commit
    late: Percentiles  # from the intended time to the actual send
    pushes: Percentiles  # from the actual send to its acknowledgement
    begun: int
    queued: int
    undecided: int  # queued, and not committed by the end
    offered_rate: float
    best_second: int
    most_waiting: int


def figures(found: Sequence[CommandTiming]) -> Figures:
    """Put them together."""
    commits = sorted(course.committed for course in found if course.committed is not None)
    meant = [course.intended for course in found]
    span = max(1.0, meant[-1] - meant[0]) if meant else 1.0
    return Figures(
        waits=spread(course.wait for course in found if course.wait is not None),
        closed=spread(course.closed for course in found if course.closed is not None),
        late=spread(max(0.0, course.begun - course.intended) for course in found),
        pushes=spread(course.told - course.begun for course in found if course.told is not None),
        begun=len(found),
        queued=sum(course.told is not None for course in found),
        undecided=sum(course.told is not None and course.committed is None for course in found),
        offered_rate=len(found) / span,
        best_second=best_second(commits),
        most_waiting=most_waiting([course.intended for course in found if course.queued], commits),
    )


def best_second(ordered: Sequence[float]) -> int:
    """The most that fell into any one second."""
    return max((bisect_right(ordered, at + 1.0) - place for place, at in enumerate(ordered)), default=0)


def most_waiting(meant: Sequence[float], commits: Sequence[float]) -> int:
    """The most commands that were due and not committed at a time; both in order."""
    return max((place + 1 - bisect_right(commits, at) for place, at in enumerate(meant)), default=0)


def step_for(seconds: float) -> float:
    """A round width for the steps of a curve over so many seconds."""
    return next((step for step in _STEPS if seconds / step <= MOST_BINS), seconds / MOST_BINS)


def rates(ordered: Sequence[float], edges: Sequence[float]) -> list[float]:
    """Per second, between each two edges."""
    return [
        (bisect_left(ordered, right) - bisect_left(ordered, left)) / (right - left) for left, right in pairwise(edges)
    ]


def waiting_at(meant: Sequence[float], commits: Sequence[float], times: Iterable[float]) -> list[int]:
    """How many commands were due and not committed at each time; both in order."""
    return [bisect_right(meant, at) - bisect_right(commits, at) for at in times]


def spreads_over(found: Sequence[CommandTiming], edges: Sequence[float]) -> list[Percentiles]:
    """The waits of the commands that were meant to be sent between each two edges."""
    meant = [course.intended for course in found]
    places = [bisect_left(meant, edge) for edge in edges]
    return [
        spread(course.wait for course in found[before:after] if course.wait is not None)
        for before, after in pairwise(places)
    ]
