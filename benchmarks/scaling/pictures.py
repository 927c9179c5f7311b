"""The pictures of docs/scaling.md."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from matplotlib import pyplot as plt
from matplotlib.patches import Rectangle

from ..report import ERROR_BARS, LEVELQ_COLOR, LIMIT_COLOR, OTHER_COLOR, errors, plain_axes, save
from .crowd import LOADS, WORKERS, Crowded, rates, shares
from .fitting import Predicted

PARTS = (("workers", "#4c78a8"), ("PostgreSQL", "#72b7b2"), ("Redis", "#f58518"))
WITHIN = 0.15


def predictions(path: Path, found: Sequence[Predicted]) -> None:
    """Measured and predicted rates, with a band of 15 % around each measured one."""
    figure, axes = plt.subplots(figsize=(10, 0.45 * len(found) + 1.4), layout="constrained")
    for row, one in enumerate(reversed(found)):
        band = (one.rate * (1 - WITHIN), row - 0.3), 2 * WITHIN * one.rate, 0.6
        axes.add_patch(Rectangle(*band, color=OTHER_COLOR, alpha=0.3, linewidth=0))
        axes.plot(one.rate, row, "|", color="#333", markersize=14, markeredgewidth=2)
        color = LEVELQ_COLOR if abs(one.off) <= WITHIN else LIMIT_COLOR
        face = "none" if one.point.fitted else color
        axes.plot(one.predicted_rate, row, "o", color=color, markersize=8, markerfacecolor=face)
    axes.set_yticks(range(len(found)), [one.point.name for one in reversed(found)])
    axes.plot([], [], "|", color="#333", markersize=14, markeredgewidth=2, label="measured, and 15 % around it")
    axes.plot([], [], "o", color=LEVELQ_COLOR, markerfacecolor="none", label="the model, fitted to it")
    axes.plot([], [], "o", color=LEVELQ_COLOR, label="the model, not fitted to it")
    axes.set_xlim(left=0)
    axes.set_xlabel("commands a second")
    axes.legend(frameon=False, loc="lower right")
    plain_axes(axes)
    save(figure, path)


def crowd(path: Path, trials: Sequence[Crowded]) -> None:
    """For each load a row: throughput, processor time by part, contention."""
    figure, rows = plt.subplots(len(LOADS), 3, figsize=(13, 3.6 * len(LOADS)), layout="constrained")
    names = [str(n) for n in WORKERS]
    for axes, load in zip(rows, LOADS, strict=True):
        of_load = [t for t in trials if t.load == load.name]
        _throughput(axes[0], of_load, names)
        _parts(axes[1], of_load, names)
        _contention(axes[2], of_load, names)
        axes[0].set_ylabel(load.name, fontweight="bold")
    for axis in rows[-1]:
        axis.set_xlabel("worker processes")
    figure.suptitle("More workers on the same load, two cores for all", fontsize=14, fontweight="bold")
    save(figure, path)


def _throughput(axes: Any, trials: Sequence[Crowded], names: Sequence[str]) -> None:
    middles = list(rates(trials, trials[0].load).values())
    every = [[t.drained.rate for t in trials if t.workers == n] for n in WORKERS]
    axes.bar(names, middles, color=LEVELQ_COLOR, yerr=errors(every), error_kw=ERROR_BARS)
    axes.axhline(0.9 * max(middles), color=LIMIT_COLOR, linewidth=1.5, label="0.9 of the best")
    axes.set_title("commands a second")
    axes.set_ylim(0, 1.25 * max(map(max, every)))
    axes.legend(frameon=False, loc="upper left")
    plain_axes(axes, "y")


def _parts(axes: Any, trials: Sequence[Crowded], names: Sequence[str]) -> None:
    below = [0.0] * len(names)
    for part, color in PARTS:
        values = [median(t.drained.parts[part] for t in trials if t.workers == n) for n in WORKERS]
        bars = axes.bar(names, values, bottom=below, color=color, label=part)
        axes.bar_label(bars, fmt="%.0f", label_type="center", color="white", fontweight="bold")
        below = [a + b for a, b in zip(below, values, strict=True)]
    axes.set_title("microseconds of processor time per command")
    axes.set_ylim(0, 1.35 * max(below))
    axes.legend(frameon=False, loc="upper left", ncols=3)
    plain_axes(axes, "y")


def _contention(axes: Any, trials: Sequence[Crowded], names: Sequence[str]) -> None:
    found = [shares([t for t in trials if t.workers == n]) for n in WORKERS]
    labels = (("empty", "claims that found nothing"), ("parked", "lanes parked"), ("lost", "claims lost"))
    for (name, label), color in zip(labels, (OTHER_COLOR, "#f58518", LIMIT_COLOR), strict=True):
        axes.plot(names, [100 * share[name] for share in found], "o-", color=color, label=label)
    twice = sum(t.twice for t in trials)
    axes.set_title(f"per cent of claims or lanes; applied twice: {twice}")
    axes.set_ylim(0, 1.6 * max(1.0, *(100 * share for some in found for share in some.values())))
    axes.legend(frameon=False, loc="upper left")
    plain_axes(axes, "y")
