"""The results as tables in the terminal and as pictures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import matplotlib as mpl
from rich.console import Console
from rich.table import Table

from .drain import Drained
from .rivals.kinds import Rival

mpl.use("Agg")
from matplotlib import pyplot as plt

LEVELQ_COLOR, OTHER_COLOR, LIMIT_COLOR = "#2f6b2a", "#8a94a6", "#e45756"
ERROR_BARS = {"ecolor": "#333", "linewidth": 1}


class Goal(NamedTuple):
    """One line of the table of goals: the goal, what was measured, and whether that meets it."""

    what: str
    asked: str
    measured: str
    met: bool


def spread(values: Sequence[float], digits: int = 0) -> str:
    """The median, with the lowest and the highest value."""
    middle, low, high = (f"{value:,.{digits}f}" for value in (median(values), min(values), max(values)))
    return middle if len(values) == 1 else f"{middle} ({low} to {high})"


def rivals_table(title: str, rivals: Sequence[Rival], drained: Sequence[Drained]) -> Table:
    """Each rival's rate and promises, the fastest last."""
    table = Table(title=title, title_justify="left")
    for name in ("", "how", "commands a second", "levelq is", "order per user", "exactly once", "a killed worker's"):
        table.add_column(name, justify="right" if name in ("commands a second", "levelq is") else "left")
    rates = {rival.name: [trial.rate for trial in drained if trial.rival == rival.name] for rival in rivals}
    best = median(rates["levelq"])
    for rival in sorted(rivals, key=lambda rival: median(rates[rival.name])):
        factor = "" if rival.name == "levelq" else f"{best / median(rates[rival.name]):,.0f} x"
        digits = 1 if median(rates[rival.name]) < 10 else 0
        table.add_row(rival.name, rival.how, spread(rates[rival.name], digits), factor, *rival.promises)
    return table


def goals_table(goals: Iterable[Goal]) -> Table:
    """Goals and measurements."""
    table = Table("what", "asked", "measured", "", title="Goals", title_justify="left")
    for what, asked, measured, met in goals:
        table.add_row(what, asked, measured, "[green]met[/]" if met else "[red]missed[/]")
    return table


def plain(table: Table) -> str:
    """A table as text, for a file."""
    console = Console(width=200, record=True, file=Path("/dev/null").open("w"))  # noqa: SIM115
    console.print(table)
    return console.export_text()


def draw_rivals(path: Path, drained: dict[str, Sequence[Drained]]) -> None:
    """Bars on a logarithmic axis."""
    figure, panels = plt.subplots(1, len(drained), figsize=(13, 4.2), layout="constrained")
    for axes, (title, trials) in zip(panels, drained.items(), strict=True):
        rates: dict[str, list[float]] = {}
        for trial in trials:
            rates.setdefault(trial.rival, []).append(trial.rate)
        names = sorted(rates, key=lambda name: median(rates[name]))
        middles = [median(rates[name]) for name in names]
        bars = errors([rates[name] for name in names])
        colors = [LEVELQ_COLOR if name == "levelq" else OTHER_COLOR for name in names]
        axes.barh(names, middles, color=colors, xerr=bars, error_kw=ERROR_BARS)
        axes.set_xscale("log")
        axes.set_xlim(1, 5 * middles[-1])
        for row, (middle, values) in enumerate(zip(middles, (rates[name] for name in names), strict=True)):
            axes.annotate(
                f"{middle:,.0f}" if middle >= 10 else f"{middle:.1f}", (max(values), row), xytext=(5, 0),
                textcoords="offset points", va="center", fontweight="bold",
            )  # fmt: skip
        axes.set_title(title)
        axes.set_xlabel("commands a second (each step is ten times)")
        plain_axes(axes)
    figure.suptitle("Two worker processes, the same commands", fontsize=14, fontweight="bold")
    save(figure, path)


def draw_parts(path: Path, trials: dict[str, Drained], ceilings: dict[str, float]) -> None:
    """The processor time of a command by part, and that of PostgreSQL alone."""
    figure, axes = plt.subplots(figsize=(10, 3.6), layout="constrained")
    names = list(trials)
    left = [0.0] * len(names)
    for part, color in (("workers", "#4c78a8"), ("PostgreSQL", "#72b7b2"), ("Redis", "#f58518")):
        values = [trials[name].parts[part] for name in names]
        bars = axes.barh(names, values, left=left, color=color, label=part)
        axes.bar_label(bars, fmt="%.0f", label_type="center", color="white", fontweight="bold")
        left = [a + b for a, b in zip(left, values, strict=True)]
    for row, name in enumerate(names):
        at = 2e6 / ceilings[name]
        axes.plot((at, at), (row - 0.45, row + 0.45), color=LIMIT_COLOR, linewidth=2.5)
    axes.plot([], [], color=LIMIT_COLOR, linewidth=2.5, label="two cores at the ceiling: PostgreSQL alone")
    axes.set_xlabel("microseconds of processor time per command")
    axes.legend(frameon=False, ncols=4, loc="upper center", bbox_to_anchor=(0.45, 1.18))
    plain_axes(axes)
    save(figure, path)


def draw_waits(path: Path, curves: dict[str, Sequence[float]], unit: str) -> None:
    """The share of the commands that was committed, by time."""
    figure, axes = plt.subplots(figsize=(10, 4), layout="constrained")
    for (name, waits), color in zip(curves.items(), ("#4c78a8", "#f58518", LEVELQ_COLOR, LIMIT_COLOR), strict=False):
        shares = [100 * (number + 1) / len(waits) for number in range(len(waits))]
        axes.plot(waits, shares, label=name, color=color, linewidth=2)
    axes.set_ylim(0, 101)
    axes.set_xlim(left=0)
    axes.set_ylabel("committed, per cent")
    axes.set_xlabel(unit)
    if len(curves) > 1:
        axes.legend(frameon=False, loc="lower right")
    else:
        axes.set_title(next(iter(curves)), fontsize=14, fontweight="bold")
    plain_axes(axes)
    save(figure, path)


def errors(every: Sequence[Sequence[float]]) -> list[list[float]]:
    """How far below and above its median each row reaches."""
    return [[median(some) - min(some) for some in every], [max(some) - median(some) for some in every]]


def plain_axes(axes: Any, grid: str = "x") -> None:
    """No frame, and a grid along one axis."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, alpha=0.3)
    axes.set_axisbelow(True)


def save(figure: Any, path: Path) -> None:
    """Write the picture and release it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
