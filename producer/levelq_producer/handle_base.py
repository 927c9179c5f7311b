"""What handles share for threads and for asyncio: where the outcome may be, and the errors if it is not there."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any
from uuid import UUID

from redis.exceptions import RedisError

from levelq_core.domain.commands import Command
from levelq_core.errors import (
    ConfigurationError,
    InvalidCommand,
    NotDurable,
    OutcomeTimeout,
    OutcomeUnknown,
    QueueUnavailable,
)
from levelq_core.lanes import outcome_streams

from .sending import SentCommand, redis_address
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
        if command is not None:
            self.specialization = command.specialization
            self.user_id = command.user_id

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
            raise self.error
        if not self._kept and ledger is None:
            advice = "send with reply=True, or set LEVELQ_DATABASE_URL"
            raise OutcomeUnknown(f"the outcome of {self.command_id} is not kept: {advice}")

    def _waiter(self, ready: Any) -> Waiter:
        send = outcome_streams.send_key(self.digest, self.pushed_ms) if self.payload and self.pushed_ms else None
        return Waiter(self._settings.keys.reply(self.command_id.bytes), self.command_id, send, ready)

    def _redis_until(self, ledger: Any, deadline: float) -> float:
        """Until when to wait for Redis alone."""
        return deadline if ledger is None else min(deadline, time.monotonic() + ledger.pause(BOTH_SECONDS))

    def _without_redis(self, ledger: Any, error: RedisError) -> None:
        """Go on with the ledger alone. Raises QueueUnavailable if there is none."""
        if ledger is None:
            raise QueueUnavailable(f"{redis_address(self._settings)}: {error}") from error
        self._kept = False

    def _without_ledger(self, error: ConfigurationError) -> str:
        """What to add to the timeout's message. Raises the error if Redis does not answer either."""
        if not self._kept:
            raise error
        return f"; the ledger could not be asked: {error}"

    def _too_late(self, timeout: float, ledger: Any, addition: str) -> OutcomeTimeout:
        kept = "" if ledger else f"; outcomes are kept for {self._settings.reply_seconds} s"
        return OutcomeTimeout(f"command {self.command_id} was not decided within {timeout:g} s{kept}{addition}")


def require_id(command_id: UUID) -> UUID:
    """The id as it is. Raises InvalidCommand for anything but a UUID, such as its text."""
    if not isinstance(command_id, UUID):
        got = repr(command_id)
        raise InvalidCommand(f"command_id: expected a UUID, got {got[:80]}; UUID(...) makes one of a text")
    return command_id
