"""OpenTelemetry, where the application uses it: the tracer, and a trace's context as bytes in a command's entry.

Nothing here imports OpenTelemetry before the application does. A process that has set no tracer provider has no tracer
and no current span, so there is nothing to trace.
"""

from __future__ import annotations

import sys
from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opentelemetry.trace import Span, SpanContext, Tracer, TracerProvider


def tracer() -> Tracer | None:
    """The application's tracer; None if it does not use OpenTelemetry."""
    api = sys.modules.get("opentelemetry.trace")
    if api is None or isinstance(provider := api.get_tracer_provider(), api.ProxyTracerProvider):
        return None  # some libraries import the API only to look whether it is in use
    return _tracer_of(provider)


@lru_cache(maxsize=2)
def _tracer_of(provider: TracerProvider) -> Tracer:
    return provider.get_tracer("levelq")


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
