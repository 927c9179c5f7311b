"""Handles: how a sender, or anybody who knows the command's id, learns its outcome."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from uuid import UUID

from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from redis.exceptions import RedisError

from levelq_core import replies
from levelq_core.errors import LevelqError, OutcomeTimeout, OutcomeUnknown, QueueUnavailable
from levelq_core.outcome import Outcome
from levelq_core.partitions import reply_key
from levelq_core.settings import Settings

from .sending import address

if TYPE_CHECKING:
    from sqlalchemy import Engine

_POLL_SECONDS = 0.05  # between two looks into the ledger

LookUp = Callable[[UUID], Outcome | None]


def ledger_reader(settings: Settings) -> LookUp | None:
    """A function that asks the ledger, if a database URL is set. Connects at its first call."""
    if settings.database_url is None:
        return None
    engine: Engine | None = None

    def look_up(command_id: UUID) -> Outcome | None:
        nonlocal engine
        from sqlalchemy.exc import DBAPIError  # noqa: PLC0415

        from levelq_core.engine import engine_for, unreachable  # noqa: PLC0415 - needs levelq[worker]
        from levelq_core.history import outcome_of  # noqa: PLC0415

        engine = engine or engine_for(settings, name="levelq producer", connections=4)
        try:
            with engine.connect() as connection:
                return outcome_of(connection, command_id)
        except DBAPIError as error:
            raise unreachable(settings, error) from error

    return look_up


class _Waiting:
    """What both handles share: when to look where, and what to say at the end."""

    def __init__(
        self, settings: Settings, look_up: LookUp | None, command_id: UUID, error: LevelqError | None, kept: bool
    ) -> None:
        self.command_id = command_id
        self.error = error
        self._settings = settings
        self._look_up = look_up
        self._kept = kept

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.command_id}{f' {self.error!r}' if self.error else ''}>"

    def _begin(self, timeout: float) -> float:
        """The deadline; raises what is known to be hopeless."""
        if self.error is not None:
            raise self.error
        if not self._kept and self._look_up is None:
            raise OutcomeUnknown(
                f"nobody keeps the outcome of {self.command_id}: send with reply=True, or set LEVELQ_DATABASE_URL"
            )
        return time.monotonic() + timeout

    def _block_ms(self, deadline: float) -> int:
        """How long to block in one XREAD: within the socket's timeout and, with a ledger, a poll's time."""
        most = _POLL_SECONDS * 10 if self._look_up else self._settings.redis_seconds / 2
        return max(1, int(1000 * min(most, deadline - time.monotonic())))

    def _late(self, timeout: float) -> OutcomeTimeout:
        kept = f"; outcomes are kept for {self._settings.reply_seconds} s" if self._look_up is None else ""
        return OutcomeTimeout(f"command {self.command_id} was not decided within {timeout:g} s{kept}")

    def _unavailable(self, error: RedisError) -> QueueUnavailable:
        return QueueUnavailable(f"{address(self._settings)}: {error}")


class Handle(_Waiting):
    """One sent command: `.command_id`, `.error` (None if it was queued) and `.result()`."""

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
            if found is None and self._look_up is not None:
                found = self._look_up(self.command_id)
            if found is not None:
                return found
            left = deadline - time.monotonic()
            if left <= 0:
                raise self._late(timeout)
            if not self._kept:
                time.sleep(min(_POLL_SECONDS, left))

    def _ask_redis(self, deadline: float) -> Outcome | None:
        try:
            key = reply_key(self.command_id.bytes)
            return replies.read(self._redis.xread({key: "0"}, count=1, block=self._block_ms(deadline)))
        except RedisError as error:
            if self._look_up is None:
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
            if found is None and self._look_up is not None:
                found = await asyncio.to_thread(self._look_up, self.command_id)
            if found is not None:
                return found
            left = deadline - time.monotonic()
            if left <= 0:
                raise self._late(timeout)
            if not self._kept:
                await asyncio.sleep(min(_POLL_SECONDS, left))

    async def _ask_redis(self, deadline: float) -> Outcome | None:
        try:
            key = reply_key(self.command_id.bytes)
            return replies.read(await self._redis.xread({key: "0"}, count=1, block=self._block_ms(deadline)))
        except RedisError as error:
            if self._look_up is None:
                raise self._unavailable(error) from error
            self._kept = False
            return None
