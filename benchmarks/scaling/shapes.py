"""Drains of several shapes: the cost of each command, with the lanes and batches that the ledger counts."""

from __future__ import annotations

from typing import NamedTuple

from benchmarks.capacity.costs import Shape

from ..drain import Drained, timed_drain
from ..rivals.levelq import Levelq
from ..site import Site
from ..workload import Workload

# From the ledger: each row names its batch, and a lane is taken once in each batch that has commands of it.
COUNTED = """
    SELECT sum(commands)::bigint, count(*), count(*) FILTER (WHERE commands > 1), count(DISTINCT batch)
    FROM (SELECT batch, count(*) AS commands FROM levelq_ledger GROUP BY batch, user_id) AS lanes
"""
LEARNERS = 240_000  # however many level up, so that rows and index entries lie equally far apart for all shapes


class Point(NamedTuple):
    """A drain to measure: some commands for each user, limits of a batch, worker processes."""

    commands_per_lane: int
    commands: int
    batch_lanes: int = 1_000
    batch_commands: int = 5_000
    workers: int = 2
    fitted: bool = True

    @property
    def name(self) -> str:
        """For tables and files."""
        return f"{self.commands_per_lane} per lane, {self.in_batch:,} per batch, {self.workers} workers"

    @property
    def in_batch(self) -> int:
        """Commands of a batch that is full."""
        return min(self.batch_commands, self.batch_lanes * self.commands_per_lane)

    @property
    def limits(self) -> dict[str, str]:
        """The settings that make it so."""
        return {"LEVELQ_BATCH_LANES": str(self.batch_lanes), "LEVELQ_BATCH_COMMANDS": str(self.batch_commands)}

    @property
    def workload(self) -> Workload:
        """Some of the learners, each with the same number of commands."""
        users = self.commands // self.commands_per_lane
        return Workload(self.name, users, self.commands, LEARNERS // users)

    @property
    def shape(self) -> Shape:
        """The shape that the model assumes before the drain."""
        return Shape.of(self.commands_per_lane, self.batch_commands, self.batch_lanes)


class Trial(NamedTuple):
    """The result: lanes and batches for each command, from the ledger, and what drain.py measured."""

    point: Point
    shape: Shape
    drained: Drained

    @property
    def us(self) -> dict[str, float]:
        """Microseconds of a core for each command, by part, with the names of the capacity model."""
        return {name.lower(): spent for name, spent in self.drained.parts.items()}


# The extremes of each dimension are fitted; points between them are predicted. Each drain lasts for seconds, or the
# start of the workers would be a part of the measurement.
POINTS = (
    Point(1, 120_000),
    Point(5, 240_000),
    Point(100, 360_000),
    Point(1, 60_000, batch_lanes=50),
    Point(100, 240_000, batch_commands=500),
    Point(1, 75_000, workers=1),
    Point(100, 240_000, workers=1),
    Point(1, 45_000, batch_lanes=50, workers=1),
    Point(3, 180_000, fitted=False),
    Point(10, 300_000, fitted=False),
    Point(1, 90_000, batch_lanes=250, fitted=False),
    Point(10, 240_000, batch_commands=1_500, fitted=False),
    Point(3, 135_000, workers=1, fitted=False),
    Point(2, 180_000, workers=4, fitted=False),
)


def measure(site: Site, point: Point) -> Trial:
    """Drain it once."""
    drained = timed_drain(site, Levelq(point.workers, **point.limits), point.workload)
    commands, *counted = site.database.execute(COUNTED).fetchone() or (0,)
    assert commands == drained.commands == point.commands
    return Trial(point, Shape(*(number / commands for number in counted)), drained)
