"""Changing the number of shards while commands flow; the forms of a layout are in levelq_core.lanes.shard_layout.

`levelq shards` begins a change, and every worker's relay carries it on from wherever the layout stands. Any worker can
resume the change: each step may be repeated, and made by several at once.
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
from levelq_core.lanes.partition_directory import PartitionDirectory
from levelq_core.lanes.pauses import copy_pause, pauses, resume_command
from levelq_core.lanes.shard_layout import Layout
from levelq_core.lanes.wakeups import Waker
from levelq_core.log_events import log_event

from .restore import OutboxRestore


def begin(lanes: Lanes, specialization: str, shards: int) -> Layout:
    """Close this generation and open the next one with `shards` partitions; returns the layout after that.

    Raises ConfigurationError if a change is under way, if something is paused or if there is nothing to change;
    RedisError.
    """
    layout = lanes.ensure_layouts([specialization]).require()[specialization]
    if not layout.steady:
        wanted = layout.next_shards or layout.shards
        raise ConfigurationError(
            f"{specialization}: a change to {wanted} shards is under way; `levelq shards` shows how far it is"
        )
    for partition in layout.partitions(specialization):
        for user in pauses(lanes.redis, lanes.keys, partition):
            raise ConfigurationError(
                f"{specialization}: something is paused, and a change waits until the old shards are empty: "
                f"`levelq status` names it, `{resume_command(specialization, user)}` ends it"
            )
    if layout.shards == shards:
        raise ConfigurationError(f"{specialization}: expected another number of shards than {shards}, which it has")
    changing = layout.begin_change(shards)
    for partition in (*layout.partitions(specialization), *changing.next_step.partitions(specialization)):
        lanes.status(partition)  # raises RedisError, before any change, if a server of theirs is down
    if not lanes.change_layout(specialization, layout, changing):
        raise ConfigurationError(f"{specialization}: another change has begun at this moment")
    return close(lanes, specialization, changing)


def close(lanes: Lanes, specialization: str, layout: Layout) -> Layout:
    """Close all partitions, and only then let the next generation take commands; returns the layout after that.

    A pause that came at the same moment as the change goes with it, because old partitions may be empty at once.
    """
    for partition in layout.partitions(specialization):
        lanes.close_partition(partition, layout.next_step)
        for user, pause in pauses(lanes.redis, lanes.keys, partition).items():
            opened = layout.next_step
            its = opened.partitions(specialization) if user is None else [opened.partition(specialization, user)]
            for each in its:
                copy_pause(lanes.redis, lanes.keys, each, user, pause)
    lanes.change_layout(specialization, layout, layout.next_step)
    return layout.next_step


class Resharding:
    """One relay's part in changes of shards."""

    def __init__(self, lanes: Lanes, restore: OutboxRestore, waker: Waker) -> None:
        self._lanes = lanes
        self._restore = restore
        self._waker = waker
        self._seen: dict[str, Layout] = {}

    def advance(self, directory: PartitionDirectory, known: Collection[Partition]) -> bool:
        """Go on with the changes under way; whether there were any. `known`: what the directory read.

        Raises the last RedisError or DBAPIError, after it has tried all specializations: on a cluster, one server may
        be down.
        """
        failure: Exception | None = None
        changing = False
        for name, layout in directory.layouts.items():
            mine = [partition for partition in known if partition.specialization == name]
            try:
                changing |= self._advance(name, layout, mine, missing=name in directory.missing)
            except (RedisError, SQLAlchemyError) as error:
                failure = error
        if failure is not None:
            raise failure
        return changing

    def _advance(self, name: str, layout: Layout, known: Collection[Partition], *, missing: bool) -> bool:
        if self._restore_layout(name, layout, known, missing=missing):
            return True
        if layout.next_shards:
            close(self._lanes, name, layout)
        elif layout.previous_shards:
            self._finish(name, layout)
        self._close_strays(layout, known)
        return not layout.steady

    def _restore_layout(self, name: str, layout: Layout, known: Collection[Partition], *, missing: bool) -> bool:
        """Restore the layout if Redis lost it, so that all producers push to one generation; whether it was lost."""
        seen = self._seen.get(name)
        newest = max((partition.generation for partition in known), default=0)
        if missing and seen is None and newest <= layout.generation:
            with suppress(ResponseError):  # Redis is full: the next push writes it
                layout = self._lanes.ensure_layouts([name]).require()[name]
        right = _right_layout(layout, seen, known, newest, missing)
        if right == layout:
            self._seen[name] = layout
            return False
        if self._lanes.change_layout(name, layout, right):  # if it has changed since, the next round looks again
            what = "%(specialization)s: Redis has lost its layout, %(before)s; now it is %(after)s"
            before = seen or "which is unknown"
            log_event(logging.WARNING, "layout_lost", what, specialization=name, before=before, after=right)
            self._seen[name] = right
        return True

    def _finish(self, name: str, layout: Layout) -> None:
        """Unblock the new generation once the previous one is empty."""
        previous, new = layout.previous_partitions(name), layout.partitions(name)
        if sum(self._lanes.close_partition(partition, layout.next_step) for partition in previous):
            return
        # Before the last step of the layout: after it, a partition that is not restored counts as lost by Redis.
        if not all(self._restore.ensure_restored(partition, changing=True) for partition in new):
            return
        if self._lanes.change_layout(name, layout, layout.next_step):
            what, before = "%(specialization)s: has %(shards)d shards now; it had %(before)d", layout.previous_shards
            log_event(logging.WARNING, "shards_changed", what, specialization=name, shards=layout.shards, before=before)
        for partition in previous:
            self._lanes.forget(partition)
        for partition in new:
            self._waker.wake(partition)

    def _close_strays(self, layout: Layout, known: Collection[Partition]) -> None:
        """Close older partitions again; they take commands only if Redis has lost that they are closed."""
        oldest = layout.generation - bool(layout.previous_shards)
        for partition in known:
            if partition.generation < oldest and not self._lanes.close_partition(partition, layout):
                self._lanes.forget(partition)


def _right_layout(
    layout: Layout, seen: Layout | None, known: Collection[Partition], newest: int, missing: bool
) -> Layout:
    """What the layout must be, by what this relay has seen and by the newest generation that exists."""
    if seen is not None and (missing or seen.generation > layout.generation):
        return seen
    if newest > layout.generation:  # producers know a generation that this relay does not: begin the next one
        shards = 1 + max(partition.shard for partition in known if partition.generation == newest)
        return Layout(newest + 1, layout.shards, previous_shards=shards)
    if seen is not None and seen.generation == layout.generation and seen.shards != layout.shards:
        return Layout(layout.generation + 1, seen.shards, previous_shards=max(seen.shards, layout.shards))
    return layout
