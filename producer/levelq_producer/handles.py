"""Handles: how a sender, or anybody who knows the command's id, learns its outcome."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Self
from uuid import UUID

from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from redis.exceptions import RedisError

from levelq_core import replies
from levelq_core.errors import (
    ConfigurationError,
    LevelqError,
    NotDurable,
    OutcomeTimeout,
    OutcomeUnknown,
    QueueUnavailable,
)
from levelq_core.outcome import Outcome
from levelq_core.settings import Settings

from .sending import address

if TYPE_CHECKING:
    from sqlalchemy import Engine

_POLL_SECONDS = 0.05  # between two looks into the ledger


class LedgerReader:
    """Asks the ledger for outcomes, on connections of its own, made at the first question."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._engine: Engine | None = None
        self._checked = False

    @classmethod
    def of(cls, settings: Settings) -> Self | None:
        """A reader, if a database URL is set."""
        return None if settings.database_url is None else cls(settings)

    def look_up(self, command_id: UUID, digest: bytes | None = None) -> Outcome | None:
        """The decision on a command, if there is one; a conflict if it was on another content than `digest`.

        Raises ConfigurationError if the ledger cannot be asked, WrongDatabase if it is another deployment's.
        """
        from sqlalchemy.exc import DBAPIError  # noqa: PLC0415 - needs levelq[worker]

        from levelq_core.engine import engine_for, unreachable  # noqa: PLC0415
        from levelq_core.history import outcome_of  # noqa: PLC0415
        from levelq_core.identity import require_ours  # noqa: PLC0415

        if self._engine is None:
            self._engine = engine_for(self._settings, name="levelq producer", connections=4, limited=True)
        if not self._checked:
            require_ours(self._engine, self._settings)
            self._checked = True
        try:
            with self._engine.connect() as connection:
                return outcome_of(connection, command_id, digest)
        except DBAPIError as error:
            raise unreachable(self._settings, error) from error

    def close(self) -> None:
        """Give the connections back."""
        if self._engine is not None:
            self._engine.dispose()


class _Waiting:
    """What both handles share: when to look where, and what to say at the end."""

    def __init__(
        self,
        settings: Settings,
        ledger: LedgerReader | None,
        command_id: UUID,
        error: LevelqError | None,
        kept: bool,
        digest: bytes | None = None,
        pushed_ms: int = 0,
    ) -> None:
        self.command_id = command_id
        self.error = error
        self._digest = digest
        self._send = replies.send_key(digest, pushed_ms) if digest and pushed_ms else None
        self._position: str | bytes = "0"
        self._settings = settings
        self._ledger = ledger
        self._kept = kept
        self._unasked = ""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.command_id}{f' {self.error!r}' if self.error else ''}>"

    def _begin(self, timeout: float) -> float:
        """The deadline; raises what is known to be hopeless."""
        # What is not durable is queued, and once it has an outcome, PostgreSQL has it.
        if self.error is not None and not isinstance(self.error, NotDurable):
            raise self.error
        if not self._kept and self._ledger is None:
            raise OutcomeUnknown(
                f"nobody keeps the outcome of {self.command_id}: send with reply=True, or set LEVELQ_DATABASE_URL"
            )
        return time.monotonic() + timeout

    def _block_ms(self, deadline: float) -> int:
        """How long to block in one XREAD: within the socket's timeout and, with a ledger, a poll's time."""
        most = _POLL_SECONDS * 10 if self._ledger else self._settings.redis_seconds / 2
        return max(1, int(1000 * min(most, deadline - time.monotonic())))

    def _read(self, reply: Any) -> Outcome | None:
        """The outcome in a reply, if it is this send's; else go on behind what was read."""
        found, last = replies.read(reply, self._send)
        if found is None and last is not None:
            self._position = last
        return found

    def _ask_ledger(self) -> Outcome | None:
        """The ledger's answer. Raises ConfigurationError if it cannot be asked and Redis will not answer either."""
        assert self._ledger is not None
        try:
            return self._ledger.look_up(self.command_id, self._digest)
        except ConfigurationError as error:
            if not self._kept:
                raise
            self._unasked = f"; the ledger could not be asked: {error}"
            return None

    def _late(self, timeout: float) -> OutcomeTimeout:
        kept = f"; outcomes are kept for {self._settings.reply_seconds} s" if self._ledger is None else ""
        return OutcomeTimeout(f"command {self.command_id} was not decided within {timeout:g} s{kept}{self._unasked}")

    def _unavailable(self, error: RedisError) -> QueueUnavailable:
        return QueueUnavailable(f"{address(self._settings)}: {error}")


class Handle(_Waiting):
    """One sent command: `.command_id`, `.error` (None if all went well) and `.result()`."""

    def __init__(self, redis: Redis, *args: Any) -> None:
        super().__init__(*args)
        self._redis = redis

    def result(self, timeout: float = 5.0) -> Outcome:
        """Wait up to `timeout` seconds for the outcome.

        Raises the handle's error if the command was not queued, OutcomeTimeout, OutcomeUnknown if the
        outcome is kept nowhere, QueueUnavailable or ConfigurationError if it cannot be asked for.
        """
        deadline = self._begin(timeout)
        while True:
            found = self._ask_redis(deadline) if self._kept else None
            if found is None and self._ledger is not None:
                found = self._ask_ledger()
            if found is not None:
                return found
            left = deadline - time.monotonic()
            if left <= 0:
                raise self._late(timeout)
            if not self._kept:
                time.sleep(min(_POLL_SECONDS, left))

    def _ask_redis(self, deadline: float) -> Outcome | None:
        try:
            streams: Any = {self._settings.keys.reply(self.command_id.bytes): self._position}
            return self._read(self._redis.xread(streams, block=self._block_ms(deadline)))
        except RedisError as error:
            if self._ledger is None:
                raise self._unavailable(error) from error
            self._kept = False  # the ledger alone, then
            return None


class AsyncHandle(_Waiting):
    """The same for asyncio: `await handle.result()`."""

    def __init__(self, redis: AsyncRedis, *args: Any) -> None:
        super().__init__(*args)
        self._redis = redis

    async def result(self, timeout: float = 5.0) -> Outcome:
        """Wait up to `timeout` seconds for the outcome; raises as Handle.result does."""
        deadline = self._begin(timeout)
        while True:
            found = await self._ask_redis(deadline) if self._kept else None
            if found is None and self._ledger is not None:
                found = await asyncio.to_thread(self._ask_ledger)
            if found is not None:
                return found
            left = deadline - time.monotonic()
            if left <= 0:
                raise self._late(timeout)
            if not self._kept:
                await asyncio.sleep(min(_POLL_SECONDS, left))

    async def _ask_redis(self, deadline: float) -> Outcome | None:
        try:
            streams: Any = {self._settings.keys.reply(self.command_id.bytes): self._position}
            return self._read(await self._redis.xread(streams, block=self._block_ms(deadline)))
        except RedisError as error:
            if self._ledger is None:
                raise self._unavailable(error) from error
            self._kept = False
            return None
