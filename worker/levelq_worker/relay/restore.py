"""The restore: after Redis lost its data, the outbox's commands return to the lanes before claims go on.

Claims of a partition are blocked until it is restored, which is when its key `filled` exists. A drain or a relay that
finds the key missing takes the relay's lease, restores every marked row to the head of its lane, and sets the key. The
lease is in Redis, too: if Redis is wiped again, the next step is refused, and the restore starts over. A restore
may be repeated: a lane that holds the first of its entries already is left alone.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import NamedTuple

from levelq_core.keys import Partition
from levelq_core.lanes.client import Lanes
from levelq_core.lanes.protocol import LaneEntries, Lease
from levelq_core.lanes.shard_layout import Layout
from levelq_core.lanes.wakeups import Waker
from levelq_core.log_events import log_event

from .outbox_rows import OutboxRows

CHUNK = 2_000  # entries restored in one step, or one lane if it has more: some milliseconds of the server


class LeaseLost(Exception):
    """Another relay has the lease, or Redis lost it: nothing was done in this step."""


class Restored(NamedTuple):
    """How much one restore returned to the lanes."""

    commands: int
    lanes: int


class OutboxRestore:
    """Restores partitions for a relay, a drain or an operator."""

    def __init__(self, lanes: Lanes, rows: OutboxRows, waker: Waker) -> None:
        self._lanes = lanes
        self._rows = rows
        self._waker = waker

    def is_blocked(self, partition: Partition) -> bool:
        """See Layout.is_blocked."""
        return self._layout(partition).is_blocked(partition)

    def _layout(self, partition: Partition) -> Layout:
        return self._lanes.layouts([partition.specialization])[partition.specialization]

    def ensure_restored(self, partition: Partition, *, changing: bool = False) -> bool:
        """Restore the partition, under a lease of its own, unless it is restored; False: try again in a moment.

        `changing`: a change of shards has emptied the previous generation, so the layout blocks this one no longer.
        """
        lease = self._lanes.lease(partition, "take")
        if not lease.is_holder:
            return False
        try:
            restored = lease.restored or self.restore(partition, lease, changing=changing, report=not changing)
        except LeaseLost:
            return False
        finally:
            self._lanes.lease(partition, "release", lease.value)
        return bool(restored)

    def restore(
        self, partition: Partition, lease: Lease, *, changing: bool = False, report: bool = True
    ) -> Restored | None:
        """Restore what the outbox has, and unblock claims. None: lanes are still claimed, or it `is_blocked`.

        After `levelq rebuild` blocked the claims, drains may still hold lanes. The restore would put commands that they
        acknowledge meanwhile in front of those that they leave.

        `report`: log what Redis has lost, unless the partition was never in use. Raises LeaseLost, RedisError and
        DBAPIError: then the restore must start over.
        """
        layout = self._layout(partition)
        if layout.is_blocked(partition) and not changing:
            return None
        if lease.claimed:
            wake, _ = self._lanes.sweep(partition)  # returns the claims of dead workers
            if wake:
                self._waker.wake(partition)
            return None
        commands = lanes = 0
        for chunk in self._chunks(partition, layout):
            put = self._put(partition, lease, chunk, last=False)
            commands += sum(put)
            lanes += sum(count > 0 for count in put)
            if self._lanes.lease(partition, "take", lease.value).newly_acquired:  # renewed: the table may be long
                raise LeaseLost
        self._put(partition, lease, [], last=True)
        if report and (commands or self._rows.in_use(partition.specialization)):
            what = (
                "%(partition)s: Redis holds nothing of this partition: %(commands)d outbox commands were put back; "
                "commands sent by other ways and not yet applied are lost"
            )
            log_event(logging.WARNING, "partition_restored", what, partition=partition, commands=commands)
        return Restored(commands, lanes)

    def _chunks(self, partition: Partition, layout: Layout) -> Iterator[list[LaneEntries]]:
        """Whole lanes of the partition, about CHUNK entries at a time."""
        chunk: list[LaneEntries] = []
        entries = 0
        for user_id, rows in self._rows.marked_lanes(partition.specialization):
            if layout.partition(partition.specialization, user_id) != partition:
                continue
            chunk.append((user_id, [row.payload for row in rows]))
            entries += len(rows)
            if entries >= CHUNK:
                yield chunk
                chunk, entries = [], 0
        if chunk:
            yield chunk

    def _put(self, partition: Partition, lease: Lease, chunk: list[LaneEntries], *, last: bool) -> list[int]:
        answer = self._lanes.restore(partition, lease.value, chunk, last=last)
        if answer.lost:
            raise LeaseLost
        if answer.wake:
            self._waker.wake(partition)
        return [count for count, _ in answer.lanes]
