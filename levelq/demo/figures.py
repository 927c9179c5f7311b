"""The figures of a demo. Rates come from PostgreSQL's commit times, not from what the screen happened to see."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

from sqlalchemy import Engine

from levelq.laboratory.percentiles import percentile

from .kill import WorkerKill

PEAK_SECONDS = 0.2  # the whole burst may be over within a second


class Batch(NamedTuple):
    """One transaction of a worker: Unix seconds of begin and commit, commands applied and decided."""

    begun: float
    committed: float
    applied: int
    decided: int


class Figures(NamedTuple):
    """Rates are applied commands a second, times are in seconds."""

    batches: list[Batch]
    applied: int
    rejected: int
    level_ups: int
    peak_rate: float
    burst_rate: float
    overall_rate: float
    burst_seconds: float
    largest_batch: int
    median_batch: int
    calls: int
    call_median: float
    call_p95: float


# Every transaction of the workers, with the time of its commit, which the demo's server keeps.
_BATCHES = """
    SELECT extract(epoch FROM min(applied_at))::float8,
           extract(epoch FROM pg_xact_commit_timestamp((xid %% 4294967296)::text::xid))::float8,
           count(*) FILTER (WHERE status = 'applied'), count(*)
    FROM levelq_ledger WHERE source = 'queue' GROUP BY xid ORDER BY 2
"""

_COUNTS = """
    SELECT count(*) FILTER (WHERE status = 'applied'), count(*) FILTER (WHERE status = 'rejected'),
           count(*) FILTER (WHERE to_level > from_level)
    FROM levelq_ledger
"""


def measure(engine: Engine, call_seconds: Sequence[float], kill: WorkerKill) -> Figures:
    """The figures of a run at rest; `call_seconds`: how long each direct call took."""
    with engine.connect() as connection:
        batches = [Batch(*row) for row in connection.exec_driver_sql(_BATCHES)]
        applied, rejected, level_ups = connection.exec_driver_sql(_COUNTS).one()
    begins = min((batch.begun for batch in batches), default=0.0)
    ends = max((batch.committed for batch in batches), default=0.0)
    excluded = max(0.0, min(kill.returned_at, ends) - max(kill.killed_at, begins))
    outside = [batch for batch in batches if not kill.killed_at <= batch.committed <= kill.returned_at]
    sizes = [batch.decided for batch in batches] or [0]
    calls = sorted(call_seconds)
    return Figures(
        batches,
        applied,
        rejected,
        level_ups,
        peak_rate=max(rate_curve(batches, begins, ends, PEAK_SECONDS)),
        burst_rate=_rate(outside, ends - begins - excluded),
        overall_rate=_rate(batches, ends - begins),
        burst_seconds=ends - begins,
        largest_batch=max(sizes),
        median_batch=int(median(sizes)),
        calls=len(calls),
        call_median=percentile(calls, 50),
        call_p95=percentile(calls, 95),
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
