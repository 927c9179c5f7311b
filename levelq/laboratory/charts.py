"""Line charts as SVG for an HTML page, in the page's colours, so that they follow its light or dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from .page import Html

WIDTH, HEIGHT = 640, 250
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 12, 34
_DURATIONS = {-4: "0.1 ms", -3: "1 ms", -2: "10 ms", -1: "100 ms", 0: "1 s", 1: "10 s", 2: "100 s"}

Point = tuple[float, float]


class Series(NamedTuple):
    """One line. `style`: CSS classes of the page; `steps`: each value holds until the next point."""

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
        """Where a value is, 0 to 1; a value beyond an end is at that end."""
        low, high, at = self.low, self.high, min(max(value, self.low), self.high)
        if self.log:
            low, high, at = math.log(low), math.log(high), math.log(at)
        return (at - low) / (high - low)

    def across(self, value: float) -> float:
        """Where a value is on a horizontal axis."""
        return LEFT + self.share(value) * (WIDTH - LEFT - RIGHT)

    def down(self, value: float) -> float:
        """Where a value is on a vertical axis."""
        return HEIGHT - BOTTOM - self.share(value) * (HEIGHT - TOP - BOTTOM)


def linear(high: float) -> Axis:
    """An axis from 0 to a round value that is not below `high`."""
    step = round_step(max(high, 1e-9) / 4)
    count = max(1, math.ceil(high / step - 1e-9))
    return Axis(0.0, count * step, [(number * step, f"{number * step:,.10g}") for number in range(count + 1)])


def seconds_axis(length: float) -> Axis:
    """Time from 0 to exactly `length`."""
    step = round_step(length / 8)
    ticks = [(number * step, f"{number * step:,.10g}") for number in range(int(length / step + 1e-9) + 1)]
    return Axis(0.0, length, ticks, "seconds since the start")


def decades(seconds: Sequence[float]) -> Axis:
    """A logarithmic axis of durations, from a power of ten to another around all values."""
    positive = [value for value in seconds if value > 0] or [0.001]
    low = max(-4, math.floor(math.log10(min(positive)) + 1e-9))
    high = max(low + 1, math.ceil(math.log10(max(positive)) - 1e-9))
    ticks = [(10.0**power, _DURATIONS.get(power, f"{10.0**power:,.0f} s")) for power in range(low, high + 1)]
    return Axis(10.0**low, 10.0**high, ticks, log=True)


def nines(count: int) -> Axis:
    """Percentiles of `count` values; each further nine takes as much room as the one before."""
    most = max(1.0, math.log10(max(count, 1)))
    labels = ["0 %", "90 %", "99 %", "99.9 %", "99.99 %", "99.999 %", "99.9999 %"]
    ticks = [(float(number), label) for number, label in enumerate(labels) if number <= most]
    ticks.insert(1, (-math.log10(0.5), "50 %"))
    return Axis(0.0, most, ticks, "of all commands were quicker")


def round_step(rough: float) -> float:
    """The next round number: 1, 2, 2.5 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * (1 - 1e-9))


def chart(series: Sequence[Series], x: Axis, y: Axis, marks: Sequence[tuple[float, str]] = ()) -> Html:
    """The legend, and the SVG; the first line is on top. `marks`: vertical lines, each with a word."""
    legend = "".join(f'<span class="{one.style}"><i></i>{escape(one.name)}</span>' for one in series)
    body = [*_grid(x, y), *(_mark(x, at, text) for at, text in marks), *(_line(one, x, y) for one in reversed(series))]
    label = escape(", ".join(one.name for one in series))
    svg = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join(body)}</svg>'
    return Html(f'<div class="legend">{legend}</div>{svg}')


def _grid(x: Axis, y: Axis) -> list[str]:
    parts, floor = [], HEIGHT - BOTTOM
    for value, label in y.ticks:
        at = y.down(value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text class="end" x="{LEFT - 8}" y="{at + 4:.1f}">{escape(label)}</text>')
    for value, label in x.ticks:
        at = x.across(value)
        parts.append(f'<line class="tick" x1="{at:.1f}" x2="{at:.1f}" y1="{floor}" y2="{floor + 4}"/>')
        parts.append(f'<text class="middle" x="{at:.1f}" y="{floor + 17}">{escape(label)}</text>')
    parts.append(f'<text class="end title" x="{WIDTH - RIGHT}" y="{HEIGHT - 3}">{escape(x.title)}</text>')
    return parts


def _mark(x: Axis, value: float, text: str) -> str:
    at = x.across(value)
    line = f'<line class="mark" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
    return line + (f'<text class="title" x="{at + 4:.1f}" y="{TOP + 9}">{escape(text)}</text>' if text else "")


def _line(series: Series, x: Axis, y: Axis) -> str:
    """The path. A point without a value (nan) interrupts it."""
    runs: list[list[Point]] = [[]]
    for across, up in series.points:
        if math.isnan(up):
            runs.append([])
            continue
        if series.steps and runs[-1]:
            runs[-1].append((x.across(across), runs[-1][-1][1]))
        runs[-1].append((x.across(across), y.down(up)))
    parts = []
    for run in filter(None, runs):
        path = "M" + "L".join(f"{across:.1f},{down:.1f}" for across, down in run)
        if series.filled:
            close = f"L{run[-1][0]:.1f},{HEIGHT - BOTTOM}L{run[0][0]:.1f},{HEIGHT - BOTTOM}Z"
            parts.append(f'<path class="area {series.style}" d="{path}{close}"/>')
        # A lone value would be a path without length: a round cap makes it a dot.
        parts.append(f'<path class="line {series.style}" d="{path}{"h0" if len(run) == 1 else ""}"/>')
    return "".join(parts)
