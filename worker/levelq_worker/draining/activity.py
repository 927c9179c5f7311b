"""What the working thread does now, and what it has decided: kept in memory for the thread that reports it.

The drain fills it and does no I/O for it. `take` hands over what came since the last call.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import NamedTuple

from levelq_core.domain.lag_histogram import bucket_of
from levelq_core.domain.record import Lane
from levelq_core.keys import Partition
from levelq_core.lanes.worker_reports import State

from .batch_times import BatchTimes
from .observing import DecidedBatch

HOT_SHARE, HOT_COMMANDS = 50, 8  # a hot lane has a fiftieth of a batch, and so many commands


class Now(NamedTuple):
    """What the working thread does since a monotonic time. `why`: what it waits for."""

    state: State
    since: float
    partition: Partition | None = None
    why: str | None = None


class Tally:
    """What was decided in one partition since the last report. `lags`: a histogram of the times from send to commit."""

    __slots__ = ("applied", "duplicates", "hot", "lags", "rejected")

    def __init__(self) -> None:
        self.applied = self.rejected = self.duplicates = 0
        self.lags: Counter[int] = Counter()
        self.hot: Counter[Lane] = Counter()


class Taken(NamedTuple):
    """What `Activity.take` hands over."""

    tallies: dict[Partition, Tally]
    quarantined: int
    batches: int


class Activity:
    """Of one process. Methods but `take` are for the working thread."""

    def __init__(self) -> None:
        self.now = Now("idle", time.monotonic())
        self.progress = time.monotonic()  # when the working thread last got on
        self.times = BatchTimes()
        self._lock = threading.Lock()
        self._taken = Taken({}, 0, 0)

    def enter(
        self, state: State, partition: Partition | None = None, *, since: float | None = None, why: str | None = None
    ) -> None:
        """Note what the thread does from now on, or since a monotonic time."""
        self.progress = time.monotonic()
        self.now = Now(state, self.progress if since is None else since, partition, why)

    def wait(self, why: str) -> None:
        """Note that it waits for a server, unless it does so already for the same reason."""
        now = self.now
        self.enter("waiting", now.partition, since=now.since if now.state == "waiting" else None, why=why)

    def committed(self, batch: DecidedBatch) -> None:
        """The observer of batches."""
        with self._lock:
            tallies, quarantined, batches = self._taken
            tally = tallies.get(batch.partition)
            if tally is None:
                tally = tallies[batch.partition] = Tally()
            _count(batch, tally)
            self._taken = Taken(tallies, quarantined + batch.quarantined, batches + 1)
            if not any(parked.locked for parked in batch.parked):  # such a batch waited for other code's locks
                self.times.add(batch.entries, batch.seconds, time.monotonic())

    def take(self) -> Taken:
        """What came since the last call. For the thread that reports."""
        with self._lock:
            taken, self._taken = self._taken, Taken({}, 0, 0)
        return taken


def _count(batch: DecidedBatch, tally: Tally) -> None:
    """Add a batch. List comprehensions over all commands: this is the observer's whole cost."""
    lanes = batch.lanes
    decisions = [decision for lane in lanes for decision in lane.decisions]
    new = [decision[0] for decision in decisions if not decision[6]]
    applied = new.count(None)
    tally.duplicates += len(decisions) - len(new)
    tally.rejected += len(new) - applied
    tally.applied += applied
    pushed = [record[12] for lane in lanes for record in lane.records[: len(lane.decisions)]]
    committed_ms, lags = batch.committed_ms, tally.lags
    for pushed_ms, commands in Counter(pushed).items():
        lags[bucket_of(committed_ms - pushed_ms)] += commands
    least = max(HOT_COMMANDS, batch.entries // HOT_SHARE)
    for lane in lanes:
        if len(lane.decisions) >= least:
            tally.hot[lane.lane] += len(lane.decisions)
