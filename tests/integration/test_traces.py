"""OpenTelemetry: a sender's trace goes from the send to the commit, in one process and across processes."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, Tracer

from levelq import AsyncProducer, InvalidCommand, LevelUp, Settings
from levelq_core.domain.codec import FLAG_TRACE, encode, with_trace
from levelq_worker.draining.batch_spans import MOST_TRACED
from tests.support.fixtures.keys import KEYS
from tests.support.system import PLAYER, System, up

SECRET = "a reason of the user"
USER = 987_654_321


class Traces:
    """A tracer provider of the test's own, and the spans that have ended."""

    def __init__(self, **options: object) -> None:
        self.provider = TracerProvider(**options)  # type: ignore[arg-type]
        self._exporter = InMemorySpanExporter()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer: Tracer = self.provider.get_tracer("application")

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self._exporter.get_finished_spans() if span.name == name]

    @property
    def names(self) -> set[str]:
        return {span.name for span in self._exporter.get_finished_spans()}


@pytest.fixture
def traces(monkeypatch: pytest.MonkeyPatch) -> Iterator[Traces]:
    made = Traces()
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", made.provider)
    yield made
    made.provider.shutdown()


def ids(span: ReadableSpan) -> tuple[int, int]:
    context = span.get_span_context()
    assert context is not None
    return context.trace_id, context.span_id


def parent_of(span: ReadableSpan) -> tuple[int, int] | None:
    return None if span.parent is None else (span.parent.trace_id, span.parent.span_id)


def links_of(span: ReadableSpan) -> set[tuple[int, int]]:
    return {(link.context.trace_id, link.context.span_id) for link in span.links}


async def test_trace_goes_from_each_way_to_send_to_the_commit(system: System, traces: Traces) -> None:
    with traces.tracer.start_as_current_span("request") as request:
        sent = system.producer.send(up(USER, 1500, reason=SECRET))
        async with AsyncProducer(system.settings) as producer:
            await producer.send(up(1))
        system.producer.send_many([up(2), up(3, specialization="COACH")])
    system.drain("PLAYER", "COACH")
    assert sent.result().status == "applied"
    sends = {ids(span): span for name in ("send PLAYER", "send") for span in traces.named(name)}
    assert len(sends) == 3 and {span.kind for span in sends.values()} == {SpanKind.PRODUCER}
    assert {parent_of(span) for span in sends.values()} == {ids(request)}  # type: ignore[arg-type]
    processed = traces.named("process PLAYER") + traces.named("process COACH")
    assert sorted(parent_of(span) or () for span in processed) == sorted([*sends, ids(traces.named("send")[0])])
    (drain,) = traces.named("drain PLAYER")
    assert drain.parent is None and links_of(drain) == set(sends)
    for span in traces.named("process PLAYER"):
        assert links_of(span) == {ids(drain)}
        began, ended = span.start_time, span.end_time
        assert began is not None and ended is not None and drain.end_time == ended and began < ended
    first = next(span for span in processed if parent_of(span) == ids(traces.named("send PLAYER")[0]))
    assert first.attributes == {
        "messaging.system": "levelq",
        "messaging.destination.name": "PLAYER",
        "messaging.operation.type": "process",
        "messaging.message.id": str(sent.command_id),
        "levelq.partition": "PLAYER:1:0",
        "levelq.outcome": "applied",
    }
    assert drain.attributes is not None
    counts = {name: drain.attributes[f"levelq.{name}"] for name in ("commands", "applied", "rejected", "parked")}
    assert counts == {"commands": 3, "applied": 3, "rejected": 0, "parked": 0}
    shown = [repr(dict(span.attributes or {})) for span in (*sends.values(), *processed, drain)]
    assert not any(SECRET in text or str(USER) in text for text in shown)


def test_trace_of_the_outbox_goes_on_in_the_worker(system: System, traces: Traces) -> None:
    (handle,) = system.commit(up(1))
    (sent,) = traces.named("outbox")
    ((payload,),) = system.rows("SELECT payload FROM levelq_outbox")
    system.push_raw(1, bytes(payload))
    system.drain()
    (processed,) = traces.named("process PLAYER")
    assert parent_of(processed) == ids(sent)
    assert processed.attributes is not None and processed.attributes["messaging.message.id"] == str(handle.command_id)


