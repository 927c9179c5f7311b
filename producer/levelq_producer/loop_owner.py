"""What an asyncio producer has for one event loop: its connections, and turns at the loop."""

from __future__ import annotations

import asyncio
import time

from levelq_core.async_lanes import AsyncLanes
from levelq_core.connections import connect_async
from levelq_core.per_loop import abandon
from levelq_core.settings import Settings

from .async_reply_reader import AsyncReplyReader
from .ledger_reader import LedgerReader, LoopLedger

_SLICE_SECONDS = 0.002


class LoopOwner:
    """The one owner of connections to Redis on its loop: `lanes` for sends, `replies` and `ledger` for outcomes."""

    def __init__(self, settings: Settings, ledger: LedgerReader | None) -> None:
        self._redis = connect_async(settings.redis_url, settings.redis_seconds)
        self.lanes = AsyncLanes(self._redis, settings)
        self.replies = AsyncReplyReader(self._redis, settings.redis_seconds / 2)
        self.ledger = None if ledger is None else LoopLedger(ledger)
        self.checking = asyncio.Lock()

    async def close(self) -> None:
        """Close them, on their loop."""
        await self._redis.aclose()

    def abandon(self) -> None:
        """Close them without their loop, which will not run again."""
        abandon(self._redis)


class Slice:
    """The time for which a long call may hold the event loop before others have a turn."""

    def __init__(self) -> None:
        self._since = time.perf_counter()

    def over(self) -> bool:
        """Whether it is others' turn."""
        return time.perf_counter() - self._since > _SLICE_SECONDS

    async def rest(self) -> None:
        """Let others run."""
        await asyncio.sleep(0)
        self._since = time.perf_counter()
