"""Where to look: the partitions of some specializations, by their layouts and by the registry."""

from __future__ import annotations

import logging
from collections.abc import Collection

from levelq_core.keys import Partition
from levelq_core.lanes.client import Lanes
from levelq_core.lanes.shard_layout import Layout, LayoutQuery
from levelq_core.redis_client.cluster import LOST
from levelq_core.redis_client.topology import topology_of

log = logging.getLogger("levelq")


class PartitionDirectory:
    """The partitions as they were when last read. Read it before anything else is asked of it."""

    def __init__(self, lanes: Lanes, specializations: Collection[str], *, warns: bool = True) -> None:
        """`warns`: log a layout that cannot be read, once; a command line names it by itself."""
        self._lanes = lanes
        self._warns = warns
        self._specializations = specializations
        self._known: set[Partition] = set()
        self._warned: set[str] = set()
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
            asking = self._lanes.read_layouts(self._specializations)
            # An unreadable layout keeps its last readable value; before the first one its partitions are unknown.
            self.layouts = {n: self.layouts[n] for n in asking.unreadable if n in self.layouts} | asking.found
            self.missing = asking.missing
            if self._warns:
                self._warn(asking)
        except LOST:
            # The servers that hold these may be away while those of the lanes are not.
            if not self.layouts or not topology_of(self._lanes.redis).several_servers:
                raise
        named = {
            p
            for name, layout in self.layouts.items()
            for p in (*layout.previous_partitions(name), *layout.partitions(name))
        }
        return sorted({p for p in self._known if p.specialization in self.layouts} | named)

    def _warn(self, asking: LayoutQuery) -> None:
        for what in asking.unreadable.values():
            if what not in self._warned:
                log.warning(
                    "%s: %s; a worker that starts now leaves its lanes alone: `levelq rebuild`", asking.key, what
                )
        self._warned = set(asking.unreadable.values())

    def open(self, partition: Partition) -> bool:
        """See Layout.accepts."""
        return self.layouts[partition.specialization].accepts(partition)

    def waits(self, partition: Partition) -> bool:
        """See Layout.is_blocked."""
        return self.layouts[partition.specialization].is_blocked(partition)


def partitions(lanes: Lanes, specializations: Collection[str]) -> list[Partition]:
    """All partitions of these specializations that may hold something. Raises RedisError."""
    return PartitionDirectory(lanes, specializations, warns=False).read()
