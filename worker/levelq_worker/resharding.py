"""Changing the number of shards while commands flow; layouts.py tells of the forms that a layout goes through.

An operator begins, and every worker's relay goes on from wherever it stands, so it matters to nobody who dies. Each
step may be done twice and by several at once.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping

from levelq_core.errors import ConfigurationError
from levelq_core.lanes import Lanes
from levelq_core.layouts import Layout
from levelq_core.partitions import Partition
from levelq_core.waking import Waker

from .relay_filling import Filling

log = logging.getLogger("levelq")


def begin(lanes: Lanes, specialization: str, shards: int) -> Layout:
    """Close the generation and open the next, with so many shards; the layout then.

    Raises ConfigurationError if a change is under way, or if there is nothing to change.
    """
    layout = lanes.layouts([specialization])[specialization]
    if not layout.steady:
        wanted = layout.becoming or layout.shards
        raise ConfigurationError(
            f"{specialization}: a change to {wanted} shards is under way; `levelq shards` tells how far it is"
        )
    if layout.shards == shards:
        raise ConfigurationError(f"{specialization}: expected another number of shards than {shards}, which it has")
    if not lanes.change_layout(specialization, layout, layout.to(shards)):
        raise ConfigurationError(f"{specialization}: somebody else has begun a change at this moment")
    return close(lanes, specialization, layout.to(shards))


def close(lanes: Lanes, specialization: str, layout: Layout) -> Layout:
    """Close all partitions, and only then let the next generation take commands: a lane has one open end at a time."""
    for partition in layout.partitions(specialization):
        lanes.close_partition(partition, layout.after)
    lanes.change_layout(specialization, layout, layout.after)
    return layout.after


class Resharding:
    """A relay's share in it."""

    def __init__(self, lanes: Lanes, filling: Filling, waker: Waker) -> None:
        self._lanes = lanes
        self._filling = filling
        self._waker = waker
        self._seen: dict[str, Layout] = {}

    def tend(self, layouts: Mapping[str, Layout], known: Collection[Partition]) -> bool:
        """Go on with what is under way; whether anything was. Raises RedisError and DBAPIError."""
        for name, layout in layouts.items():
            if self._restored(name, layout):
                continue
            if layout.becoming:
                close(self._lanes, name, layout)
            elif layout.before:
                self._finish(name, layout)
            self._close_strays(layout, [p for p in known if p.specialization == name])
        return not all(layout == self._seen[name] and layout.steady for name, layout in layouts.items())

    def _restored(self, name: str, layout: Layout) -> bool:
        """Whether Redis had forgotten the layout: those who remember it must not push elsewhere than the others."""
        seen = self._seen.get(name, layout)
        if layout.generation >= seen.generation:
            self._seen[name] = layout
            return False
        if self._lanes.change_layout(name, layout, seen):
            log.warning("%s: Redis has lost that it has %d shards; put back", name, seen.shards)
        return True

    def _finish(self, name: str, layout: Layout) -> None:
        """Open the gates of the new generation once the old one is empty."""
        old, new = layout.old(name), layout.partitions(name)
        if sum(self._lanes.close_partition(partition, layout.after) for partition in old):
            return
        # Before the last step of the layout: until then nobody takes a closed gate for a loss of Redis's.
        if not all(self._filling.open(partition, changing=True) for partition in new):
            return
        if self._lanes.change_layout(name, layout, layout.after):
            log.warning("%s: has %d shards now; it had %d", name, layout.shards, layout.before)
        for partition in old:
            self._lanes.forget(partition)
        for partition in new:
            self._waker.wake(partition)

    def _close_strays(self, layout: Layout, known: Collection[Partition]) -> None:
        """Older partitions take commands again only if Redis has lost that they are closed."""
        oldest = layout.generation - bool(layout.before)
        for partition in known:
            if partition.generation < oldest and not self._lanes.close_partition(partition, layout):
                self._lanes.forget(partition)
