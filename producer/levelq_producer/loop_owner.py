"""What an asyncio producer has for one event loop: its connections, and short turns at the loop."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from typing import Self

from levelq_core.lanes.async_client import AsyncLanes
from levelq_core.redis_client.per_loop import abandon
from levelq_core.redis_client.pool import connect_async
from levelq_core.settings import Settings

from .async_reply_reader import AsyncReplyReader
from .ledger_reader import LedgerReader
from .loop_ledger import LoopLedger

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
        """Close them, on their loop. Tasks that still wait read on, on connections that end with the read."""
        self.lanes.close()
        self.replies.close()
        await self._redis.aclose()

    def abandon(self) -> None:
        """Close them without their loop, which will not run again."""
        abandon(self._redis)


_MANY = 2_000  # commands of a call that make a full collection long
_NEVER = 1_000_000_000
_collector_lock = threading.Lock()
_collector: list[tuple[int, int, int]] = []  # the thresholds before, once for each call under way


class Slice:
    """The time for which a long call may hold the event loop before others have a turn.

    While a call of many commands runs, the garbage collector makes no full passes: one over a hundred thousand
    commands and handles takes a tenth of a second, in which the loop stands still. Younger objects are collected.
    """

    def __init__(self) -> None:
        self._since = time.perf_counter()
        self._many = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._many:
            with _collector_lock:
                before = _collector.pop()
                if not _collector and gc.get_threshold()[2] == _NEVER:
                    gc.set_threshold(*before)

    def count(self, commands: int) -> None:
        """Note how many commands there are so far."""
        if commands == _MANY:
            self._many = True
            with _collector_lock:
                _collector.append(_collector[0] if _collector else gc.get_threshold())
                gc.set_threshold(*gc.get_threshold()[:2], _NEVER)

    def over(self) -> bool:
        """Whether it is others' turn."""
        return time.perf_counter() - self._since > _SLICE_SECONDS

    async def rest(self) -> None:
        """Let others run."""
        await asyncio.sleep(0)
        self._since = time.perf_counter()
