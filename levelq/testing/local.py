# Generated from async_local.py by `make sync`: do not edit.
"""A producer that reaches no server: subclasses say what becomes of a command."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

from levelq_core.domain.commands import Command
from levelq_core.domain.outcome import Outcome
from levelq_core.errors import OutcomeUnknown
from levelq_producer import Handle, Producer
from levelq_producer.durability import DurabilityWait
from levelq_producer.handle_base import require_id, require_timeout
from levelq_producer.lookup import State
from levelq_producer.sending import encode, require_lane

from .destination import Destination

if TYPE_CHECKING:
    from levelq_core.settings import Durability

T = TypeVar("T")


class LocalHandle(Handle):
    """The handle of such a producer: it answers at once."""

    __slots__ = ("_answer",)

    _answer: Callable[[], Outcome]

    def result(self, timeout: float | None = 5.0) -> Outcome:
        """The outcome, at once. Raises as the handle of a real producer, and as its producer's class says."""
        require_timeout(timeout)
        producer: LocalProducer = self._connections
        producer._require_open()
        self._require_answerable(producer.settings.database_url)
        return producer._run(self._answer)


class LocalProducer(Destination, Producer):
    """Every method of Producer, with the same validation."""

    def _run(self, work: Callable[..., T], *arguments: Any) -> T:
        """Call a function."""
        return work(*arguments)

    def close(self) -> None:
        """Later calls raise ProducerClosed; assertions go on working."""
        self._closed = True

    def send(self, command: Command, reply: bool = True, durability: Durability | None = None) -> Handle:
        """As Producer.send, without a server. Raises InvalidCommand."""
        (handle,) = self.send_many([command], reply, durability)
        if handle.error is not None:
            raise handle.error
        return handle

    def send_many(
        self, commands: Iterable[Command], reply: bool = False, durability: Durability | None = None
    ) -> list[Handle]:
        """As Producer.send_many, without a server. Raises InvalidCommand before anything is done."""
        self._require_open()
        DurabilityWait(self.settings, durability)  # raises for a level that does not exist
        batch = list(commands)
        payloads = [encode(self.settings, command, reply=reply) for command in batch]
        taken = self._run(self._take, batch)
        handles: list[Handle] = []
        for command, payload, (answer, error) in zip(batch, payloads, taken, strict=True):
            handle = LocalHandle(self, command.command_id, reply, command, payload)
            handle._answer, handle.error = answer, error
            handles.append(handle)
        return handles

    def handle(self, command_id: UUID) -> Handle:
        """A handle on a command that other code sent. Raises InvalidCommand if the id is no UUID."""
        self._require_open()
        handle = LocalHandle(self, require_id(command_id), True)
        handle._answer = partial(self._answer, command_id)
        return handle

    def outcome(
        self, command_id: UUID, user_id: int | None = None, specialization: str | None = None
    ) -> Outcome | None:
        """The decision on a command; None while it waits. Raises OutcomeUnknown if it was never sent."""
        self._require_open()
        if user_id is not None or specialization is not None:
            require_lane(self.settings, user_id, specialization)
        known = self._run(self._known, require_id(command_id))
        if known is None and not self._was_sent(command_id):
            raise OutcomeUnknown(
                f"command_id: {command_id} is unknown: it was not sent through this producer", command_id=command_id
            )
        return known

    def state(self, command_id: UUID, user_id: int | None = None, specialization: str | None = None) -> State:
        """Whether a command waits, is decided, or was never sent."""
        try:
            return "queued" if self.outcome(command_id, user_id, specialization) is None else "decided"
        except OutcomeUnknown:
            return "unknown"

    def wait_until_applied(self, user_id: int, specialization: str, timeout: float | None = 5.0) -> None:
        """Return at once: nothing waits on a lane. Raises as Producer's for what is no lane or no timeout."""
        self._require_open()
        require_timeout(timeout)
        require_lane(self.settings, user_id, specialization)
