"""Reads the outcome of one command with a client as it is given: for handles made by hand. Producers share reads."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from levelq_core import replies
from levelq_core.outcome import Outcome

from .ledger_reader import LedgerReader, LoopLedger
from .waiting import Waiter


class ClientReader:
    """What ReplyReader is, on one connection for each thread that waits. Nothing is shared."""

    def __init__(self, redis: Any, most_seconds: float) -> None:
        self._redis = redis
        self._most = most_seconds

    @contextmanager
    def waiting(self, _: Waiter) -> Iterator[None]:
        """Nothing is read but by `wait`."""
        yield

    def wait(self, waiter: Waiter, until: float, *, last: bool = True) -> Outcome | None:
        """The outcome; None if it has not come by `until`. Raises RedisError."""
        while True:
            _note(waiter, self._redis.xread({waiter.key: waiter.position}, block=self._block_ms(until)))
            if waiter.answered or time.monotonic() >= until:
                return waiter.take()

    def _block_ms(self, until: float) -> int:
        return max(1, int(1000 * min(self._most, until - time.monotonic())))


class AsyncClientReader(ClientReader):
    """The same for asyncio."""

    async def wait(  # type: ignore[override]
        self, waiter: Waiter, until: float, *, last: bool = True
    ) -> Outcome | None:
        """The outcome; None if it has not come by `until`. Raises RedisError."""
        while True:
            _note(waiter, await self._redis.xread({waiter.key: waiter.position}, block=self._block_ms(until)))
            if waiter.answered or time.monotonic() >= until:
                return waiter.take()


class ClientReaders:
    """What a handle made by hand reads with, on whatever loop."""

    def __init__(self, redis: Any, ledger: LedgerReader | None, most_seconds: float) -> None:
        self.replies = AsyncClientReader(redis, most_seconds)
        self.ledger = None if ledger is None else LoopLedger(ledger)

    def get(self) -> ClientReaders:
        """Itself."""
        return self


def _note(waiter: Waiter, reply: Any) -> None:
    for _, entries in replies.streams(reply):
        waiter.read(entries)
