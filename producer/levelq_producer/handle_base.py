"""What handles share for threads and for asyncio: where the outcome may be, and the errors if it is not there."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any
from uuid import UUID

from redis.exceptions import RedisError

from levelq_core.domain.commands import Command
from levelq_core.domain.record import Lane
from levelq_core.errors import (
    ConfigurationError,
    InvalidArgument,
    InvalidCommand,
    NotDurable,
    OutcomeUnknown,
)
from levelq_core.lanes import outcome_streams

from .sending import SentCommand, unavailable
from .shared_read import Waiter

if TYPE_CHECKING:
    from levelq_core.settings import Settings

LEDGER_SECONDS = 0.05  # between two queries of the ledger, where it alone can answer
BOTH_SECONDS = 0.5  # where Redis is expected to


class HandleBase(SentCommand):
    """A command whose outcome can be waited for."""

    __slots__ = ("_connections", "_kept")

    def __init__(
        self, connections: Any, command_id: UUID, kept: bool, command: Command | None = None, payload: bytes = b""
    ) -> None:
        """`kept`: Redis keeps the outcome. `command` and its `payload`: what is sent, if this process sends it."""
        self._connections = connections
        self._kept = kept
        self.command_id = command_id
        self.payload = payload
        self.pushed_ms = 0
        self.error = None
        self.specialization, self.user_id = "", 0
        if command is not None:
            self.specialization, self.user_id = command.specialization, command.user_id

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.command_id}{f' {self.error!r}' if self.error else ''}>"

    @property
    def _settings(self) -> Settings:
        settings: Settings = self._connections.settings
        return settings

    def _require_answerable(self, ledger: Any) -> None:
        """Raise the handle's error, or OutcomeUnknown if the outcome is kept nowhere."""
        # A command that is not durable is queued, and its outcome is safe in PostgreSQL.
        if self.error is not None and not isinstance(self.error, NotDurable):
            raise self.error.with_traceback(None)  # not with the frames of others: commands share an error
        if not self._kept and ledger is None:
            advice = "send with reply=True, or set LEVELQ_DATABASE_URL"
            message = f"the outcome of {self.command_id} is not kept: {advice}"
            raise OutcomeUnknown(message, command_id=self.command_id)

    def _waiter(self, ready: Any) -> Waiter:
        send = outcome_streams.send_key(self.digest, self.pushed_ms) if self.payload and self.pushed_ms else None
        return Waiter(self._settings.keys.reply(self.command_id.bytes), self.command_id, send, ready)

    def _redis_until(self, ledger: Any, deadline: float) -> float:
        """Until when to wait for Redis alone."""
        return deadline if ledger is None else min(deadline, time.monotonic() + ledger.pause(BOTH_SECONDS))

    def _without_redis(self, ledger: Any, error: RedisError) -> None:
        """Go on with the ledger alone. Raises QueueUnavailable if there is none."""
        if ledger is None:
            raise unavailable(self._settings, str(error)) from error
        self._kept = False

    def _without_ledger(self, error: ConfigurationError) -> str:
        """What to add to the timeout's message. Raises the error if Redis does not answer either."""
        if not self._kept:
            raise error
        return f"; the ledger could not be asked: {error}"

    @property
    def _known_lane(self) -> Lane | None:
        """The command's lane, if this process sent it."""
        return self.lane if self.payload else None


def require_timeout(timeout: float | None) -> float:
    """The timeout in seconds, infinite for None. Raises InvalidArgument for what is no number above 0."""
    if timeout is None:
        return math.inf
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not timeout > 0:
        message = f"timeout: expected a number of seconds above 0, or None to wait without end, got {timeout!r}"
        raise InvalidArgument(message, field="timeout", value=timeout)
    return float(timeout)


def require_id(command_id: UUID) -> UUID:
    """The id as it is. Raises InvalidCommand for anything but a UUID, such as its text."""
    if not isinstance(command_id, UUID):
        got = repr(command_id)
        advice = "UUID(...) makes one of a text, levelq.command_id_for(...) of an idempotency key"
        raise InvalidCommand(
            f"command_id: expected a UUID, got {got[:80]}; {advice}", field="command_id", value=command_id
        )
    return command_id
