"""The figures of a load test, from the times at which each command was due, sent, queued and committed."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

from levelq.laboratory.percentiles import Percentiles
from levelq_core.operations.verify.send_log import Reader, Send

from .arrivals import intended_in

_MOST_STEPS = 120
_STEPS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0)


class CommandTiming(NamedTuple):
    """One command's Unix times; None for what did not happen."""

    intended: float
    begun: float
    queued: float | None  # when the sender knew that it is queued
    committed: float | None

    @property
    def was_queued(self) -> bool:
        """Whether it came into a lane; a refused command waits for nothing."""
        return self.queued is not None or self.committed is not None

    @property
    def wait(self) -> float | None:
        """From its intended time to its commit: what its user sees."""
        return None if self.committed is None else self.committed - self.intended

    @property
    def closed(self) -> float | None:
        """From its send to its commit: what a test that waits for the last answer before it sends would report."""
        return None if self.committed is None else self.committed - self.begun


def timings(records: Sequence[Path], committed: dict[bytes, float]) -> list[CommandTiming]:
    """Every command whose send was begun, by intended time; `committed`: commit times by command id."""
    begun: dict[UUID, float] = {}
    queued: dict[UUID, float] = {}
    for _, _, line in Reader(records).new():
        if isinstance(line, Send):
            if line.intent:
                begun.setdefault(line.command_id, line.sent_at)
            elif line.acknowledged:
                queued.setdefault(line.command_id, line.sent_at)
    found = [
        CommandTiming(intended_in(id_), at, queued.get(id_), committed.get(id_.bytes)) for id_, at in begun.items()
    ]
    return sorted(found, key=lambda timing: timing.intended)


class Figures(NamedTuple):
    """The numbers of the report, in seconds and commands."""

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
    """The figures of commands in the order of their intended times."""
    commits = sorted(timing.committed for timing in found if timing.committed is not None)
    span = max(1.0, found[-1].intended - found[0].intended) if found else 1.0
    return Figures(
        waits=Percentiles.of(timing.wait for timing in found if timing.wait is not None),
        closed=Percentiles.of(timing.closed for timing in found if timing.closed is not None),
        late=Percentiles.of(max(0.0, timing.begun - timing.intended) for timing in found),
        pushes=Percentiles.of(timing.queued - timing.begun for timing in found if timing.queued is not None),
        begun=len(found),
        queued=sum(timing.queued is not None for timing in found),
        undecided=sum(timing.queued is not None and timing.committed is None for timing in found),
        offered_rate=len(found) / span,
        best_second=best_second(commits),
        most_waiting=most_waiting([timing.intended for timing in found if timing.was_queued], commits),
    )


def best_second(ordered: Sequence[float]) -> int:
    """The most that fell into any one second."""
    return max((bisect_right(ordered, at + 1.0) - number for number, at in enumerate(ordered)), default=0)


def most_waiting(due: Sequence[float], commits: Sequence[float]) -> int:
    """The most commands that were due and not committed at a time; both in order."""
    return max((number + 1 - bisect_right(commits, at) for number, at in enumerate(due)), default=0)


def waiting_at(due: Sequence[float], commits: Sequence[float], times: Iterable[float]) -> list[int]:
    """How many commands were due and not committed at each time; both in order."""
    return [bisect_right(due, at) - bisect_right(commits, at) for at in times]


def step_for(seconds: float) -> float:
    """A round width for the steps of a curve over this many seconds."""
    return next((step for step in _STEPS if seconds / step <= _MOST_STEPS), seconds / _MOST_STEPS)


def rates(ordered: Sequence[float], edges: Sequence[float]) -> list[float]:
    """Per second, between each two edges."""
    return [
        (bisect_left(ordered, right) - bisect_left(ordered, left)) / (right - left) for left, right in pairwise(edges)
    ]


def percentiles_over(found: Sequence[CommandTiming], edges: Sequence[float]) -> list[Percentiles]:
    """The waits of the commands that were due between each two edges."""
    numbers = [bisect_left(found, edge, key=lambda timing: timing.intended) for edge in edges]
    return [
        Percentiles.of(timing.wait for timing in found[before:after] if timing.wait is not None)
        for before, after in pairwise(numbers)
    ]
