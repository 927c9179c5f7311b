"""What a committed batch is to those who observe: figures, traces and log lines are made of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple

from levelq_core.coupler.lane_batch import LaneBatch, Parked
from levelq_core.keys import Partition
from levelq_core.log_events import log, log_event


class DecidedBatch(NamedTuple):
    """One batch, as it was committed.

    `lanes`: the commands by lane; a lane's decisions belong to the first of its records, and further records are
    parked. `entries`: commands and malformed entries. `committed_ms`: by the clock of Redis, as a record's `pushed_ms`.
    `seconds`: how long the transaction took; `claimed_seconds`: from the claim to the commit; `lock_seconds`: how long
    it took to lock the rows, waits for other transactions included.
    """

    partition: Partition
    lanes: Sequence[LaneBatch]
    parked: Sequence[Parked]
    entries: int
    quarantined: int
    committed_ms: int
    seconds: float
    claimed_seconds: float
    lock_seconds: float = 0.0

    def counts(self) -> BatchCounts:
        """How many commands were decided in which way."""
        decisions = [decision for lane in self.lanes for decision in lane.decisions]
        duplicates = sum(decision.duplicate for decision in decisions)
        rejected = sum(decision.error is not None and not decision.duplicate for decision in decisions)
        return BatchCounts(
            commands=len(decisions),
            applied=len(decisions) - duplicates - rejected,
            rejected=rejected,
            duplicates=duplicates,
            parked=len(self.parked),
            quarantined=self.quarantined,
        )


class Incident(NamedTuple):
    """What went wrong and is tried again: `times` of it, in one specialization.

    `what`: "claims_expired", of dead or stopped workers, returned by this one; or "batch_failed", and then `error` is
    the class of error: "redis", a name of `ErrorClass` in lower case, "schema" or "unexpected".
    """

    what: str
    specialization: str
    times: int = 1
    error: str = ""


class BatchCounts(NamedTuple):
    """A batch in numbers. `commands` is the sum of `applied`, `rejected` and `duplicates`; `parked` counts lanes."""

    commands: int
    applied: int
    rejected: int
    duplicates: int
    parked: int
    quarantined: int


Observer = Callable[[DecidedBatch], None]
Watcher = Callable[[Incident], None]


class Observers:
    """Called with each committed batch, on the working thread: an observer must be quick and do no I/O.

    Watchers are called with each incident, on the thread that met it.
    """

    def __init__(self) -> None:
        self._observers: list[Observer] = []
        self._watchers: list[Watcher] = []
        self._failed: set[Observer] = set()

    def add(self, observer: Observer) -> None:
        """Call it with every batch from now on."""
        self._observers.append(observer)

    def watch(self, watcher: Watcher) -> None:
        """Call it with every incident from now on. It must not raise."""
        self._watchers.append(watcher)

    def met(self, incident: Incident) -> None:
        """Tell all watchers."""
        for watcher in self._watchers:
            watcher(incident)

    def committed(self, batch: DecidedBatch) -> None:
        """Tell all observers. One that fails is logged once; the batch is committed all the same."""
        for observer in self._observers:
            try:
                observer(batch)
            except Exception:
                if observer not in self._failed:
                    what = "an observer of batches failed; further failures are not logged"
                    log_event(logging.ERROR, "observer_failed", what, exc_info=True)
                self._failed.add(observer)


def log_batch(batch: DecidedBatch) -> None:
    """The observer that logs each batch, at level debug."""
    if log.isEnabledFor(logging.DEBUG):
        counts = batch.counts()._asdict()
        ms, transaction_ms = round(1000 * batch.claimed_seconds, 1), round(1000 * batch.seconds, 1)
        what = (
            "%(partition)s: %(commands)d commands in %(ms).1f ms: %(applied)d applied, %(rejected)d rejected, "
            "%(duplicates)d duplicates; %(parked)d lanes parked, %(quarantined)d quarantined"
        )
        times = {"ms": ms, "transaction_ms": transaction_ms}
        log_event(logging.DEBUG, "batch", what, partition=batch.partition, **counts, **times)
