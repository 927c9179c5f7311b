"""The gate: after Redis lost its data, what the outbox had goes in before anything new is claimed.

Claims of a partition are refused while its key `filled` is missing (see partitions.py). Whoever notices,
a drain or the relay, takes the relay's lease, puts every marked row back at the head of its lane, and
opens the gate. The lease is in Redis, too: wipe it at any moment, and the next step is refused and the
filling begins anew. A filling repeated, by another worker or after a crash, finds what is there already.
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

from .outbox_rows import OutboxRows

log = logging.getLogger("levelq")

CHUNK = 2_000  # entries put back in one step, or one lane if it has more: some milliseconds of the server


class LeaseLost(Exception):
    """The lease went to somebody else, or Redis lost it: nothing was done in this step."""


class Filled(NamedTuple):
    """What one filling put back."""

    commands: int
    lanes: int


class OutboxRestore:
    """Fills partitions on behalf of one relay, drain or operator."""

    def __init__(self, lanes: Lanes, rows: OutboxRows, waker: Waker) -> None:
        self._lanes = lanes
        self._rows = rows
        self._waker = waker

    def waits(self, partition: Partition) -> bool:
        """Whether the gate stays closed for now: see Layout.is_blocked."""
        return self._layout(partition).is_blocked(partition)

    def _layout(self, partition: Partition) -> Layout:
        return self._lanes.layouts([partition.specialization])[partition.specialization]

    def open(self, partition: Partition, *, changing: bool = False) -> bool:
        """Make sure, without a lease of our own, that the gate is open; False: look again in a moment.

        `changing`: the generation before is empty, so that a gate which was never open may be.
        """
        lease = self._lanes.lease(partition, "take")
        if not lease.ours:
            return False
        try:
            if lease.restored:
                return True
            if changing:
                return self.fill(partition, lease, changing=True) is not None
            return self.fill_and_report(partition, lease)
        except LeaseLost:
            return False
        finally:
            self._lanes.lease(partition, "release", lease.value)

    def fill(self, partition: Partition, lease: Lease, *, changing: bool = False) -> Filled | None:
        """Put back what the outbox has under our lease, and open the gate. None: claims are still held, or it `waits`.

        Where the gate was closed by hand, drains may hold lanes: what they acknowledge meanwhile would be put
        in front of what they leave. Raises LeaseLost, RedisError and DBAPIError: then it must begin anew.
        """
        if not changing and self.waits(partition):
            return None
        if lease.claimed:
            wake, _ = self._lanes.sweep(partition)  # a dead worker's claims end only when somebody looks
            if wake:
                self._waker.wake(partition)
            return None
        commands = lanes = 0
        for chunk in self._chunks(partition):
            put = self._put(partition, lease, chunk, last=False)
            commands += sum(put)
            lanes += sum(count > 0 for count in put)
            if self._lanes.lease(partition, "take", lease.value).newly_acquired:  # renew it: the table may be long
                raise LeaseLost
        self._put(partition, lease, [], last=True)
        return Filled(commands, lanes)

    def fill_and_report(self, partition: Partition, lease: Lease) -> bool:
        """Fill, and warn of what Redis has lost unless the partition was never in use; False as for None."""
        filled = self.fill(partition, lease)
        if filled is None:
            return False
        if filled.commands or self._rows.in_use(partition.specialization):
            log.warning(
                "%s: Redis holds nothing of this partition: %d outbox commands were put back; "
                "commands sent by other ways and not yet applied are lost",
                partition,
                filled.commands,
            )
        return True

    def _chunks(self, partition: Partition) -> Iterator[list[LaneEntries]]:
        """Whole lanes of the partition, some CHUNK entries at a time."""
        chunk: list[LaneEntries] = []
        entries = 0
        layout = self._layout(partition)
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
        answer = self._lanes.refill(partition, lease.value, chunk, last=last)
        if answer.lost:
            raise LeaseLost
        if answer.wake:
            self._waker.wake(partition)
        return [count for count, _ in answer.lanes]
