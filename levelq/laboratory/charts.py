"""Line charts of a run: what the report's page draws as inline SVG, and one picture in a file, by matplotlib."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from levelq.charts import Run, Value, round_number, runs, scale

_LEAST_SECONDS = 0.0001  # an axis of durations shows what is shorter at its end
_MOST_TICKS = 8
_INK = {"grey": "#7c8798", "green": "#1f8a4c", "orange": "#c7690a"}  # of the picture; the page has its own colours
_DIM, _RULE = "#5d6878", "#e1e5eb"

Point = tuple[float, Value]


class Series(NamedTuple):
    """One line, interrupted where a value is None. `steps`: each value holds until the next point."""

    name: str
    points: Sequence[Point]
    colour: str  # a CSS class of the page
    filled: bool = False
    steps: bool = False
    broad: bool = False


def thousands(value: float) -> str:
    """A number as an axis shows it."""
    return f"{value:,.10g}"


def as_duration(seconds: float) -> str:
    """A power of ten of seconds as an axis shows it."""
    return f"{1000 * seconds:.10g} ms" if seconds < 0.9 else f"{seconds:,.0f} s"


@dataclass(frozen=True)
class Chart:
    """Lines over one axis each way; the first line is on top. `marks`: vertical lines, each with a word."""

    series: Sequence[Series]
    right: float  # where the horizontal axis ends; it starts at 0
    title: str = "seconds since the start"
    marks: Sequence[tuple[float, str]] = ()
    durations: bool = False  # the vertical axis is logarithmic, in seconds
    named: Sequence[tuple[float, str]] = ()  # labels of the horizontal axis; default: round numbers

    @cached_property
    def across(self) -> list[float]:
        """The values of the lines across, from the bottom up, in equal distances."""
        values = [value for one in self.series for _, value in one.points if value]
        if not self.durations:
            top, step = scale(values, round_number)
            return [step * n for n in range(round(top / step) + 1)]
        low = math.floor(math.log10(max(_LEAST_SECONDS, min(values, default=0.001))) + 1e-9)
        high = math.ceil(math.log10(max(values, default=0.001)) - 1e-9)
        return [10.0**power for power in range(low, max(low + 1, high) + 1)]

    @property
    def labels(self) -> list[str]:
        """The numbers beside the lines across, from the top down."""
        return [as_duration(at) if self.durations else thousands(at) for at in reversed(self.across)]

    @property
    def ticks(self) -> Sequence[tuple[float, str]]:
        """The labels of the horizontal axis."""
        step = round_number(self.right / _MOST_TICKS)
        return self.named or [(step * n, thousands(step * n)) for n in range(int(self.right / step + 1e-9) + 1)]

    def runs(self, one: Series) -> list[Run]:
        """The parts of a line between its gaps, in the coordinates of levelq.charts."""
        points = _stepped(one.points) if one.steps else one.points
        return runs((at / self.right, None if value is None else self._height(value)) for at, value in points)

    def _height(self, value: float) -> float:
        low, high = self.across[0], self.across[-1]
        return math.log(max(value, low) / low, high / low) if self.durations else value / high


def _stepped(points: Sequence[Point]) -> Iterator[Point]:
    for number, (at, value) in enumerate(points):
        if number:
            yield at, points[number - 1][1]
        yield at, value


def save(path: Path, title: str, charts: Sequence[tuple[str, Chart]]) -> None:
    """Save charts of numbers one below the other as one picture; each has a name."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - only the picture needs it, and it is slow to import

    figure = Figure((11, 3.3 * len(charts)), dpi=110, layout="constrained")
    figure.suptitle(title, fontsize=14, fontweight="bold")
    for axes, (name, chart) in zip(figure.subplots(len(charts), squeeze=False)[:, 0], charts, strict=True):
        _draw(axes, chart)
        axes.set_title(name, loc="left", fontsize=10)
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=len(chart.series), frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _draw(axes: Any, chart: Chart) -> None:
    axes.set_frame_on(False)
    axes.set(xlim=(0, chart.right), ylim=(0, chart.across[-1]), yticks=chart.across)
    axes.set_yticks(chart.across, reversed(chart.labels), color=_DIM)
    axes.set_xlabel(chart.title, loc="right", color=_DIM)
    axes.tick_params(length=0, colors=_DIM)
    axes.grid(axis="y", color=_RULE, clip_on=False)
    axes.set_axisbelow(True)
    for at, text in chart.marks:
        axes.axvline(at, color=_DIM, linestyle=(0, (2, 3)), linewidth=1)
        side = "right" if at > 0.8 * chart.right else "left"  # the word stays within the chart
        axes.text(at, 0.99, f"\u00a0{text}\u00a0", transform=axes.get_xaxis_transform(), ha=side, va="top", color=_DIM)
    for one in reversed(chart.series):
        x, y = zip(*one.points, strict=True)
        known = [math.nan if value is None else value for value in y]
        style = {"color": _INK[one.colour], "clip_on": False}
        axes.plot(x, known, label=one.name, linewidth=1.8, drawstyle="steps-post" if one.steps else "default", **style)
        if one.filled:
            axes.fill_between(x, known, alpha=0.16, linewidth=0, step="post" if one.steps else None, **style)
