"""The figures of a run. Rates come from PostgreSQL's own commit times, not from what the screen happened to see."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median, quantiles
from typing import Any, NamedTuple

import psycopg

from .record import Record
from .watching import Sample

PEAK_SECONDS = 0.2  # the whole burst may be over within a second


class Batch(NamedTuple):
    """One transaction of a worker: Unix seconds of begin and commit, commands applied and decided."""

    begun: float
    committed: float
    applied: int
    decided: int


class Outage(NamedTuple):
    """The kill, and when the claims the dead worker held were back; Unix seconds."""

    killed: float
    returned: float

    @property
    def seconds(self) -> float:
        """How long its lanes waited."""
        return self.returned - self.killed


class Figures(NamedTuple):
    """What the summary says. Rates are applied commands a second, times in seconds."""

    batches: list[Batch]
    applied: int
    rejected: int
    level_ups: int
    direct: int
    peak_rate: float
    burst_rate: float
    overall_rate: float
    burst_seconds: float
    largest_batch: int
    median_batch: int
    direct_median: float
    direct_slow: float
    most_waiting: int


# Every transaction of the workers, with the time of its commit (the demo's server keeps track of those).
_BATCHES = """
    SELECT extract(epoch FROM min(applied_at))::float8,
           extract(epoch FROM pg_xact_commit_timestamp((xid % 4294967296)::text::xid))::float8,
           count(*) FILTER (WHERE status = 'applied'), count(*)
    FROM levelq_ledger WHERE source = 'queue' GROUP BY xid ORDER BY 2
"""

_COUNTS = """
    SELECT count(*) FILTER (WHERE status = 'applied'), count(*) FILTER (WHERE status = 'rejected'),
           count(*) FILTER (WHERE to_level > from_level), count(*) FILTER (WHERE source = 'direct')
    FROM levelq_ledger
"""


def measure(database: psycopg.Connection[Any], record: Record, samples: Sequence[Sample], outage: Outage) -> Figures:
    """Put the figures of a run at rest together."""
    batches = [Batch(*row) for row in database.execute(_BATCHES)]
    applied, rejected, level_ups, direct = database.execute(_COUNTS).fetchone() or (0, 0, 0, 0)
    begins = min((batch.begun for batch in batches), default=0.0)
    ends = max((batch.committed for batch in batches), default=0.0)
    excluded = max(0.0, min(outage.returned, ends) - max(outage.killed, begins))
    outside = [batch for batch in batches if not outage.killed <= batch.committed <= outage.returned]
    sizes = [batch.decided for batch in batches] or [0]
    slow = [call.seconds for call in record.calls] or [0.0]
    return Figures(
        batches,
        applied,
        rejected,
        level_ups,
        direct,
        peak_rate=max(rate_curve(batches, begins, ends, PEAK_SECONDS)),
        burst_rate=_rate(outside, ends - begins - excluded),
        overall_rate=_rate(batches, ends - begins),
        burst_seconds=ends - begins,
        largest_batch=max(sizes),
        median_batch=int(median(sizes)),
        direct_median=median(slow),
        direct_slow=quantiles(slow, n=100)[94] if len(slow) > 1 else slow[0],
        most_waiting=max(sample.waiting for sample in samples),
    )


def _rate(batches: Sequence[Batch], seconds: float) -> float:
    return sum(batch.applied for batch in batches) / max(seconds, 0.001)


def rate_curve(batches: Sequence[Batch], start: float, end: float, step: float) -> list[float]:
    """Applied a second in each step, every batch spread evenly over its transaction."""
    bins = [0.0] * max(1, int((end - start) / step) + 1)
    for batch in batches:
        length = max(batch.committed - batch.begun, 1e-6)
        for number in range(len(bins)):
            left = start + number * step
            overlap = min(batch.committed, left + step) - max(batch.begun, left)
            bins[number] += batch.applied * max(0.0, overlap) / length
    return [value / step for value in bins]
