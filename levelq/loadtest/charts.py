"""Line charts as SVG, to stand in an HTML page; their colours are the page's, so they follow its light or dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

WIDTH, HEIGHT = 640, 250
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 12, 34
_ROUND = (1, 2, 2.5, 5, 10)

Point = tuple[float, float]


class Series(NamedTuple):
    """One line. `style` is a CSS class of the page; `steps`: each value holds until the next point."""

    name: str
    points: Sequence[Point]
    style: str
    filled: bool = False
    steps: bool = False


class Axis(NamedTuple):
    """From `low` to `high`, with labels at some values; `log`: equal factors are equally far apart."""

    low: float
    high: float
    ticks: Sequence[tuple[float, str]]
    title: str = ""
    log: bool = False

    def share(self, value: float) -> float:
        """Where a value is, 0 to 1; what is beyond an end is at that end."""
        low, high, at = self.low, self.high, min(max(value, self.low), self.high)
        if self.log:
            low, high, at = math.log(low), math.log(high), math.log(at)
        return (at - low) / (high - low)


def linear(high: float, title: str, low: float = 0.0) -> Axis:
    """An axis from `low` to a round value that is not below `high`."""
    step = round_step((max(high, low + 1e-9) - low) / 4)
    count = max(1, math.ceil((high - low) / step - 1e-9))
    ticks = [(low + number * step, f"{low + number * step:,.10g}") for number in range(count + 1)]
    return Axis(low, ticks[-1][0], ticks, title)


def seconds_axis(length: float) -> Axis:
    """Time from 0 to exactly `length`."""
    step = round_step(length / 8)
    ticks = [(number * step, f"{number * step:,.10g}") for number in range(int(length / step + 1e-9) + 1)]
    return Axis(0.0, length, ticks, "seconds since the start")


def decades(values: Sequence[float], title: str) -> Axis:
    """A logarithmic axis of durations, from a power of ten to another around all values."""
    positive = [value for value in values if value > 0] or [0.001]
    low = max(-4, math.floor(math.log10(min(positive)) + 1e-9))
    high = max(low + 1, math.ceil(math.log10(max(positive)) - 1e-9))
    ticks = [(10.0**power, _duration(power)) for power in range(low, high + 1)]
    return Axis(10.0**low, 10.0**high, ticks, title, log=True)


def nines(count: int) -> Axis:
    """Percentiles, each further nine as wide as the one before; for so many values."""
    most = max(1.0, math.log10(max(count, 1)))
    labels = ["0 %", "90 %", "99 %", "99.9 %", "99.99 %", "99.999 %", "99.9999 %"]
    ticks = [(float(place), label) for place, label in enumerate(labels) if place <= most]
    ticks.insert(1, (-math.log10(0.5), "50 %"))
    return Axis(0.0, most, ticks, "of all commands were quicker")


def _duration(power: int) -> str:
    names = {-4: "0.1 ms", -3: "1 ms", -2: "10 ms", -1: "100 ms", 0: "1 s", 1: "10 s", 2: "100 s"}
    return names.get(power, f"{10.0**power:,.0f} s")


def round_step(rough: float) -> float:
    """The next round number: 1, 2, 2.5 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in _ROUND if factor * power >= rough * (1 - 1e-9))


def chart(series: Sequence[Series], x: Axis, y: Axis, marks: Sequence[tuple[float, str]] = ()) -> str:
    """The legend, and the SVG: the first line is on top. `marks`: vertical lines with a word each."""
    legend = "".join(f'<span class="{one.style}"><i></i>{escape(one.name)}</span>' for one in series)
    lines = [_line(one, x, y) for one in reversed(series)]
    body = "".join([_grid(x, y), *(_mark(x, at, text) for at, text in marks), *lines])
    label = escape(", ".join(one.name for one in series))
    return (
        f'<div class="legend">{legend}</div>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{body}</svg>'
    )


def _across(x: Axis, value: float) -> float:
    return LEFT + x.share(value) * (WIDTH - LEFT - RIGHT)


def _down(y: Axis, value: float) -> float:
    return HEIGHT - BOTTOM - y.share(value) * (HEIGHT - TOP - BOTTOM)


def _grid(x: Axis, y: Axis) -> str:
    parts = []
    for value, label in y.ticks:
        at = _down(y, value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text class="end" x="{LEFT - 8}" y="{at + 4:.1f}">{escape(label)}</text>')
    for value, label in x.ticks:
        at = _across(x, value)
        parts.append(
            f'<line class="tick" x1="{at:.1f}" x2="{at:.1f}" y1="{HEIGHT - BOTTOM}" y2="{HEIGHT - BOTTOM + 4}"/>'
        )
        parts.append(f'<text class="middle" x="{at:.1f}" y="{HEIGHT - BOTTOM + 17}">{escape(label)}</text>')
    parts.append(f'<text class="end title" x="{WIDTH - RIGHT}" y="{HEIGHT - 3}">{escape(x.title)}</text>')
    return "".join(parts)


def _mark(x: Axis, value: float, text: str) -> str:
    at = _across(x, value)
    line = f'<line class="mark" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
    return line + (f'<text class="title" x="{at + 4:.1f}" y="{TOP + 9}">{escape(text)}</text>' if text else "")


def _line(series: Series, x: Axis, y: Axis) -> str:
    """The path; points without a value (nan) interrupt it."""
    runs: list[list[tuple[float, float]]] = [[]]
    for across, up in series.points:
        if math.isnan(up):
            runs.append([])
            continue
        if series.steps and runs[-1]:
            runs[-1].append((_across(x, across), runs[-1][-1][1]))
        runs[-1].append((_across(x, across), _down(y, up)))
    parts = []
    for run in runs:
        if not run:
            continue
        path = "M" + "L".join(f"{across:.1f},{down:.1f}" for across, down in run)
        if series.filled:
            floor = HEIGHT - BOTTOM
            parts.append(
                f'<path class="area {series.style}" d="{path}L{run[-1][0]:.1f},{floor}L{run[0][0]:.1f},{floor}Z"/>'
            )
        # A lone value would be a path without length: a round cap makes it a dot.
        parts.append(f'<path class="line {series.style}" d="{path}{"h0" if len(run) == 1 else ""}"/>')
    return "".join(parts)
