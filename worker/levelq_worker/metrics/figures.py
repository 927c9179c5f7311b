"""What one worker process counts, in memory that it shares with the process that serves the figures.

The memory is mapped before the fork, and has a row of numbers for each worker of a supervisor. A worker that is killed
loses nothing, and the one that is started in its place goes on in the same row: no counter falls while the supervisor
lives.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Iterator
from itertools import chain
from operator import attrgetter, itemgetter

from levelq_core.domain.record import KIND_NAMES, Record
from levelq_core.domain.rules import Decision
from levelq_worker.draining.observing import DecidedBatch, Incident, Observers

from . import names
from .names import OTHER, Metric

_Labels = tuple[str, ...]
# By index: an attribute of a NamedTuple takes twice as long.
_KIND, _PUSHED = (itemgetter(Record._fields.index(name)) for name in ("kind", "pushed_ms"))
_RECORDS, _EXCEPTIONAL = attrgetter("records"), attrgetter("exceptional")
SAMPLED = 250  # commands of a batch whose times are noted; a larger one is sampled


class Layout:
    """Where each series begins in a row: for the specializations of a catalog, `cells` numbers in all."""

    def __init__(self, specializations: Collection[str]) -> None:
        self.specializations = frozenset(specializations)
        self.starts: dict[str, dict[_Labels, int]] = {}  # by the metric's name: hashing a Metric takes a microsecond
        self.cells = 0
        for metric in names.METRICS:
            self.starts[metric.name] = {}
            for labels in metric.series(specializations):
                self.starts[metric.name][labels] = self.cells
                self.cells += metric.cells

    def start(self, metric: Metric, *labels: str) -> int:
        """The first number of a series; labels that are in no list count as OTHER."""
        starts = self.starts[metric.name]
        if labels and labels[0] not in self.specializations:
            labels = (OTHER, *labels[1:])
        return starts[labels] if labels in starts else starts[(*labels[:-1], OTHER)]


class Figures:
    """The row of one worker process. It is counted on the working thread; incidents also on the sweeper's."""

    def __init__(self, layout: Layout, row: memoryview[float]) -> None:
        self._layout = layout
        self._row = row
        self._incidents = threading.Lock()

    def observe(self, observers: Observers) -> None:
        """Count what these observers are told from now on."""
        observers.add(self.committed)
        observers.watch(self.met)

    def committed(self, batch: DecidedBatch) -> None:
        """Count a batch, its commands in groups: docs/performance.md has what it costs."""
        name = batch.partition.specialization
        self._count_commands(name, batch)
        self.observe_values(names.BATCH, name, (batch.entries, 1))
        self.observe_values(names.TRANSACTION, name, (batch.seconds, 1))
        self.observe_values(names.LOCKS, name, (batch.lock_seconds, 1))
        self.add(names.QUARANTINED, name, amount=batch.quarantined)
        for lane in batch.parked:
            self.add(names.PARKED, name, "locked" if lane.locked else "error")

    def met(self, incident: Incident) -> None:
        """Count an incident."""
        with self._incidents:
            if incident.what == "claims_expired":
                self.add(names.EXPIRED, incident.specialization, amount=incident.times)
            else:
                self.add(names.RETRIES, incident.specialization, incident.error)

    def add(self, metric: Metric, *labels: str, amount: float = 1) -> None:
        """Add to a counter or a gauge."""
        self._row[self._layout.start(metric, *labels)] += amount

    def observe_values(self, metric: Metric, name: str, *values: tuple[float, int]) -> None:
        """Note values of a histogram, each with how often it came."""
        start, row = self._layout.start(metric, name), self._row
        for value, times in values:
            row[start + bisect_left(metric.buckets, value)] += times
            row[start + metric.cells - 1] += value * times

    def _count_commands(self, name: str, batch: DecidedBatch) -> None:
        records = _decided(batch)
        sent = bytes(map(_KIND, records))
        kinds = {number: sent.count(number) for number in KIND_NAMES}
        for record, decision in _not_applied(batch):
            kinds[record.kind] -= 1
            self.add(names.COMMANDS, name, KIND_NAMES[record.kind], "duplicate" if decision.duplicate else "rejected")
            if decision.error is not None and not decision.duplicate:
                self.add(names.REJECTIONS, name, decision.error)
        for number, count in kinds.items():
            if count:
                self.add(names.COMMANDS, name, KIND_NAMES[number], "applied", amount=count)
        self._observe_latencies(name, records, batch.committed_ms)

    def _observe_latencies(self, name: str, records: list[Record], committed_ms: int) -> None:
        """Note how long commands took. Of many, some stand for the others, so that their number is right."""
        step = 1 + len(records) // SAMPLED
        sampled = records[::step]
        weights = {pushed_ms: step * count for pushed_ms, count in Counter(map(_PUSHED, sampled)).items()}
        if sampled:
            weights[sampled[-1].pushed_ms] -= step * len(sampled) - len(records)
        found = ((max(0, committed_ms - pushed_ms) / 1000, count) for pushed_ms, count in weights.items())
        self.observe_values(names.LATENCY, name, *found)


def _decided(batch: DecidedBatch) -> list[Record]:
    """The records with a decision; further ones of parked lanes have none."""
    if not batch.parked:
        return list(chain.from_iterable(map(_RECORDS, batch.lanes)))
    return [record for lane in batch.lanes for record in lane.records[: len(lane.decisions)]]


def _not_applied(batch: DecidedBatch) -> Iterator[tuple[Record, Decision]]:
    """The commands that were rejected or are duplicates."""
    for lane in filter(_EXCEPTIONAL, batch.lanes):
        for record, decision in zip(lane.records, lane.decisions, strict=False):
            if decision.error is not None or decision.duplicate:
                yield record, decision
