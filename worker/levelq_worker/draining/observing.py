"""What a committed batch is to those who observe: figures, traces and log lines are made of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple

from levelq_core.coupler.lane_batch import LaneBatch, Parked
from levelq_core.keys import Partition

log = logging.getLogger("levelq")


class DecidedBatch(NamedTuple):
    """One batch, as it was committed.

    `lanes`: the commands by lane; a lane's decisions belong to the first of its records, and further records are
    parked. `entries`: commands and malformed entries. `committed_ms`: by the clock of Redis, as a record's `pushed_ms`.
    `seconds`: how long the transaction took; `claimed_seconds`: from the claim to the commit.
    """

    partition: Partition
    lanes: Sequence[LaneBatch]
    parked: Sequence[Parked]
    entries: int
    quarantined: int
    committed_ms: int
    seconds: float
    claimed_seconds: float


Observer = Callable[[DecidedBatch], None]


class Observers:
    """Called with each committed batch, on the working thread: an observer must be quick and do no I/O."""

    def __init__(self) -> None:
        self._observers: list[Observer] = []
        self._failed: set[Observer] = set()

    def add(self, observer: Observer) -> None:
        """Call it with every batch from now on."""
        self._observers.append(observer)

    def committed(self, batch: DecidedBatch) -> None:
        """Tell all observers. One that fails is logged once; the batch is committed all the same."""
        for observer in self._observers:
            try:
                observer(batch)
            except Exception:
                if observer not in self._failed:
                    log.exception("an observer of batches failed; further failures are not logged")
                self._failed.add(observer)
