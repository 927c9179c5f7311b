"""What only an operator's commands do to lanes: read entries, and remove decided ones."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import uuid4

from levelq_core.keys import Partition

from .client import Lanes
from .protocol import Oversized, Part, Protocol, Withdrawal


class LaneEditor(Lanes):
    """The lanes, with two more calls. Raises redis-py's errors."""

    def peek(self, partition: Partition, lanes: Sequence[Part]) -> list[tuple[int, list[bytes | Oversized]]]:
        """Per lane its length (-1: its key is no list) and some of its entries, oldest first."""
        return Protocol.peeked(self._run(self._protocol.peek(partition, lanes)))

    def withdraw(self, partition: Partition, lanes: Sequence[Withdrawal]) -> list[int]:
        """Remove decided entries by identity; returns how many from each lane. The others keep their order."""
        return list(self._run(self._protocol.withdraw(partition, uuid4().hex, lanes)))
