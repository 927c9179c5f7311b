"""The metrics of a worker host: names, labels and buckets. docs/reference/metrics.md is compared with this module.

Every label has a fixed list of values, so the number of series is known when a worker starts: nothing is counted per
user, and no text from outside becomes a label.
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import product
from typing import Literal, NamedTuple

from levelq_core.database.sqlstate import ErrorClass
from levelq_core.domain.record import KIND_NAMES

OTHER = "other"  # a value that is in no list, like a specialization that has left the catalog

_FAST = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_SLOW = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
_COUNTS = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1_000.0, 3_000.0, 10_000.0, 100_000.0)

VALUES: dict[str, tuple[str, ...]] = {  # of each label but the specialization
    "kind": tuple(KIND_NAMES.values()),
    "outcome": ("applied", "rejected", "duplicate"),
    "error": ("validation_error", "conflict", "database_error", OTHER),
    "cause": ("locked", "error"),
    "error_class": ("redis", *(meaning.name.lower() for meaning in ErrorClass), "schema", "unexpected"),
}


class Metric(NamedTuple):
    """One metric. `buckets`: the upper bounds of a histogram's, without infinity."""

    name: str
    type: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    help: str
    buckets: tuple[float, ...] = ()

    def series(self, specializations: Collection[str]) -> list[tuple[str, ...]]:
        """The values of the labels, of every series that there can be."""
        every = {"specialization": (*specializations, OTHER), **VALUES}
        return list(product(*(every[label] for label in self.labels)))

    @property
    def cells(self) -> int:
        """How many numbers a series has: a histogram's buckets, infinity's, and the sum."""
        return len(self.buckets) + 2 if self.buckets else 1


_BY = ("specialization",)
COMMANDS = Metric(
    "levelq_commands_total", "counter", (*_BY, "kind", "outcome"), "Commands decided; a duplicate was decided before."
)
REJECTIONS = Metric("levelq_rejections_total", "counter", (*_BY, "error"), "Commands rejected, by error.")
QUARANTINED = Metric("levelq_entries_quarantined_total", "counter", _BY, "Entries of lanes that were no commands.")
PARKED = Metric("levelq_lanes_parked_total", "counter", (*_BY, "cause"), "Times that a lane was parked for later.")
EXPIRED = Metric(
    "levelq_claims_expired_total", "counter", _BY, "Claims of dead or stopped workers that this host returned."
)
RETRIES = Metric("levelq_retries_total", "counter", (*_BY, "error_class"), "Batches that failed and are tried again.")
LATENCY = Metric("levelq_send_to_commit_seconds", "histogram", _BY, "From the push into a lane to the commit.", _SLOW)
BATCH = Metric("levelq_batch_commands", "histogram", _BY, "Entries of a batch: commands and malformed ones.", _COUNTS)
TRANSACTION = Metric("levelq_transaction_seconds", "histogram", _BY, "Length of a batch's transaction.", _FAST)
LOCKS = Metric(
    "levelq_lock_wait_seconds", "histogram", _BY, "How long a batch took to lock its rows, waits included.", _FAST
)
PROCESSES = Metric("levelq_worker_processes", "gauge", (), "Worker processes of this host that live.")
RESTARTS = Metric("levelq_worker_restarts_total", "counter", (), "Worker processes that ended and were started again.")

METRICS = (
    COMMANDS, REJECTIONS, QUARANTINED, PARKED, EXPIRED, RETRIES, LATENCY, BATCH, TRANSACTION, LOCKS, PROCESSES,
    RESTARTS,
)  # fmt: skip