def test_refused_send_is_an_error_without_its_message(system: System, traces: Traces) -> None:
    with pytest.raises(InvalidCommand):
        system.producer.send(up(1, specialization="CHESS", reason=SECRET))
    (span,) = traces.named("send CHESS")
    assert span.attributes is not None and span.attributes["error.type"] == "InvalidCommand"
    assert not span.status.is_ok and span.status.description is None and not span.events


@pytest.mark.parametrize("sampled", [True, False])
def test_only_a_sampled_context_travels(system: System, monkeypatch: pytest.MonkeyPatch, sampled: bool) -> None:
    traces = Traces() if sampled else Traces(sampler=ALWAYS_OFF)
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", traces.provider)
    command = up(1)
    system.producer.send(command, reply=False)
    (entry,) = system.redis.lrange(KEYS.lane(PLAYER, 1), 0, -1)
    assert len(entry) - 13 == len(encode(command)) + 24 * sampled
    system.drain()
    assert traces.names == ({"send PLAYER", "process PLAYER", "drain PLAYER"} if sampled else set())


def test_command_sent_again_in_another_trace_is_the_same_command(system: System, traces: Traces) -> None:
    command = up(1, 5)
    system.producer.send(command)
    system.producer.send(command)
    system.push(command)  # by a sender without traces
    system.drain()
    assert (system.applied(), system.total_xp(), system.status().waiting) == (1, 5, 0)
    outcomes = [span.attributes and span.attributes["levelq.outcome"] for span in traces.named("process PLAYER")]
    assert sorted(map(str, outcomes)) == ["applied", "duplicate"]


def test_spans_and_links_of_a_batch_are_bounded(system: System, traces: Traces) -> None:
    system.producer.send_many([up(user) for user in range(1, MOST_TRACED + 20)])
    system.drain()
    (drain,) = traces.named("drain PLAYER")
    assert len(traces.named("process PLAYER")) == len(drain.links) == MOST_TRACED
    assert drain.attributes is not None and drain.attributes["levelq.commands"] == MOST_TRACED + 19


def test_context_is_left_out_where_the_payload_has_no_room(system: System, traces: Traces) -> None:
    command = up(1, reason="x" * 100)
    with system.another_producer(payload_limit=len(encode(command)) + 23) as producer:
        producer.send(command)
    (entry,) = system.redis.lrange(KEYS.lane(PLAYER, 1), 0, -1)
    assert not entry[16] & FLAG_TRACE and traces.names == {"send PLAYER"}


@pytest.mark.parametrize("forged", [bytes(24), b"\xff" * 24], ids=["zeros", "ones"])
def test_forged_context_costs_no_command(system: System, traces: Traces, forged: bytes) -> None:
    system.push_raw(1, with_trace(encode(up(1, 5)), forged))
    system.drain()
    assert system.total_xp() == 5


WORKER = """
import sys
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter

provider = TracerProvider()
exporter = ConsoleSpanExporter(out=open(sys.argv.pop(1), "a"), formatter=lambda span: span.to_json(indent=None) + "\\n")
provider.add_span_processor(BatchSpanProcessor(exporter))
trace.set_tracer_provider(provider)

from levelq.cli import main

sys.exit(main())
"""


def test_trace_goes_on_in_a_worker_process(system: System, traces: Traces, settings: Settings, tmp_path: Path) -> None:
    handle = system.producer.send(LevelUp(user_id=1, specialization="PLAYER", xp_gained=5))
    arguments = [sys.executable, "-c", WORKER, str(tmp_path / "spans"), "worker", "--burst"]
    done = subprocess.run(
        arguments, env=os.environ | settings.environment(), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0 and done.stderr == "", done.stderr
    spans = {span["name"]: span for span in map(json.loads, (tmp_path / "spans").read_text().splitlines())}
    assert spans.keys() == {"process PLAYER", "drain PLAYER"}
    trace_id, span_id = ids(traces.named("send PLAYER")[0])
    processed = spans["process PLAYER"]
    assert int(processed["context"]["trace_id"], 16) == trace_id and int(processed["parent_id"], 16) == span_id
    assert UUID(processed["attributes"]["messaging.message.id"]) == handle.command_id
    assert system.total_xp() == 5
