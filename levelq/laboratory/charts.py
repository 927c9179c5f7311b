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
    "grey": "#7c8798",
    "green": "#1f8a4c",
    "orange": "#c7690a",
    "red": "#c0392b",
    "pale": "#7db3f0",
    "blue": "#3b82d6",
    "deep": "#174f96",
}
_VARIABLES = {colour: f"var(--{name})" for name, colour in COLOURS.items()} | {_DIM: "var(--dim)", _RULE: "var(--rule)"}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text, in the page's font
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.spines.bottom": False,
    "axes.labelcolor": _DIM,
    "axes.labelpad": 2,
    "grid.color": _RULE,
    "grid.linewidth": 1,
    "xaxis.labellocation": "right",
    "xtick.color": _DIM,
    "xtick.major.size": 4,
    "ytick.color": _DIM,
    "ytick.major.size": 0,
    "ytick.major.pad": 8,
    "lines.solid_joinstyle": "round",
    "lines.solid_capstyle": "round",
}
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
        with mpl.rc_context(_STYLE | {"font.size": 11.5}):
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
        axes.grid(axis="y", clip_on=False)
        axes.set_axisbelow(True)
        axes.set_xlabel(self.title)
        for at, text in self.marks:
            axes.axvline(at, color=_DIM, linestyle=(0, (2, 3)), linewidth=1, clip_on=False)
            side = "right" if at > 0.8 * self.right else "left"  # the word stays within the chart
            axes.text(
                at, 0.99, f"\u00a0{text}\u00a0", transform=axes.get_xaxis_transform(), ha=side, va="top", color=_DIM
            )
        for one in reversed(self.series):
            self._line(axes, one)
        self._scale(axes)

    def _line(self, axes: Any, one: Series) -> None:
        x = [at for at, _ in one.points]
        y = [max(value, _LEAST_SECONDS) if self.durations else value for _, value in one.points]
        gap = [True, *map(math.isnan, y), True]
        alone = [n for n in range(len(y)) if not gap[n + 1] and gap[n] and gap[n + 2]]  # a line needs two points
        style = {"color": COLOURS[one.colour], "clip_on": False}
        width, alpha = (4, 0.5) if one.broad else (1.8, 1)
        (line,) = axes.plot(x, y, label=one.name, linewidth=width, alpha=alpha, **style)
        line.set_drawstyle("steps-post" if one.steps else "default")
        if alone:
            axes.plot([x[n] for n in alone], [y[n] for n in alone], "o", markersize=2, **style)
        if one.filled:
            axes.fill_between(x, y, alpha=0.16, linewidth=0, step="post" if one.steps else None, **style)

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
    with mpl.rc_context(_STYLE):
        figure = Figure((11, 3.3 * len(charts)), dpi=110, layout="constrained")
        figure.suptitle(title, fontsize=14, fontweight="bold")
        for axes, (name, chart) in zip(figure.subplots(len(charts), squeeze=False)[:, 0], charts, strict=True):
            chart.draw(axes)
            axes.set_title(name, loc="left", fontsize=10)
            axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=len(chart.series), frameon=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
