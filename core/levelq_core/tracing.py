"""OpenTelemetry, where the application uses it: the tracer, and a trace's context as bytes in a command's entry.

Nothing here imports OpenTelemetry before the application does. A process that has set no tracer provider has no tracer
and no current span, so there is nothing to trace.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opentelemetry.trace import Span, SpanContext, Tracer, TracerProvider

FLUSH_MS = 2_000  # how long a worker that ends waits for its exporter


def tracer() -> Tracer | None:
    """The application's tracer; None if it does not use OpenTelemetry."""
    provider = _provider()
    return None if provider is None else _tracer_of(provider)


@lru_cache(maxsize=2)
def _tracer_of(provider: TracerProvider) -> Tracer:
    return provider.get_tracer("levelq")


def flush() -> None:
    """Export the spans that have ended, within FLUSH_MS: a process that is forked ends without its exit handlers."""
    export = getattr(_provider(), "force_flush", None)
    if export is not None:
        export(FLUSH_MS)


def _provider() -> TracerProvider | None:
    api = sys.modules.get("opentelemetry.trace")
    get: Callable[[], TracerProvider] | None = getattr(api, "get_tracer_provider", None)
    if api is None or get is None:  # while another thread imports it, it has none
        return None
    provider = get()  # libraries import the API to look whether it is in use: then it is only a stand-in
    return None if isinstance(provider, api.ProxyTracerProvider) else provider


def context_of(span: Span) -> bytes:
    """The trace id and span id of a span, as a command carries them; empty if the trace is not sampled."""
    context = span.get_span_context()
    if not (context.is_valid and context.trace_flags.sampled):
        return b""
    return context.trace_id.to_bytes(16, "big") + context.span_id.to_bytes(8, "big")


def remote_context(raw: bytes) -> SpanContext:
    """The sender's context from these bytes. It may be invalid: anyone who can push can write it."""
    api = import_module("opentelemetry.trace")
    ids = int.from_bytes(raw[:16], "big"), int.from_bytes(raw[16:], "big")
    context: SpanContext = api.SpanContext(*ids, is_remote=True, trace_flags=api.TraceFlags(api.TraceFlags.SAMPLED))
    return context
