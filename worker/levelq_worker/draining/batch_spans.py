"""OpenTelemetry spans of batches: in each sender's trace from the push to the commit, and one for the batch itself."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple
from uuid import UUID

from levelq_core.domain.record import Lane, Record
from levelq_core.domain.rules import Decision
from levelq_core.tracing import remote_context, tracer

from .observing import DecidedBatch

MOST_TRACED = 128  # commands of a batch: as many links as a span of the SDK keeps


class _Traced(NamedTuple):
    lane: Lane
    record: Record
    decision: Decision


def trace_batch(batch: DecidedBatch) -> None:
    """The observer that makes the spans, when they have ended; none where no command carries a sampled context.

    "process": a child of the span of its send. "drain": the batch, linked to the sends; the others link to it.
    Nothing names a user or holds a reason.
    """
    used = tracer()
    if used is None or not (traced := list(islice(_traced(batch), MOST_TRACED))):
        return
    from opentelemetry.context import Context  # noqa: PLC0415 - the application has imported it
    from opentelemetry.trace import Link, NonRecordingSpan, SpanKind, set_span_in_context  # noqa: PLC0415

    name, end = batch.partition.specialization, time.time_ns()
    shared = {
        "messaging.system": "levelq",
        "messaging.destination.name": name,
        "levelq.partition": str(batch.partition),
    }
    counts = {f"levelq.{outcome}": count for outcome, count in batch.counts()._asdict().items()}
    senders = [remote_context(one.record.trace) for one in traced]
    span = used.start_span(
        f"drain {name}",
        Context(),
        attributes=shared | counts | {"levelq.transaction_ms": 1000 * batch.seconds},
        links=[Link(sender) for sender in senders],
        start_time=end - int(1e9 * batch.claimed_seconds),
    )
    for (lane, record, decision), sender in zip(traced, senders, strict=True):
        outcome = "applied" if decision.error is None else "rejected"
        one = used.start_span(
            f"process {lane.specialization}",
            set_span_in_context(NonRecordingSpan(sender), Context()),
            SpanKind.CONSUMER,
            attributes=shared
            | {
                "messaging.operation.type": "process",
                "messaging.message.id": str(UUID(bytes=record.command_id)),
                "levelq.outcome": "duplicate" if decision.duplicate else outcome,
            },
            links=[Link(span.get_span_context())],
            start_time=end - 1_000_000 * max(0, batch.committed_ms - record.pushed_ms),
        )
        if decision.error is not None:
            one.set_attribute("error.type", decision.error)
        one.end(end)
    span.end(end)


def _traced(batch: DecidedBatch) -> Iterator[_Traced]:
    """The decided commands that carry a context."""
    for lane in batch.lanes:
        for record, decision in zip(lane.records, lane.decisions, strict=False):
            if record.trace:
                yield _Traced(lane.lane, record, decision)
