"""The upkeep of partitions: return expired claims, recover stranded lanes, count entries, close a partition."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from levelq_core.keys import Partition
from levelq_core.log_events import log_event

from .protocol import Status
from .script_caller import ScriptCaller
from .shard_layout import Layout


class UpkeepLanes(ScriptCaller):
    """What sweepers and operators' commands do."""

    def sweep(self, partition: Partition) -> tuple[bool, int]:
        """(the caller must wake a drain, how many expired claims were returned). Corrects the count."""
        wake, returned, wrong = self._run(self._protocol.sweep(partition))
        if wrong:
            off = "high" if wrong > 0 else "low"
            what = "%(partition)s: its count was %(by)d too %(direction)s and was corrected"
            log_event(logging.WARNING, "count_corrected", what, partition=partition, by=abs(wrong), direction=off)
        return bool(wake), int(returned)

    def recover(self, partition: Partition, users: Sequence[bytes]) -> int:
        """Put lanes that hold commands and are neither ready nor claimed into ready; returns how many."""
        return int(self._run(self._protocol.recover(partition, users)))

    def status(self, partition: Partition) -> Status:
        """Count what the partition holds."""
        *counts, age_ms = self._run(self._protocol.status(partition))
        return Status._make((*counts, age_ms / 1000))

    def close_partition(self, partition: Partition, layout: Layout) -> int:
        """Have pushes answered MOVED from now on; how many lanes still hold something or are claimed."""
        return int(self._run(self._protocol.close_partition(partition, layout)))
