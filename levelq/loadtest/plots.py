"""The charts of a run, on one axis of time from the start to the last commit."""

from __future__ import annotations

import math
from collections.abc import Sequence

from levelq.charts import Value
from levelq.laboratory.charts import Chart, Point, Series
from levelq.laboratory.percentiles import percentile

from .result import Result
from .timing import percentiles_over, rates, step_for, waiting_at

_POINTS = 240  # of a curve whose times are free to choose
_NINES = ("0 %", "90 %", "99 %", "99.9 %", "99.99 %", "99.999 %", "99.9999 %")


class Plots:
    """The charts of one result. `step`: the seconds of each step of a curve."""

    def __init__(self, result: Result) -> None:
        self._result = result
        self._start = result.started
        self._intended = [timing.intended for timing in result.timings]
        self._commits = sorted(timing.committed for timing in result.timings if timing.committed is not None)
        length = max([1.0, *(at - self._start for at in (*self._intended[-1:], *self._commits[-1:]))])
        self.step = step_for(length)
        count = math.ceil(length / self.step + 1e-9)
        self._edges = [self._start + number * self.step for number in range(count + 1)]
        self._right = count * self.step

    def rates(self) -> Chart:
        """Intended sends and commits a second."""
        arrivals, commits = rates(self._intended, self._edges), rates(self._commits, self._edges)
        committed, meant = (self._points(self._edges, [*found, found[-1]]) for found in (commits, arrivals))
        return self._over_time(
            Series("committed", committed, "green", steps=True),
            Series("meant to arrive", meant, "grey", filled=True, steps=True),
        )

    def waiting(self) -> Chart:
        """Commands that were due and not committed, and those that were seen in the lanes."""
        due = [timing.intended for timing in self._result.timings if timing.was_queued]
        width = self._right / _POINTS
        times = [self._start + number * width for number in range(_POINTS + 1)]
        most = waiting_at(due, self._commits, times)
        for at, waiting in zip(due, waiting_at(due, self._commits, due), strict=True):  # the peaks between these times
            number = min(_POINTS, max(0, math.ceil((at - self._start) / width)))
            most[number] = max(most[number], waiting)
        samples = [s for s in self._result.samples if 0 <= s.at - self._start <= self._right]
        return self._over_time(
            Series("due and not committed", self._points(times, most), "orange", filled=True),
            Series("seen in the lanes", self._points([s.at for s in samples], [s.waiting for s in samples]), "grey"),
        )

    def latencies(self) -> Chart:
        """Percentiles of the commands that were due in each step."""
        found = percentiles_over(self._result.timings, self._edges)
        middles = [edge + self.step / 2 for edge in self._edges[:-1]]
        lines = {"p50": "pale", "p90": "blue", "p99": "deep", "longest": "red"}
        series = [
            Series(
                name,
                self._points(middles, [getattr(one, name) if one.size else None for one in found]),
                colour,
                broad=name == "longest",
            )
            for name, colour in lines.items()
        ]
        return self._over_time(*series, durations=True)

    def distribution(self) -> Chart:
        """All latencies by percentile, from the intended times and from the actual sends; each nine is as wide."""
        timings = self._result.timings
        waits = sorted(timing.wait for timing in timings if timing.wait is not None)
        closed = sorted(timing.closed for timing in timings if timing.closed is not None)
        right = max(1.0, math.log10(max(len(waits), 1)))
        shares = [right * number / _POINTS for number in range(_POINTS + 1)]

        def curve(ordered: Sequence[float]) -> list[Point]:
            return [(share, percentile(ordered, 100 * (1 - 10.0**-share))) for share in shares] if ordered else []

        series = [
            Series("from the intended time", curve(waits), "blue"),
            Series("from the actual send", curve(closed), "orange", broad=True),
        ]
        return Chart(series, right, "of all commands were quicker", durations=True, named=nines(len(waits)))

    def _over_time(self, *series: Series, durations: bool = False) -> Chart:
        marks = [(at, text) for at, text in self._result.marks if at < self._right]
        return Chart(series, self._right, marks=marks, durations=durations)

    def _points(self, times: Sequence[float], values: Sequence[Value]) -> list[Point]:
        return [(at - self._start, value) for at, value in zip(times, values, strict=True)]


def nines(count: int) -> list[tuple[float, str]]:
    """Labels for percentiles of `count` values; each further nine takes as much room as the one before."""
    ticks = [(float(number), label) for number, label in enumerate(_NINES) if 10**number <= max(count, 10)]
    return [ticks[0], (-math.log10(0.5), "50 %"), *ticks[1:]]
