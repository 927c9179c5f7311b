"""Charts of pages: from values to the round numbers of an axis and the coordinates of inline SVG.

The drawing stretches with the page, so names, numbers and times stand beside it as text and keep their size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from math import ceil, floor, log10

WIDTH, HEIGHT = 600, 100  # of the drawing's own coordinates
MOST_STEPS = 4  # lines across, above the lowest

Value = float | None
Run = list[tuple[float, float]]  # the points of a line between two gaps


def scale(values: Iterable[Value], round_step: Callable[[float], float]) -> tuple[float, float]:
    """The top of an axis from 0 that holds the values, and the distance of its lines, of which there are few.

    `round_step`: the next round number that is not smaller. With nothing above 0, the axis has one step.
    """
    most = max((value for value in values if value is not None), default=0.0)
    step = round_step(most / MOST_STEPS if most > 0 else 1.0)
    return step * max(1, ceil(most / step - 1e-9)), step


def round_number(least: float) -> float:
    """The next of 1, 2, 2.5, 5 and 10, times a power of ten."""
    power = 10.0 ** floor(log10(least))
    return next(power * number for number in (1, 2, 2.5, 5, 10) if power * number >= least)


def runs(points: Iterable[tuple[float, Value]]) -> list[Run]:
    """The parts of a line, in the drawing's coordinates. A point is a share of the width and one of the height.

    Where the height is None, nothing is known, which leaves a gap.
    """
    parts = groupby(points, key=lambda point: point[1] is not None)
    return [
        [(short(WIDTH * x), short(HEIGHT * (1 - (y or 0.0)))) for x, y in run] for is_known, run in parts if is_known
    ]


def path(parts: Sequence[Run]) -> str:
    """The line as SVG's path: a part for each run of known values."""
    return "".join(f"M{_along(run)}" for run in parts if len(run) > 1)


def dots(parts: Sequence[Run]) -> str:
    """The single values between gaps: a line of no length, which its round ends make a dot."""
    return "".join(f"M{_along(run)}h0" for run in parts if len(run) == 1)


def area(parts: Sequence[Run]) -> str:
    """What is below the line, as SVG's path."""
    return "".join(f"M{run[0][0]} {HEIGHT}L{_along(run)}V{HEIGHT}Z" for run in parts)


def short(value: float) -> float:
    """A coordinate, as exact as can be seen."""
    return round(value, 2)


def _along(run: Run) -> str:
    return "L".join(f"{x} {y}" for x, y in run)
