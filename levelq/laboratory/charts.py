"""Line charts by matplotlib: as SVG in the colours of an HTML page, light or dark, or as one picture in a file."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from .page import Html, element, join

_SIZE = (640 / 72, 250 / 72)  # of an SVG: 640 by 250 units
_FRAME = (62 / 640, 34 / 250, 564 / 640, 204 / 250)  # left, bottom, width and height of its axes
_DIM, _RULE = "#5d6878", "#e1e5eb"
# By CSS class of the page. In an SVG the page's variables replace the colours, so that they follow its light or dark.
COLOURS = {
    "grey": "#7c8798", "green": "#1f8a4c", "orange": "#c7690a", "red": "#c0392b",
    "pale": "#7db3f0", "blue": "#3b82d6", "deep": "#174f96",
}  # fmt: skip
_VARIABLES = {colour: f"var(--{name})" for name, colour in COLOURS.items()} | {_DIM: "var(--dim)", _RULE: "var(--rule)"}
_LEAST_SECONDS = 0.0001  # an axis of durations shows what is shorter at its end
_NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))
# What the page has no use for: comments, namespaces, the names of groups.
_NEEDLESS = re.compile(r"""<!--.*?-->|<style.*?</style>| xmlns(:\w+)?="[^"]*"| id="\w+_\d+"|\n\s*""", re.DOTALL)

Point = tuple[float, float]


class Series(NamedTuple):
    """One line, interrupted where a value is nan. `steps`: each value holds until the next point."""

    name: str
    points: Sequence[Point]
    colour: str
    filled: bool = False
    steps: bool = False
    broad: bool = False


def thousands(value: float, _: object = None) -> str:
    """A number as an axis shows it."""
    return f"{value:,.10g}"


def as_duration(seconds: float, _: object = None) -> str:
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
    ticks: Sequence[tuple[float, str]] = ()  # of the horizontal axis; default: round numbers

    def svg(self) -> Html:
        """The legend, and the SVG."""
        with mpl.rc_context({"svg.fonttype": "none", "font.size": 11.5}):
            figure = Figure(_SIZE)
            self.draw(figure.add_axes(_FRAME))
            drawn = io.StringIO()
            figure.savefig(drawn, format="svg", transparent=True, metadata=_NO_METADATA)
        text = drawn.getvalue()
        text = _NEEDLESS.sub(" ", text[text.index("<svg") :])
        for colour, variable in _VARIABLES.items():
            text = text.replace(colour, variable)
        names = [Html(f'<span class="{one.colour}"><i></i>{join([one.name])}</span>') for one in self.series]
        return join([element("div", join(names), "legend"), Html(text)])

    def draw(self, axes: Any) -> None:
        """Draw it on matplotlib's axes."""
        axes.set_axisbelow(True)
        axes.spines[:].set_visible(False)
        axes.grid(axis="y", color=_RULE, linewidth=1, clip_on=False)
        axes.tick_params(axis="y", length=0, pad=8, labelcolor=_DIM)
        axes.tick_params(axis="x", length=4, pad=3, color=_DIM, labelcolor=_DIM)
        axes.set_xlabel(self.title, loc="right", color=_DIM, labelpad=2)
        for at, text in self.marks:
            side = -1 if at > 0.8 * self.right else 1  # the word stays within the chart
            axes.axvline(at, color=_DIM, linestyle=(0, (2, 3)), linewidth=1, clip_on=False)
            axes.annotate(
                text, (at, 1), xycoords=("data", "axes fraction"), xytext=(4 * side, -9), textcoords="offset points",
                ha="left" if side > 0 else "right", color=_DIM,
            )  # fmt: skip
        for one in reversed(self.series):
            self._line(axes, one)
        self._scale(axes)

    def _line(self, axes: Any, one: Series) -> None:
        x = [at for at, _ in one.points]
        y = [max(value, _LEAST_SECONDS) if self.durations else value for _, value in one.points]
        gap = [True, *map(math.isnan, y), True]
        alone = [n for n in range(len(y)) if not gap[n + 1] and gap[n] and gap[n + 2]]  # a line needs two points
        axes.plot(
            x, y, color=COLOURS[one.colour], drawstyle="steps-post" if one.steps else "default", label=one.name,
            linewidth=4 if one.broad else 1.8, alpha=0.5 if one.broad else 1, clip_on=False,
            solid_capstyle="round", solid_joinstyle="round",
        )  # fmt: skip
        if alone:
            axes.plot([x[n] for n in alone], [y[n] for n in alone], "o", color=COLOURS[one.colour], markersize=2)
        if one.filled:
            step = "post" if one.steps else None
            axes.fill_between(x, y, color=COLOURS[one.colour], alpha=0.16, linewidth=0, step=step, clip_on=False)

    def _scale(self, axes: Any) -> None:
        values = [value for one in self.series for _, value in one.points if value > 0] or [0.001]
        axes.set_xlim(0, self.right)
        if self.ticks:
            axes.xaxis.set_major_locator(FixedLocator([at for at, _ in self.ticks]))
            axes.set_xticklabels([text for _, text in self.ticks])
        else:
            axes.xaxis.set_major_formatter(FuncFormatter(thousands))
        if self.durations:
            low = math.floor(math.log10(max(_LEAST_SECONDS, min(values))) + 1e-9)
            high = max(low + 1, math.ceil(math.log10(max(values)) - 1e-9))
            axes.set_yscale("log")
            axes.set_ylim(10.0**low, 10.0**high)
            axes.yaxis.set_minor_locator(NullLocator())
        else:
            ticks = MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]).tick_values(0, max(values))
            axes.set_yticks(ticks)
            axes.set_ylim(0, ticks[-1])
        axes.yaxis.set_major_formatter(FuncFormatter(as_duration if self.durations else thousands))


def save(path: Path, title: str, charts: Sequence[tuple[str, Chart]]) -> None:
    """Save charts one below the other as one picture; each has a name."""
    figure = Figure((11, 3.3 * len(charts)), dpi=110, layout="constrained")
    figure.suptitle(title, fontsize=14, fontweight="bold")
    for axes, (name, chart) in zip(figure.subplots(len(charts), squeeze=False)[:, 0], charts, strict=True):
        chart.draw(axes)
        axes.set_title(name, loc="left", fontsize=10)
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=len(chart.series), frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
