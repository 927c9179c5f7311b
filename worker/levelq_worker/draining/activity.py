"""What the working thread does now, and what it has decided: kept in memory for the thread that reports it.

The drain fills it and does no I/O for it. `take` hands over what came since the last call.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from operator import attrgetter
from typing import NamedTuple

from levelq_core.coupler.lane_batch import LaneBatch
from levelq_core.domain.lag_histogram import bucket_of
from levelq_core.domain.record import Lane
from levelq_core.keys import Partition
from levelq_core.lanes.worker_reports import State

from .batch_times import BatchTimes
from .observing import DecidedBatch

HOT_SHARE, HOT_COMMANDS = 50, 8  # a hot lane has a fiftieth of a batch at least, and 8 commands
# Lags of larger batches are sampled, so that they cost less than 1 % of a batch: about 20 commands of a batch, and
# fewer than 8 of each lane.
SAMPLED_COMMANDS, SAMPLED_OF_LANE = 20, 8


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
        self.progress = time.monotonic()  # when the working thread last made progress
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
    """Add a batch. What is done for each lane or command here is the observer's whole cost."""
    lanes = batch.lanes
    decided = batch.entries - batch.quarantined
    if batch.parked:
        decided = sum(len(lane.decisions) for lane in lanes)
    step = 1 + decided // SAMPLED_COMMANDS
    for lane in lanes[::step]:
        _add_lags(tally.lags, lane, batch.committed_ms, step)
    least = max(HOT_COMMANDS, batch.entries // HOT_SHARE)
    if batch.entries - len(lanes) >= least - 1:  # else no lane can have that many
        for lane in lanes:
            if len(lane.decisions) >= least:
                tally.hot[lane.lane] += len(lane.decisions)
    for lane in filter(_is_exceptional, lanes):
        duplicates = sum(decision.duplicate for decision in lane.decisions)
        rejected = sum(not decision.duplicate and decision.error is not None for decision in lane.decisions)
        tally.duplicates += duplicates
        tally.rejected += rejected
        decided -= duplicates + rejected
    tally.applied += decided


_is_exceptional = attrgetter("exceptional")


def _add_lags(lags: Counter[int], lane: LaneBatch, committed_ms: int, weight: int) -> None:
    """Add the lags of a lane's decided commands, each counted `weight` times. Of many, a sample is counted."""
    commands = len(lane.decisions)
    step = 1 + commands // SAMPLED_OF_LANE
    for position in range(step // 2, commands, step):
        lags[bucket_of(committed_ms - lane.records[position].pushed_ms)] += weight * step
