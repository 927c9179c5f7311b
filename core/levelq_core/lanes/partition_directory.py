"""Which partitions there are: those of the layouts, and those of the registry."""

from __future__ import annotations

import logging
from collections.abc import Collection

from levelq_core.keys import Partition
from levelq_core.lanes.client import Lanes
from levelq_core.lanes.shard_layout import Layout, LayoutQuery
from levelq_core.log_events import log_event
from levelq_core.redis_client.cluster import LOST
from levelq_core.redis_client.topology import topology_of


class PartitionDirectory:
    """The partitions of some specializations as they were when last read.

    `layouts`: the last readable layout of each specialization. `missing`: specializations without a layout, because
    none was written yet or Redis lost it. `warns`: log a layout that cannot be read, once.
    """

    def __init__(self, lanes: Lanes, specializations: Collection[str], *, warns: bool = True) -> None:
        self._lanes = lanes
        self._warns = warns
        self._specializations = specializations
        self._registered: set[Partition] = set()
        self._warned: set[str] = set()
        self.layouts: dict[str, Layout] = {}
        self.missing: Collection[str] = ()

    def read(self) -> list[Partition]:
        """Read all partitions that may hold something. Raises RedisError.

        The registry lacks a partition whose first producer died before its first wake-up. The layouts lack those of a
        producer that missed a change of shards and the loss of Redis's data.
        """
        try:
            # In this order, so that a registered generation that is newer than its layout means a lost layout.
            self._registered = {p for p in self._lanes.partitions() if p.specialization in self._specializations}
            query = self._lanes.read_layouts(self._specializations)
            self.layouts = {n: self.layouts[n] for n in query.unreadable if n in self.layouts} | query.found
            self.missing = query.missing
            if self._warns:
                self._warn(query)
        except LOST:
            # On a cluster, the server of these keys may be down while those of the lanes are not.
            if not self.layouts or not topology_of(self._lanes.redis).several_servers:
                raise
        registered = {p for p in self._registered if p.specialization in self.layouts}
        return sorted(registered.union(*(layout.all_partitions(name) for name, layout in self.layouts.items())))

    def _warn(self, query: LayoutQuery) -> None:
        problems = set(query.unreadable.values())
        for problem in sorted(problems - self._warned):
            what = "%(key)s: %(problem)s; a worker that starts now leaves its lanes alone: `levelq rebuild`"
            log_event(logging.WARNING, "layout_unreadable", what, key=query.key, problem=problem)
        self._warned = problems


def partitions(lanes: Lanes, specializations: Collection[str]) -> list[Partition]:
    """All partitions of these specializations that may hold something. Raises RedisError."""
    return PartitionDirectory(lanes, specializations, warns=False).read()
