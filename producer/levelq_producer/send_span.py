"""The span of a send, where the application uses OpenTelemetry."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from levelq_core.domain.commands import Command
from levelq_core.tracing import context_of, tracer

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

_NO_SPAN = nullcontext(b"")


def send_span(name: str, sent: Command | Sequence[Any]) -> AbstractContextManager[bytes]:
    """A span around the send of one command, or of many; gives the context that each is to carry, or no bytes.

    `sent`: a list may grow until the end. No attribute has a user's id or reason; an error's message is left out.
    """
    used = tracer()
    return _NO_SPAN if used is None else _span(used, name, sent)


@contextmanager
def _span(used: Tracer, name: str, sent: Command | Sequence[Any]) -> Generator[bytes]:
    from opentelemetry.trace import SpanKind, StatusCode  # noqa: PLC0415 - the application has imported it

    attributes = {"messaging.system": "levelq", "messaging.operation.name": name, "messaging.operation.type": "send"}
    if isinstance(sent, Command):
        name = f"{name} {sent.specialization}"
        attributes["messaging.destination.name"] = sent.specialization
        attributes["messaging.message.id"] = str(sent.command_id)
    with used.start_as_current_span(
        name, kind=SpanKind.PRODUCER, attributes=attributes, record_exception=False, set_status_on_exception=False
    ) as span:
        try:
            yield context_of(span)
        except BaseException as error:
            span.set_attribute("error.type", type(error).__name__)
            span.set_status(StatusCode.ERROR)
            raise
        finally:
            if not isinstance(sent, Command):
                span.set_attribute("messaging.batch.message_count", len(sent))
