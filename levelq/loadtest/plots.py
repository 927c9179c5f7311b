"""The report's four charts, on one axis of time from the start to the last commit."""

from __future__ import annotations

import math
from collections.abc import Sequence

from levelq.laboratory.charts import Axis, Point, Series, chart, decades, linear, nines, seconds_axis
from levelq.laboratory.page import Html
from levelq.laboratory.percentiles import percentile

from .result import Result
from .timing import percentiles_over, rates, step_for, waiting_at

_POINTS = 240  # of a curve whose times are free to choose


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
        self._x = seconds_axis(count * self.step)
        ends = result.options.scenario.match_ends
        self._marks = [(at, "" if number else "matches end") for number, at in enumerate(ends) if at < self._x.high]

    def rates(self) -> Html:
        """Intended sends and commits a second."""
        arrivals, commits = rates(self._intended, self._edges), rates(self._commits, self._edges)
        committed, meant = (self._points(self._edges, [*found, found[-1]]) for found in (commits, arrivals))
        series = [
            Series("committed", committed, "green", steps=True),
            Series("meant to arrive", meant, "grey", filled=True, steps=True),
        ]
        return chart(series, self._x, linear(max(*arrivals, *commits, 1.0)), self._marks)

    def waiting(self) -> Html:
        """Commands that were due and not committed, and those that were seen in the lanes."""
        due = [timing.intended for timing in self._result.timings if timing.was_queued]
        width = self._x.high / _POINTS
        times = [self._start + number * width for number in range(_POINTS + 1)]
        most = waiting_at(due, self._commits, times)
        for at, waiting in zip(due, waiting_at(due, self._commits, due), strict=True):  # the peaks between these times
            number = min(_POINTS, max(0, math.ceil((at - self._start) / width)))
            most[number] = max(most[number], waiting)
        samples = [s for s in self._result.samples if 0 <= s.at - self._start <= self._x.high]
        seen = self._points([sample.at for sample in samples], [sample.waiting for sample in samples])
        series = [
            Series("due and not committed", self._points(times, most), "orange", filled=True),
            Series("seen in the lanes", seen, "grey"),
        ]
        return chart(series, self._x, linear(max(*most, *(value for _, value in seen), 1.0)), self._marks)

    def over_time(self) -> Html:
        """Percentiles of the commands that were due in each step."""
        found = percentiles_over(self._result.timings, self._edges)
        middles = [edge + self.step / 2 for edge in self._edges[:-1]]
        styles = {"p50": "pale", "p90": "blue", "p99": "deep", "longest": "red broad"}
        series = [
            Series(name, self._points(middles, [getattr(one, name) if one.size else math.nan for one in found]), style)
            for name, style in styles.items()
        ]
        values = [value for one in series for _, value in one.points if value > 0]
        return chart(series, self._x, decades(values), self._marks)

    def distribution(self) -> Html:
        """All latencies by percentile, from the intended times and from the actual sends."""
        waits = sorted(timing.wait for timing in self._result.timings if timing.wait is not None)
        closed = sorted(timing.closed for timing in self._result.timings if timing.closed is not None)
        x = nines(len(waits))
        series = [
            Series("from the intended time", _by_nines(waits, x), "blue"),
            Series("from the actual send", _by_nines(closed, x), "orange broad"),
        ]
        return chart(series, x, decades([*waits[:1], *waits[-1:], *closed[:1]]))

    def _points(self, times: Sequence[float], values: Sequence[float]) -> list[Point]:
        return [(at - self._start, float(value)) for at, value in zip(times, values, strict=True)]


def _by_nines(ordered: Sequence[float], x: Axis) -> list[Point]:
    shares = [x.high * number / _POINTS for number in range(_POINTS + 1)]
    return [(share, percentile(ordered, 100 * (1 - 10.0**-share))) for share in shares] if ordered else []
