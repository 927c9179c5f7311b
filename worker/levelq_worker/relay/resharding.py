"""Changing the number of shards while commands flow; layouts.py tells of the forms that a layout goes through.

An operator begins, and every worker's relay goes on from wherever it stands, so it matters to nobody who dies. Each
step may be done twice and by several at once.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from contextlib import suppress

from redis.exceptions import RedisError, ResponseError
from sqlalchemy.exc import SQLAlchemyError

from levelq_core.errors import ConfigurationError
from levelq_core.keys import Partition
from levelq_core.lanes.client import Lanes
from levelq_core.lanes.shard_layout import Layout
from levelq_core.lanes.wakeups import Waker
from levelq_worker.support.partition_directory import PartitionDirectory

from .restore import OutboxRestore

log = logging.getLogger("levelq")


def begin(lanes: Lanes, specialization: str, shards: int) -> Layout:
    """Close the generation and open the next, with so many shards; the layout then.

    Raises ConfigurationError if a change is under way, or if there is nothing to change.
    """
    layout = lanes.ensure_layouts([specialization]).require()[specialization]
    if not layout.steady:
        wanted = layout.next_shards or layout.shards
        raise ConfigurationError(
            f"{specialization}: a change to {wanted} shards is under way; `levelq shards` tells how far it is"
        )
    if layout.shards == shards:
        raise ConfigurationError(f"{specialization}: expected another number of shards than {shards}, which it has")
    for partition in (
        *layout.partitions(specialization),
        *layout.begin_change(shards).next_step.partitions(specialization),
    ):
        lanes.status(partition)  # whose server is away could neither be closed nor opened: RedisError, and no change
    if not lanes.change_layout(specialization, layout, layout.begin_change(shards)):
        raise ConfigurationError(f"{specialization}: somebody else has begun a change at this moment")
    return close(lanes, specialization, layout.begin_change(shards))


def close(lanes: Lanes, specialization: str, layout: Layout) -> Layout:
    """Close all partitions, and only then let the next generation take commands: a lane has one open end at a time."""
    for partition in layout.partitions(specialization):
        lanes.close_partition(partition, layout.next_step)
    lanes.change_layout(specialization, layout, layout.next_step)
    return layout.next_step


class Resharding:
    """A relay's share in it."""

    def __init__(self, lanes: Lanes, filling: OutboxRestore, waker: Waker) -> None:
        self._lanes = lanes
        self._filling = filling
        self._waker = waker
        self._seen: dict[str, Layout] = {}

    def tend(self, places: PartitionDirectory, known: Collection[Partition]) -> bool:
        """Go on with what is under way; whether anything was.

        Raises what the last one raised that could not be tended: RedisError, DBAPIError.
        """
        failed: Exception | None = None
        changing = False
        for name, layout in places.layouts.items():
            mine = [partition for partition in known if partition.specialization == name]
            try:
                changing |= self._tend(name, layout, mine, missing=name in places.missing)
            except (RedisError, SQLAlchemyError) as error:  # of a cluster, a server may be away
                failed = error
        if failed is not None:
            raise failed
        return changing

    def _tend(self, name: str, layout: Layout, known: Collection[Partition], *, missing: bool) -> bool:
        if self._restored(name, layout, known, missing=missing):
            return True
        if layout.next_shards:
            close(self._lanes, name, layout)
        elif layout.previous_shards:
            self._finish(name, layout)
        self._close_strays(layout, known)
        return not layout.steady

    def _restored(self, name: str, layout: Layout, known: Collection[Partition], *, missing: bool) -> bool:
        """Whether Redis had lost the layout: those who remember one must not push elsewhere than those who do not."""
        seen = self._seen.get(name)
        newest = max((partition.generation for partition in known), default=0)
        if missing and seen is None and newest <= layout.generation:
            with suppress(ResponseError):  # it is full: whoever pushes next will write it down
                layout = self._lanes.ensure_layouts([name]).require()[name]
        right = self._right(layout, seen, known, newest, missing)
        if right == layout:
            self._seen[name] = layout
            return False
        if self._lanes.change_layout(
            name, layout, right
        ):  # else somebody has changed it since, and it is looked at anew
            log.warning("%s: Redis has lost its layout, %s; now it is %s", name, seen or "which nobody knows", right)
            self._seen[name] = right
        return True

    def _right(
        self, layout: Layout, seen: Layout | None, known: Collection[Partition], newest: int, missing: bool
    ) -> Layout:
        """What the layout must be, by what we remember and by what is there."""
        if seen is not None and (missing or seen.generation > layout.generation):
            return seen
        if newest > layout.generation:  # producers remember one that we do not: end it, so that all ask
            shards = 1 + max(partition.shard for partition in known if partition.generation == newest)
            return Layout(newest + 1, layout.shards, previous_shards=shards)
        if seen is not None and seen.generation == layout.generation and seen.shards != layout.shards:
            return Layout(layout.generation + 1, seen.shards, previous_shards=max(seen.shards, layout.shards))
        return layout

    def _finish(self, name: str, layout: Layout) -> None:
        """Open the gates of the new generation once the old one is empty."""
        old, new = layout.previous_partitions(name), layout.partitions(name)
        if sum(self._lanes.close_partition(partition, layout.next_step) for partition in old):
            return
        # Before the last step of the layout: until then nobody takes a closed gate for a loss of Redis's.
        if not all(self._filling.open(partition, changing=True) for partition in new):
            return
        if self._lanes.change_layout(name, layout, layout.next_step):
            log.warning("%s: has %d shards now; it had %d", name, layout.shards, layout.previous_shards)
        for partition in old:
            self._lanes.forget(partition)
        for partition in new:
            self._waker.wake(partition)

    def _close_strays(self, layout: Layout, known: Collection[Partition]) -> None:
        """Older partitions take commands again only if Redis has lost that they are closed."""
        oldest = layout.generation - bool(layout.previous_shards)
        for partition in known:
            if partition.generation < oldest and not self._lanes.close_partition(partition, layout):
                self._lanes.forget(partition)
