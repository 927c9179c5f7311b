"""From trials to costs: least squares without negative costs, and the error at points that were not fitted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from statistics import median
from typing import NamedTuple

import numpy as np

from benchmarks.capacity.costs import PARTS, Costs, Drains, Shape, Terms

from ..drain import CORES
from .shapes import Point, Trial

_NAMES = ("command", "lane", "deep", "batch")


class Predicted(NamedTuple):
    """One point: the median of the measurements, and the model's prediction."""

    point: Point
    rate: float
    predicted_rate: float
    us: float
    predicted_us: float
    outside: float  # the share of the cores that other processes used

    @property
    def off(self) -> float:
        """The relative error of the predicted rate."""
        return self.predicted_rate / self.rate - 1

    @property
    def us_off(self) -> float:
        """The relative error of the processor time of a command."""
        return self.predicted_us / self.us - 1


def fit(trials: Sequence[Trial]) -> Drains:
    """The processor time of each part for each command, lane and batch, from the points to fit.

    Without those of a single worker: it leaves each core its caches, and everything is cheaper then.
    """
    points = _medians([t for t in trials if t.point.fitted and t.point.workers > 1])
    return Drains(**{part: _terms([(shape, us[part]) for shape, us in points]) for part in PARTS})


def _medians(trials: Sequence[Trial]) -> list[tuple[Shape, dict[str, float]]]:
    found = []
    for _, of_point in by_point(trials):
        shape = Shape(*(median(column) for column in zip(*(t.shape for t in of_point), strict=True)))
        found.append((shape, {part: median(t.us[part] for t in of_point) for part in PARTS}))
    return found


def by_point(trials: Sequence[Trial]) -> Iterator[tuple[Point, list[Trial]]]:
    """The trials of each point, in the order of the points."""
    for point in dict.fromkeys(trial.point for trial in trials):
        yield point, [trial for trial in trials if trial.point == point]


def _terms(measured: Sequence[tuple[Shape, float]]) -> Terms:
    amounts = least_squares([(1.0, *shape) for shape, _ in measured], [us for _, us in measured])
    return Terms(**dict(zip(_NAMES, amounts, strict=True)))


def least_squares(rows: Sequence[Sequence[float]], values: Sequence[float]) -> list[float]:
    """The non-negative amounts with the least squares of relative errors; tries each combination of columns."""
    scale = np.array(values)
    matrix, ones = np.array(rows) / scale[:, None], np.ones(len(values))
    columns = range(matrix.shape[1])
    best, least = [0.0 for _ in columns], float("inf")
    for kept in (some for number in columns for some in combinations(columns, number + 1)):
        found = np.linalg.lstsq(matrix[:, kept], ones, rcond=None)[0]
        error = float(np.sum((matrix[:, kept] @ found - ones) ** 2))
        if (found >= 0).all() and error < least:
            best, least = [0.0 for _ in columns], error
            for column, amount in zip(kept, found, strict=True):
                best[column] = float(amount)
    return best


def utilisation(trials: Sequence[Trial]) -> float:
    """The share of the cores that levelq's parts use with as many workers as cores."""
    fitted = [t for t in trials if t.point.fitted and t.point.workers >= CORES]
    return min(1.0, median(median(trial.drained.busy for trial in some) for _, some in by_point(fitted)))


def wait_us(trials: Sequence[Trial], drains: Drains, busy: float) -> float:
    """How long a lone worker waits in each small batch, mostly for the disk, besides its own work and PostgreSQL's."""
    waits = []
    for trial in trials:
        if trial.point.fitted and trial.point.workers == 1 and trial.point.in_batch < 1_000:
            work = (drains.workers.each(trial.shape) + drains.postgresql.each(trial.shape)) / busy
            waits.append((1e6 / trial.drained.rate - work) / trial.shape.batches)
    return max(0.0, median(waits))


def predictions(trials: Sequence[Trial], costs: Costs) -> list[Predicted]:
    """Every point, fitted ones first."""
    found = []
    for point, some in by_point(trials):
        rate, us = median(t.drained.rate for t in some), median(sum(t.us.values()) for t in some)
        predicted = costs.rate(point.shape, point.workers), costs.drain_us.each(point.shape)
        found.append(Predicted(point, rate, predicted[0], us, predicted[1], median(t.drained.outside for t in some)))
    return sorted(found, key=lambda one: not one.point.fitted)
