"""What made recent batches of this process fail, so that the next ones begin with it in mind. All of it is bounded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from .codec import Lane
from .screening import Remembered
from .work import Work

MOST_LANES = 10_000  # the oldest are forgotten first


class Suspects:
    """Check constraints that refused commands, and lanes whose error was theirs alone or everybody's."""

    def __init__(self) -> None:
        self.checks = Remembered()
        self._lanes: dict[Lane, None] = {}

    def add(self, lane: Lane) -> None:
        """Of this lane a command failed by itself."""
        self._lanes.pop(lane, None)
        self._lanes[lane] = None
        if len(self._lanes) > MOST_LANES:
            del self._lanes[next(iter(self._lanes))]

    def clear(self, lanes: Iterable[Lane]) -> None:
        """These lanes went through."""
        for lane in lanes if self._lanes else ():
            self._lanes.pop(lane, None)

    def apart(self, works: Sequence[Work]) -> list[Sequence[Work]]:
        """A batch, sorted, in parts that are: each suspect by itself, and what lies between them, still in order.

        A lane that comes back while its error lasts would otherwise fail all the others first, at each halving. If
        most are suspects, that saves nothing.
        """
        if not self._lanes or 2 * sum(work.lane in self._lanes for work in works) > len(works):
            return [works]
        parts: list[Sequence[Work]] = []
        for suspect, part in groupby(works, key=lambda work: work.lane in self._lanes):
            found = list(part)
            parts += [[work] for work in found] if suspect else [found]
        return parts
