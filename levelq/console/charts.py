"""Line charts over times: what templates/charts.html draws as inline SVG, and says about it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import NamedTuple

from levelq import charts
from levelq.charts import HEIGHT, MOST_STEPS, WIDTH, Run, Value, round_number, scale

__all__ = [
    "HEIGHT", "MOST_STEPS", "WIDTH", "Chart", "Line", "Value", "round_count", "round_duration", "round_number", "scale",
]  # fmt: skip

TICKS = 4  # times below, besides the first
_DURATIONS = (15, 30, 60, 120, 300, 600, 900, 1_800, 3_600, 7_200, 3 * 3_600, 6 * 3_600, 12 * 3_600, 86_400)


def round_count(least: float) -> float:
    """The next round number of things that cannot be divided."""
    return next((float(number) for number in (1, 2, 5) if number >= least), None) or round_number(least)


def round_duration(least: float) -> float:
    """The next round number of seconds, minutes, hours or days."""
    if least <= 10:
        return round_number(least)
    return next((float(step) for step in _DURATIONS if step >= least), None) or 86_400 * round_number(least / 86_400)


class Line(NamedTuple):
    """What is drawn: a name, one value for each time (None where nothing is known, which leaves a gap)."""

    name: str
    values: Sequence[Value]


@dataclass(frozen=True, kw_only=True)
class Chart:
    """One or two lines over slots of time, of which `times` are the beginnings; at least one.

    `written`: how a value is written, with its unit. `round_step`: see `scale`.
    """

    title: str
    times: Sequence[datetime]
    slot: timedelta
    lines: Sequence[Line]
    written: Callable[[float], str]
    round_step: Callable[[float], float] = round_number

    @cached_property
    def _scale(self) -> tuple[float, float]:
        return scale([value for line in self.lines for value in line.values], self.round_step)

    def summary(self) -> str:
        """What the chart shows, in words: of each line the latest, the lowest and the highest value."""
        return f"{self.title}. " + " ".join(self._in_words(line) for line in self.lines)

    def _in_words(self, line: Line) -> str:
        known = [value for value in line.values if value is not None]
        if not known:
            return f"{line.name}: nothing known."
        least, most = self.written(min(known)), self.written(max(known))
        latest = "unknown" if line.values[-1] is None else self.written(line.values[-1])
        return f"{line.name}: latest {latest}, lowest {least}, highest {most}."

    def say(self, value: Value) -> str:
        """A value with its unit, a dash for None."""
        return "-" if value is None else self.written(value)

    def slots(self) -> str:
        """The values of each slot in words, for the script that shows those under the pointer."""
        values = zip(*(line.values for line in self.lines), strict=True)
        return ";".join("|".join(map(self.say, of_slot)) for of_slot in values)

    def labels(self) -> list[str]:
        """The numbers beside the lines across, from the top down, in equal distances."""
        top, step = self._scale
        return [self.written(top - step * n) for n in range(round(top / step) + 1)]

    def ticks(self) -> list[datetime]:
        """The times below, in equal distances, from the beginning of the first slot to the end of the last."""
        first, last = self.times[0], self.times[-1] + self.slot
        return [first + (last - first) * n / TICKS for n in range(TICKS + 1)]

    def grid(self) -> list[float]:
        """How far down each line across is."""
        steps = len(self.labels()) - 1
        return [charts.short(HEIGHT * n / steps) for n in range(steps + 1)]

    def path(self, line: Line) -> str:
        """The line as SVG's path."""
        return charts.path(self._runs(line))

    def dots(self, line: Line) -> str:
        """The single values between gaps."""
        return charts.dots(self._runs(line))

    def area(self, line: Line) -> str:
        """What is below the line, as SVG's path."""
        return charts.area(self._runs(line))

    def _runs(self, line: Line) -> list[Run]:
        top, _ = self._scale
        values = enumerate(line.values)
        return charts.runs(
            ((n + 0.5) / len(line.values), None if value is None else value / top) for n, value in values
        )
