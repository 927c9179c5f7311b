"""AsyncHandle: how a task that sent a command, or that knows its id, learns the outcome."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError

from levelq_core.errors import ConfigurationError, OutcomeTimeout

from .async_lookup import explain
from .event_loops import LoopConnections
from .handle_base import LEDGER_SECONDS, HandleBase, require_timeout

if TYPE_CHECKING:
    from levelq_core.domain.outcome import Outcome


class AsyncHandle(HandleBase):
    """One sent command: `.command_id`, `.error` (None if all went well) and `.result()`, on any event loop."""

    __slots__ = ()

    def __await__(self) -> Generator[Any, None, Outcome]:
        return self.result().__await__()

    async def result(self, timeout: float | None = 5.0) -> Outcome:
        """Wait up to `timeout` seconds for the outcome, or without end. Any number of tasks may wait at once.

        Raises the handle's error if the command was not queued, OutcomeTimeout, which says where the command is and
        whether workers serve it, OutcomeUnknown if the outcome is kept nowhere, QueueUnavailable or ConfigurationError
        if it cannot be read, InvalidArgument for a timeout of 0 or below, ProducerClosed.
        """
        seconds = require_timeout(timeout)
        connections: LoopConnections = self._connections.get()
        replies, ledger = connections.replies, connections.ledger
        self._require_answerable(ledger)
        deadline = time.monotonic() + seconds
        waiter = self._waiter(asyncio.Event())
        addition = ""
        with ExitStack() as stack:
            if self._kept:
                stack.enter_context(replies.waiting(waiter))
            if ledger is not None:
                stack.enter_context(ledger.waiting())
            while True:
                outcome: Outcome | None = None
                if self._kept:
                    try:
                        until = self._redis_until(ledger, deadline)
                        outcome = await replies.wait(waiter, until, last=until >= deadline)
                    except RedisError as error:
                        self._without_redis(ledger, error)
                if outcome is None and ledger is not None:
                    try:
                        outcome = await ledger.outcome(self.command_id, self.digest or None)
                    except ConfigurationError as error:
                        addition = self._without_ledger(error)
                if outcome is not None:
                    return outcome
                seconds_left = deadline - time.monotonic()
                if seconds_left <= 0:
                    break
                if not self._kept and ledger is not None:
                    await asyncio.sleep(min(ledger.pause(LEDGER_SECONDS), seconds_left))
        raise await self._too_late(connections, seconds, addition)

    async def _too_late(self, connections: LoopConnections, seconds: float, addition: str) -> OutcomeTimeout:
        found, workers, words = await explain(connections, self.command_id, self._known_lane)
        return OutcomeTimeout(
            f"command {self.command_id} was not decided within {seconds:g} s{addition}{words}",
            command_id=self.command_id,
            timeout=seconds,
            state=found and found.state,
            workers=workers,
            user_id=self.user_id or None,
            specialization=self.specialization or (found.specialization if found else ""),
        )
