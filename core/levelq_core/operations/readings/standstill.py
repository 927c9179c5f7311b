"""Partitions that hold commands and make no progress: no worker serves them, or no drain works on them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from levelq_core.keys import Partition
from levelq_core.lanes.client import Lanes
from levelq_core.lanes.progress import Progress, progress_of
from levelq_core.lanes.protocol import Status
from levelq_core.operations.wording import count, duration
from levelq_core.settings import Settings

AGAIN_SECONDS = 0.5  # before the second reading: between two drains a partition has none for a moment
Serving = Mapping[Partition, set[str]]


@dataclass(eq=False)
class Standstill:
    """Examines partitions that hold commands; reads the progress of each once.

    `serving`: the workers of each partition, None where RQ cannot list any.
    """

    lanes: Lanes
    settings: Settings
    found: Mapping[Partition, Status]
    serving: Serving | None
    again_seconds: float = AGAIN_SECONDS
    progress: dict[Partition, Progress] = field(default_factory=dict)

    def problems(self, partitions: Iterable[Partition], *, explained: bool) -> Iterator[str]:
        """What is wrong with those that hold something. `explained`: another problem is why nothing moves.

        Raises RedisError.
        """
        suspects = []
        for partition in partitions:
            if self.serving is not None and not self.serving[partition]:
                progress = self._of(partition)
                if not progress.drains and not self._recent(progress):
                    waiting = count(self.found[partition].waiting, "command")
                    start = f"levelq worker -s {partition.specialization}"
                    yield f"{partition}: {waiting} waiting and no worker serves it: {start}"
            elif not explained and self._stands(partition, self.found[partition]):
                suspects.append(partition)
        if suspects:  # read a second time, after one wait for all of them
            time.sleep(self.again_seconds)
            self.progress.clear()
        for partition in suspects:
            again = self.lanes.status(partition)
            if self._stands(partition, again):
                what = self._what(self._of(partition), again)
                yield f"{partition}: {what}: its workers are dead, hang, or cannot reach Redis; their log says more"

    def _of(self, partition: Partition) -> Progress:
        if partition not in self.progress:
            self.progress[partition] = progress_of(self.lanes.redis, self.lanes.keys, partition)
        return self.progress[partition]

    def _stands(self, partition: Partition, seen: Status) -> bool:
        """Whether work was due for longer than the death of one worker explains, and none was done."""
        progress = self._of(partition)
        grace = self.settings.claim_seconds + self.settings.sweep_seconds
        lanes_late = seen.ready > 0 and not progress.drains and _waited(progress, seen) > grace
        if progress.restoring or not (lanes_late or self._claims_late(progress)):
            return False
        return not any(map(self._recent, self._evidence(partition)))

    def _what(self, progress: Progress, seen: Status) -> str:
        if self._claims_late(progress):
            return f"{count(progress.overdue, 'claim')} ran out and no worker takes them back"
        waited = duration(_waited(progress, seen))
        return f"{count(seen.ready, 'lane')} due for up to {waited} and no worker drains them"

    def _claims_late(self, progress: Progress) -> bool:
        return progress.overdue > 0 and progress.overdue_for > self.settings.sweep_seconds

    def _evidence(self, partition: Partition) -> Iterator[Progress]:
        """Of the partition, and of others whose workers all serve it, too: workers take their partitions in turn."""
        yield self._of(partition)
        for other, seen in self.found.items():
            theirs = (self.serving or {}).get(other) or set()
            shared = self.serving is None or (theirs and theirs <= self.serving[partition])
            if other != partition and seen.waiting and shared:
                yield self._of(other)

    def _recent(self, progress: Progress) -> bool:
        return progress.since is not None and progress.since <= self.settings.claim_seconds


def _waited(progress: Progress, seen: Status) -> float:
    """For how long work has been due. A lane that was parked may hold old commands and be due only now."""
    return progress.due if progress.noted else max(progress.due, seen.oldest_seconds)
