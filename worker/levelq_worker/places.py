"""Where to look: the partitions of some specializations, by their layouts and by the registry."""

from __future__ import annotations

from collections.abc import Collection

from levelq_core.cluster import LOST, Cluster
from levelq_core.lanes import Lanes
from levelq_core.layouts import Layout
from levelq_core.partitions import Partition


class Places:
    """The partitions as they were when last read. Read it before anything else is asked of it."""

    def __init__(self, lanes: Lanes, specializations: Collection[str]) -> None:
        self._lanes = lanes
        self._specializations = specializations
        self._known: set[Partition] = set()
        self.layouts: dict[str, Layout] = {}
        self.missing: Collection[str] = ()  # whose layout nobody has written down, or Redis has lost

    def read(self) -> list[Partition]:
        """All that may hold something. Raises RedisError.

        The registry alone would miss a partition whose first producer died before its first wake-up; the layouts
        alone would miss those of a producer that slept through a change of shards and a loss of Redis's data.
        """
        try:
            # In this order: a partition of a generation that the layouts do not know then means that they were lost.
            self._known = {p for p in self._lanes.partitions() if p.specialization in self._specializations}
            asking = self._lanes.ask_layouts(self._specializations)
            self.layouts, self.missing = asking.found, asking.missing
        except LOST:
            # Of a cluster the servers that hold these may be away while those of the lanes are not.
            if not self.layouts or not isinstance(self._lanes.redis, Cluster):
                raise
        named = {p for name, layout in self.layouts.items() for p in (*layout.old(name), *layout.partitions(name))}
        return sorted(self._known | named)

    def open(self, partition: Partition) -> bool:
        """See Layout.open."""
        return self.layouts[partition.specialization].open(partition)

    def waits(self, partition: Partition) -> bool:
        """See Layout.waits."""
        return self.layouts[partition.specialization].waits(partition)


def partitions(lanes: Lanes, specializations: Collection[str]) -> list[Partition]:
    """All partitions of these specializations that may hold something. Raises RedisError."""
    return Places(lanes, specializations).read()
