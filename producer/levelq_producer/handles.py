"""Handles: how a sender, or any process that knows the command's id, learns its outcome."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Generator
from contextlib import ExitStack
from typing import Any, Self
from uuid import UUID

from redis.exceptions import RedisError

from levelq_core.domain.commands import Command
from levelq_core.domain.outcome import Outcome
from levelq_core.errors import (
    ConfigurationError,
    InvalidCommand,
    LevelqError,
    NotDurable,
    OutcomeTimeout,
    OutcomeUnknown,
    QueueUnavailable,
)
from levelq_core.lanes import outcome_streams as replies
from levelq_core.settings import Settings

from .ledger_reader import LedgerReader
from .loop_owner import LoopOwner
from .reply_reader import ReplyReader
from .sending import Item, address
from .waiting import Waiter

__all__ = ["AsyncHandle", "Context", "Handle", "require_id"]

_POLL_SECONDS = 0.05  # between two questions to the ledger, where it alone can answer
_BOTH_SECONDS = 0.5  # where Redis is expected to


def require_id(command_id: UUID) -> UUID:
    """The id as it is. Raises InvalidCommand for what is no UUID, such as its text."""
    if not isinstance(command_id, UUID):
        got = repr(command_id)
        raise InvalidCommand(f"command_id: expected a UUID, got {got[:80]}; UUID(...) makes one of a text")
    return command_id


class Context:
    """What the handles of one producer share: where to ask for outcomes.

    `source`: of a Handle a ReplyReader, of an AsyncHandle the LoopOwner of each event loop.
    """

    __slots__ = ("ledger", "settings", "source")

    def __init__(self, source: Any, settings: Settings, ledger: LedgerReader | None) -> None:
        self.source = source
        self.settings = settings
        self.ledger = ledger


class _Waiting(Item):
    """What both handles share: when to look where, and what to say at the end."""

    __slots__ = ("_context", "_digest", "_kept")

    def __init__(
        self,
        context: Context,
        command_id: UUID,
        error: LevelqError | None,
        kept: bool,
        digest: bytes | None = None,
        pushed_ms: int = 0,
    ) -> None:
        self._context = context
        self.command_id = command_id
        self.error = error
        self.payload = b""
        self.pushed_ms = pushed_ms
        self._digest = digest
        self._kept = kept

    @classmethod
    def of(cls, context: Context, command: Command, payload: bytes, kept: bool) -> Self:
        """The handle on a command that is being sent; `kept`: its outcome is, in Redis."""
        handle = cls.__new__(cls)
        Item.__init__(handle, command, payload)
        handle._context, handle._digest, handle._kept = context, None, kept
        return handle

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.command_id}{f' {self.error!r}' if self.error else ''}>"

    def _begin(self, timeout: float) -> float:
        """The deadline; raises what is known to be hopeless."""
        # What is not durable is queued, and once it has an outcome, PostgreSQL has it.
        if self.error is not None and not isinstance(self.error, NotDurable):
            raise self.error
        if not self._kept and self._context.ledger is None:
            raise OutcomeUnknown(
                f"nobody keeps the outcome of {self.command_id}: send with reply=True, or set LEVELQ_DATABASE_URL"
            )
        return time.monotonic() + timeout

    def _sent_digest(self) -> bytes | None:
        return self._digest or (self.digest if self.payload else None)

    def _waiter(self, ready: Any) -> Waiter:
        digest = self._sent_digest()
        send = replies.send_key(digest, self.pushed_ms) if digest and self.pushed_ms else None
        return Waiter(self._context.settings.keys.reply(self.command_id.bytes), self.command_id, send, ready)

    def _until(self, ledger: LedgerReader | None, deadline: float) -> float:
        """Until when to wait for Redis alone."""
        return deadline if ledger is None else min(deadline, time.monotonic() + ledger.pause(_BOTH_SECONDS))

    def _not_asked(self, error: ConfigurationError) -> str:
        """What to add to the timeout's message; raises the error if Redis will not answer either."""
        if not self._kept:
            raise error
        return f"; the ledger could not be asked: {error}"

    def _late(self, timeout: float, unasked: str) -> OutcomeTimeout:
        kept = f"; outcomes are kept for {self._context.settings.reply_seconds} s" if not self._context.ledger else ""
        return OutcomeTimeout(f"command {self.command_id} was not decided within {timeout:g} s{kept}{unasked}")

    def _not_read(self, error: RedisError) -> None:
        """Redis cannot be asked: the ledger alone is, or nothing is. Raises QueueUnavailable."""
        if self._context.ledger is None:
            raise QueueUnavailable(f"{address(self._context.settings)}: {error}") from error
        self._kept = False


class Handle(_Waiting):
    """One sent command: `.command_id`, `.error` (None if all went well) and `.result()`."""

    __slots__ = ()

    def result(self, timeout: float = 5.0) -> Outcome:
        """Wait up to `timeout` seconds for the outcome. Any number of threads may wait at once.

        Raises the handle's error if the command was not queued, OutcomeTimeout, OutcomeUnknown if the
        outcome is kept nowhere, QueueUnavailable or ConfigurationError if it cannot be asked for.
        """
        deadline = self._begin(timeout)
        source: ReplyReader = self._context.source
        waiter = self._waiter(threading.Event())
        ledger, unasked = self._context.ledger, ""
        with ExitStack() as stack:
            if self._kept:
                stack.enter_context(source.waiting(waiter))
            if ledger is not None:
                stack.enter_context(ledger.waiting())
            while True:
                found: Outcome | None = None
                if self._kept:
                    try:
                        until = self._until(ledger, deadline)
                        found = source.wait(waiter, until, last=until >= deadline)
                    except RedisError as error:
                        self._not_read(error)
                if found is None and ledger is not None:
                    try:
                        found = ledger.ask(self.command_id, self._sent_digest())
                    except ConfigurationError as error:
                        unasked = self._not_asked(error)
                if found is not None:
                    return found
                left = deadline - time.monotonic()
                if left <= 0:
                    raise self._late(timeout, unasked)
                if not self._kept and ledger is not None:
                    time.sleep(min(ledger.pause(_POLL_SECONDS), left))


class AsyncHandle(_Waiting):
    """The same for asyncio: `await handle.result()`, or `await handle` for its five seconds, on whatever loop runs."""

    __slots__ = ()

    def __await__(self) -> Generator[Any, None, Outcome]:
        return self.result().__await__()

    async def result(self, timeout: float = 5.0) -> Outcome:
        """Wait up to `timeout` seconds for the outcome; raises as Handle.result does."""
        deadline = self._begin(timeout)
        readers: LoopOwner = self._context.source.get()
        waiter = self._waiter(asyncio.Event())
        ledger, unasked = self._context.ledger, ""
        with ExitStack() as stack:
            if self._kept:
                stack.enter_context(readers.replies.waiting(waiter))
            if ledger is not None:
                stack.enter_context(ledger.waiting())
            while True:
                found: Outcome | None = None
                if self._kept:
                    try:
                        until = self._until(ledger, deadline)
                        found = await readers.replies.wait(waiter, until, last=until >= deadline)
                    except RedisError as error:
                        self._not_read(error)
                if found is None and readers.ledger is not None:
                    try:
                        found = await readers.ledger.ask(self.command_id, self._sent_digest())
                    except ConfigurationError as error:
                        unasked = self._not_asked(error)
                if found is not None:
                    return found
                left = deadline - time.monotonic()
                if left <= 0:
                    raise self._late(timeout, unasked)
                if not self._kept and ledger is not None:
                    await asyncio.sleep(min(ledger.pause(_POLL_SECONDS), left))
