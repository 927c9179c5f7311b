"""One picture of the run: what waited and what was applied, over time, and the kill."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

from .measuring import Figures, Outage, rate_curve
from .record import Record
from .scenario import Scenario
from .watching import Sample

STEP_SECONDS = 0.1


def draw(
    path: Path,
    scenario: Scenario,
    figures: Figures,
    samples: Sequence[Sample],
    record: Record,
    outage: Outage,
) -> None:
    """Write the PNG."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415 - the backend must be chosen first

    start = min(begun for begun, _ in record.pushes)
    workers_at = min((batch.begun for batch in figures.batches), default=start)
    end = samples[-1].at
    figure, (above, below) = plt.subplots(2, 1, figsize=(11, 6.5), sharex=True, layout="constrained")
    _backlog(above, samples, start)
    _label(above, start, record, workers_at, outage)
    _throughput(below, figures, start, end)
    for axes in (above, below):
        _kill(axes, start, outage)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.3)
        axes.set_xlim(0, end - start)
        axes.axvline(workers_at - start, color="#2f6b2a", linewidth=1.2, linestyle=":")
        axes.set_ylim(0, 1.35 * axes.get_ylim()[1])  # room for the labels
        axes.yaxis.set_major_formatter(mpl.ticker.FuncFormatter(lambda value, _: f"{value:,.0f}"))
    below.set_xlabel("seconds since the first push")
    figure.suptitle(
        f"{scenario.commands:,} commands from {scenario.users:,} users, a worker killed in the middle: "
        f"{figures.burst_rate:,.0f}/s",
        fontsize=14,
        fontweight="bold",
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _backlog(axes: Any, samples: Sequence[Sample], start: float) -> None:
    times = [sample.at - start for sample in samples]
    waiting = [sample.waiting for sample in samples]
    axes.fill_between(times, waiting, color="#4c78a8", alpha=0.35)
    axes.plot(times, waiting, color="#4c78a8", linewidth=2)
    axes.set_ylabel("commands queued")


def _throughput(axes: Any, figures: Figures, start: float, end: float) -> None:
    rates = rate_curve(figures.batches, start, end, STEP_SECONDS)
    times = [number * STEP_SECONDS for number in range(len(rates) + 1)]
    axes.stairs(rates, times, fill=True, color="#54a24b", alpha=0.6)
    axes.axhline(figures.burst_rate, color="#2f6b2a", linestyle="--", linewidth=1.2)
    axes.annotate(
        f"mean without the outage: {figures.burst_rate:,.0f}/s",
        (1, figures.burst_rate), xycoords=("axes fraction", "data"), xytext=(-4, 4), textcoords="offset points",
        ha="right", color="#2f6b2a", bbox={"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 1},
    )  # fmt: skip
    axes.set_ylabel("applied a second")


def _kill(axes: Any, start: float, outage: Outage) -> None:
    axes.axvspan(outage.killed - start, outage.returned - start, color="#e45756", alpha=0.12, linewidth=0)
    axes.axvline(outage.killed - start, color="#e45756", linewidth=2)


def _label(axes: Any, start: float, record: Record, workers_at: float, outage: Outage) -> None:
    for begun, ended in record.pushes:
        axes.plot((begun - start, ended - start), (0, 0), color="#f58518", linewidth=7, solid_capstyle="butt", zorder=3)
    for at, side, text, color in (
        (start, "left", "producers push (orange)", "#b8610a"),
        (workers_at, "right", "\nworkers are up", "#2f6b2a"),
        (outage.killed, "left", f"worker killed (SIGKILL):\nits claims run out in {outage.seconds:.1f} s", "#b03a39"),
    ):
        axes.annotate(
            text,
            (at - start, 0.98),
            xycoords=("data", "axes fraction"),
            xytext=(6 if side == "left" else -6, 0),
            textcoords="offset points",
            ha=side,
            va="top",
            color=color,
            fontweight="bold",
        )
