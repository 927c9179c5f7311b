"""What an operator does to lanes: read what waits in them, and remove entries that were decided."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import uuid4

from .lanes import Lanes
from .partitions import Partition
from .scripts import Oversized, Part, Protocol, Withdrawal


class LaneEditor(Lanes):
    """The lanes with the steps that neither producers nor drains take. Raises redis-py's errors."""

    def peek(self, partition: Partition, lanes: Sequence[Part]) -> list[tuple[int, list[bytes | Oversized]]]:
        """Per lane its length, -1 for what is no list, and a part of its entries, oldest first."""
        return Protocol.peeked(self._run(self._protocol.peek(partition, lanes)))

    def withdraw(self, partition: Partition, lanes: Sequence[Withdrawal]) -> list[int]:
        """Remove decided entries by identity, the others stay in order; how many were removed from each lane."""
        return list(self._run(self._protocol.withdraw(partition, uuid4().hex, lanes)))
