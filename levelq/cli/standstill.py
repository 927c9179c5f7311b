"""Partitions that hold commands and make no progress: no worker serves them, or no drain works on them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping

from levelq_core.keys import Partition
from levelq_core.lanes.client import Lanes
from levelq_core.lanes.progress import Progress, progress_of
from levelq_core.lanes.protocol import Status
from levelq_core.settings import Settings

from .screen import count, duration

AGAIN_SECONDS = 0.5  # before the second reading: between two drains a partition has none for a moment
Serving = Mapping[Partition, set[str]]


class Standstill:
    """Examines partitions that hold commands; reads the progress of each once."""

    def __init__(
        self, lanes: Lanes, settings: Settings, found: Mapping[Partition, Status], serving: Serving | None
    ) -> None:
        """`serving`: the workers of each partition, None where RQ cannot list any."""
        self._lanes = lanes
        self._settings = settings
        self._found = found
        self._serving = serving
        self._progress: dict[Partition, Progress] = {}

    def problems(self, partitions: Iterable[Partition], *, explained: bool) -> Iterator[str]:
        """What is wrong with those that hold something. `explained`: another problem says why nothing moves.

        Raises RedisError.
        """
        suspects = []
        for partition in partitions:
            seen = self._found[partition]
            if self._serving is not None and not self._serving[partition]:
                if not self._moves(self._of(partition)):
                    start = f"levelq worker -s {partition.specialization}"
                    yield f"{partition}: {count(seen.waiting, 'command')} waiting and no worker serves it: {start}"
            elif not explained and self._stands(partition, seen):
                suspects.append(partition)
        for partition, seen in self._seen_again(suspects):
            if self._stands(partition, seen):
                what = self._what(partition, seen)
                yield f"{partition}: {what}: its workers are dead, hang, or cannot reach Redis; their log says more"

    def _seen_again(self, suspects: list[Partition]) -> Iterator[tuple[Partition, Status]]:
        """Read them a second time, after one wait for all of them."""
        if suspects:
            time.sleep(AGAIN_SECONDS)
            self._progress.clear()
        for partition in suspects:
            yield partition, self._lanes.status(partition)

    def _of(self, partition: Partition) -> Progress:
        if partition not in self._progress:
            self._progress[partition] = progress_of(self._lanes.redis, self._lanes.keys, partition)
        return self._progress[partition]

    def _stands(self, partition: Partition, seen: Status) -> bool:
        """Whether work was due for longer than the death of one worker explains, and none was done."""
        progress = self._of(partition)
        late = self._claims_late(progress) or self._lanes_late(progress, seen)
        return late and not progress.restoring and not any(map(self._recent, self._evidence(partition)))

    def _what(self, partition: Partition, seen: Status) -> str:
        progress = self._of(partition)
        if self._claims_late(progress):
            return f"{count(progress.overdue, 'claim')} ran out and no worker takes them back"
        waited = duration(self._waited(progress, seen))
        return f"{count(seen.ready, 'lane')} due for up to {waited} and no worker drains them"

    def _claims_late(self, progress: Progress) -> bool:
        return progress.overdue > 0 and progress.overdue_for > self._settings.sweep_seconds

    def _lanes_late(self, progress: Progress, seen: Status) -> bool:
        grace = self._settings.claim_seconds + self._settings.sweep_seconds
        return seen.ready > 0 and not progress.drains and self._waited(progress, seen) > grace

    def _waited(self, progress: Progress, seen: Status) -> float:
        """For how long work has been due. A lane that was parked may hold old commands and be due only now."""
        return progress.due if progress.noted else max(progress.due, seen.oldest_seconds)

    def _evidence(self, partition: Partition) -> Iterator[Progress]:
        """The partition itself, and others whose workers all serve it, too: workers take their partitions in turn."""
        yield self._of(partition)
        for other, seen in self._found.items():
            if other != partition and seen.waiting and self._shares(other, partition):
                yield self._of(other)

    def _shares(self, other: Partition, partition: Partition) -> bool:
        if self._serving is None:
            return True
        theirs = self._serving.get(other) or set()
        return bool(theirs) and theirs <= self._serving[partition]

    def _recent(self, progress: Progress) -> bool:
        return progress.since is not None and progress.since <= self._settings.claim_seconds

    def _moves(self, progress: Progress) -> bool:
        return progress.drains > 0 or self._recent(progress)
