"""What a worker counts of a batch and of incidents."""

from array import array

import pytest

from levelq_core.coupler.lane_batch import LaneBatch, Parked
from levelq_core.domain.record import LEVEL_UP, SET_LEVEL, Lane, Record
from levelq_core.domain.rules import Decision
from levelq_core.keys import Partition
from levelq_worker.draining.observing import DecidedBatch, Incident, Observers
from levelq_worker.metrics import names
from levelq_worker.metrics.figures import Figures, Layout

LAYOUT = Layout(["PLAYER", "COACH"])
APPLIED, REJECTED = Decision(None, ""), Decision("validation_error", "no")


class Row:
    """A row of figures and the observers that fill it."""

    def __init__(self) -> None:
        self.cells = array("d", bytes(8 * LAYOUT.cells))
        self.observers = Observers()
        Figures(LAYOUT, memoryview(self.cells)).observe(self.observers)

    def value(self, metric: names.Metric, *labels: str) -> float:
        return self.cells[LAYOUT.starts[metric.name][labels]]

    def histogram(self, metric: names.Metric, name: str) -> tuple[dict[float, float], float]:
        """The buckets that hold something, by their upper bound, and the sum."""
        start = LAYOUT.starts[metric.name][(name,)]
        *counts, total = self.cells[start : start + metric.cells]
        bounds = (*metric.buckets, float("inf"))
        return {bound: count for bound, count in zip(bounds, counts, strict=True) if count}, total


def record(kind: int, pushed_ms: int) -> Record:
    return Record(b"", b"", kind, 0, 0, 0, 0, 0, 0, 0, pushed_ms=pushed_ms)


def batch(name: str = "PLAYER") -> DecidedBatch:
    """A lane of three commands, the last of them parked; another with a rejected, a duplicate and an applied one."""
    one = LaneBatch(Lane(name, 1), [record(LEVEL_UP, 9_000), record(LEVEL_UP, 9_000), record(LEVEL_UP, 9_990)], [])
    one.decisions = [APPLIED, APPLIED]
    other = LaneBatch(Lane(name, 2), [record(SET_LEVEL, 4_000), record(LEVEL_UP, 11_000), record(SET_LEVEL, 9_000)], [])
    other.exceptional = True
    other.decisions = [REJECTED, REJECTED._replace(duplicate=True), APPLIED]
    parked = [Parked(one, "locked by others", locked=True)]
    return DecidedBatch(Partition(name), [one, other], parked, 7, 1, 10_000, 0.2, 0.3, lock_seconds=0.004)


@pytest.mark.parametrize(("sent", "counted"), [("PLAYER", "PLAYER"), ("REMOVED", names.OTHER)])
def test_batch_is_counted_by_specialization_kind_and_outcome(sent: str, counted: str) -> None:
    row = Row()
    row.observers.committed(batch(sent))
    assert row.value(names.COMMANDS, counted, "level_up", "applied") == 2
    assert row.value(names.COMMANDS, counted, "level_up", "duplicate") == 1
    assert row.value(names.COMMANDS, counted, "set_level", "rejected") == 1
    assert row.value(names.COMMANDS, counted, "set_level", "applied") == 1
    assert row.value(names.REJECTIONS, counted, "validation_error") == 1
    assert row.value(names.QUARANTINED, counted) == 1
    assert row.value(names.PARKED, counted, "locked") == 1
    assert row.histogram(names.BATCH, counted) == ({10.0: 1}, 7)
    assert row.histogram(names.TRANSACTION, counted) == ({0.25: 1}, 0.2)
    assert row.histogram(names.LOCKS, counted) == ({0.005: 1}, 0.004)
    # The parked command is not decided yet; the one from the future, by a clock set back, took no time.
    assert row.histogram(names.LATENCY, counted) == ({0.005: 1, 1.0: 3, 10.0: 1}, 9.0)


@pytest.mark.parametrize(
    ("incident", "metric", "labels", "times"),
    [
        (Incident("claims_expired", "COACH", 3), names.EXPIRED, ("COACH",), 3),
        (Incident("batch_failed", "PLAYER", error="too_slow"), names.RETRIES, ("PLAYER", "too_slow"), 1),
        (Incident("batch_failed", "GONE", error="redis"), names.RETRIES, (names.OTHER, "redis"), 1),
    ],
)
def test_incident_is_counted(incident: Incident, metric: names.Metric, labels: tuple[str, ...], times: int) -> None:
    row = Row()
    row.observers.met(incident)
    assert row.value(metric, *labels) == times == sum(row.cells)


def test_times_of_a_large_batch_are_sampled_and_their_number_is_right() -> None:
    row = Row()
    lane = LaneBatch(Lane("PLAYER", 1), [record(LEVEL_UP, 1_000 + 9 * n) for n in range(999)], [])
    lane.decisions = [APPLIED] * 999
    row.observers.committed(DecidedBatch(Partition("PLAYER"), [lane], [], 999, 0, 10_000, 0.2, 0.3))
    buckets, total = row.histogram(names.LATENCY, "PLAYER")
    assert row.value(names.COMMANDS, "PLAYER", "level_up", "applied") == sum(buckets.values()) == 999
    assert total == pytest.approx(sum((10_000 - 1_000 - 9 * n) / 1000 for n in range(999)), rel=0.01)
