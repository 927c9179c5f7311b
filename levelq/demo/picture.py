"""One picture of the run: what waited and what was applied, over time, and the kill."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

from levelq.laboratory.sampler import Sample

from .figures import Figures, rate_curve
from .kill import WorkerKill
from .scenario import Scenario

_STEP_SECONDS = 0.1
_BLUE, _GREEN, _DEEP_GREEN, _ORANGE, _RED = "#4c78a8", "#54a24b", "#2f6b2a", "#f58518", "#e45756"


def draw(
    path: Path,
    scenario: Scenario,
    figures: Figures,
    samples: Sequence[Sample],
    pushes: Sequence[tuple[float, float]],
    kill: WorkerKill,
) -> None:
    """Write the PNG. `pushes`: when the senders pushed, as Unix times from and to."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415 - the backend must be chosen first

    start, end = min(begun for begun, _ in pushes), samples[-1].at
    workers_at = min((batch.begun for batch in figures.batches), default=start)
    figure, (above, below) = plt.subplots(2, 1, figsize=(11, 6.5), sharex=True, layout="constrained")
    times, waiting = [sample.at - start for sample in samples], [sample.waiting for sample in samples]
    above.fill_between(times, waiting, color=_BLUE, alpha=0.35)
    above.plot(times, waiting, color=_BLUE, linewidth=2)
    above.set_ylabel("commands waiting")
    for begun, ended in pushes:
        above.plot((begun - start, ended - start), (0, 0), color=_ORANGE, linewidth=7, solid_capstyle="butt", zorder=3)
    _label(above, 0.0, 6, "producers push (orange)", "#b8610a")
    _label(above, workers_at - start, -6, "\nworkers are up", _DEEP_GREEN)
    killed = f"worker killed (SIGKILL):\nits claims expire in {kill.seconds:.1f} s"
    _label(above, kill.killed_at - start, 6, killed, "#b03a39")
    _throughput(below, figures, start, end)
    for axes in (above, below):
        axes.axvspan(kill.killed_at - start, kill.killed_at + kill.seconds - start, color=_RED, alpha=0.12, linewidth=0)
        axes.axvline(kill.killed_at - start, color=_RED, linewidth=2)
        axes.axvline(workers_at - start, color=_DEEP_GREEN, linewidth=1.2, linestyle=":")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.3)
        axes.set_xlim(0, end - start)
        axes.set_ylim(0, 1.35 * axes.get_ylim()[1])  # room for the labels
        axes.yaxis.set_major_formatter(mpl.ticker.FuncFormatter(lambda value, _: f"{value:,.0f}"))
    below.set_xlabel("seconds since the first push")
    title = f"{scenario.commands:,} commands from {scenario.users:,} users, a worker killed in the middle"
    figure.suptitle(f"{title}: {figures.burst_rate:,.0f}/s", fontsize=14, fontweight="bold")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _throughput(axes: Any, figures: Figures, start: float, end: float) -> None:
    rates = rate_curve(figures.batches, start, end, _STEP_SECONDS)
    axes.stairs(rates, [number * _STEP_SECONDS for number in range(len(rates) + 1)], fill=True, color=_GREEN, alpha=0.6)
    axes.axhline(figures.burst_rate, color=_DEEP_GREEN, linestyle="--", linewidth=1.2)
    axes.annotate(
        f"mean without the outage: {figures.burst_rate:,.0f}/s",
        (1, figures.burst_rate), xycoords=("axes fraction", "data"), xytext=(-4, 4), textcoords="offset points",
        ha="right", color=_DEEP_GREEN, bbox={"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 1},
    )  # fmt: skip
    axes.set_ylabel("applied a second")


def _label(axes: Any, at: float, offset: int, text: str, color: str) -> None:
    """A text at the top, right of a time, or left of it if the offset is negative."""
    axes.annotate(
        text, (at, 0.98), xycoords=("data", "axes fraction"), xytext=(offset, 0), textcoords="offset points",
        ha="left" if offset > 0 else "right", va="top", color=color, fontweight="bold",
    )  # fmt: skip
