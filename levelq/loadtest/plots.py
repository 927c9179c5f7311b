"""The report's four plots."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .charts import Axis, Series, chart, decades, linear, nines, seconds_axis
from .measuring import percentile, rates, spreads_over, step_for, waiting_at
from .result import Result

POINTS = 240  # of a curve whose times are free to choose


class Plots:
    """All on one axis of time, from the start to the last commit."""

    def __init__(self, result: Result) -> None:
        self._result = result
        self._meant = [course.intended for course in result.courses]
        self._due = [course.intended for course in result.courses if course.queued]
        self._commits = sorted(course.committed for course in result.courses if course.committed is not None)
        self._start = result.started
        length = max([1.0, *(at - self._start for at in (*self._meant[-1:], *self._commits[-1:]))])
        self.step = step_for(length)
        self._count = math.ceil(length / self.step + 1e-9)
        self._edges = [self._start + number * self.step for number in range(self._count + 1)]
        self._x = seconds_axis(self._count * self.step)
        ends = result.wish.scenario.match_ends
        self._marks = [(at, "" if number else "matches end") for number, at in enumerate(ends) if at < self._x.high]

    def rates(self) -> str:
        """Arrivals and commits a second."""
        arrivals, commits = rates(self._meant, self._edges), rates(self._commits, self._edges)
        top = max(*arrivals, *commits, 1.0)
        series = [
            Series("committed", self._steps(commits), "commits", steps=True),
            Series("meant to arrive", self._steps(arrivals), "arrivals", filled=True, steps=True),
        ]
        return chart(series, self._x, linear(top, "a second"), self._marks)

    def waiting(self) -> str:
        """What was due and not committed, and what of it the lanes held when looked at."""
        times = [self._start + self._x.high * number / POINTS for number in range(POINTS + 1)]
        # The peaks, too, whichever times were chosen: right after each arrival that has company.
        due = waiting_at(self._due, self._commits, times)
        peaks = self._peaks(times)
        lines = [max(value, peak) for value, peak in zip(due, peaks, strict=True)]
        held = [(look.at - self._start, float(look.waiting)) for look in self._result.looks]
        held = [(at, value) for at, value in held if 0 <= at <= self._x.high]
        series = [
            Series("due and not committed", [(at - self._start, float(v)) for at, v in zip(times, lines, strict=True)],
                   "waiting", filled=True),
            Series("seen in the lanes", held, "lanes"),
        ]  # fmt: skip
        return chart(series, self._x, linear(max(*lines, *(v for _, v in held), 1.0), "commands"), self._marks)

    def _peaks(self, times: Sequence[float]) -> list[int]:
        """The most that waited between each time and the one before."""
        most = [0] * len(times)
        width = times[1] - times[0]
        for place, waiting in enumerate(waiting_at(self._due, self._commits, self._due)):
            number = min(len(times) - 1, max(0, math.ceil((self._due[place] - times[0]) / width)))
            most[number] = max(most[number], waiting)
        return most

    def over_time(self) -> str:
        """Percentiles of what was meant to be sent in each step."""
        found = spreads_over(self._result.courses, self._edges)
        at = [(number + 0.5) * self.step for number in range(self._count)]
        lines = {"p50": "p50", "p90": "p90", "p99": "p99", "longest": "longest"}
        series = [
            Series(
                name,
                [
                    (moment, getattr(spread, field) if spread.size else math.nan)
                    for moment, spread in zip(at, found, strict=True)
                ],
                name,
            )
            for name, field in lines.items()
        ]
        values = [value for one in series for _, value in one.points if value > 0]
        return chart(series, self._x, decades(values, ""), self._marks)

    def distribution(self) -> str:
        """All latencies, by percentile: from the intended times, and as from the actual sends."""
        waits = sorted(course.wait for course in self._result.courses if course.wait is not None)
        closed = sorted(course.closed for course in self._result.courses if course.closed is not None)
        x = nines(len(waits))
        series = [
            Series("from the intended time", _by_nines(waits, x), "intended"),
            Series("from the actual send", _by_nines(closed, x), "closed"),
        ]
        return chart(series, x, decades([*waits[:1], *waits[-1:], *closed[:1]], ""))

    def _steps(self, values: Sequence[float]) -> list[tuple[float, float]]:
        """Each value from its step's beginning; the last holds to the end."""
        points = [(number * self.step, value) for number, value in enumerate(values)]
        return [*points, (self._x.high, values[-1])]


def _by_nines(ordered: Sequence[float], x: Axis) -> list[tuple[float, float]]:
    places = [x.high * number / POINTS for number in range(POINTS + 1)]
    return [(place, percentile(ordered, 100 * (1 - 10.0**-place))) for place in places] if ordered else []
