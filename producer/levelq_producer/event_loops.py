"""What a producer has for each event loop, and how it shares the loop; threads.py has the same for threads."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Self, TypeVar

from levelq_core.domain.commands import Command
from levelq_core.errors import ProducerClosed
from levelq_core.keys import Partition
from levelq_core.lanes.async_producer_lanes import AsyncProducerLanes
from levelq_core.lanes.wakeups import Waker
from levelq_core.redis_client.per_loop import PerLoop, abandon
from levelq_core.redis_client.pool import BOUND, connect, connect_async

from .async_reply_reader import AsyncReplyReader
from .durability import DurabilityWait
from .ledger_reader import LedgerReader
from .loop_ledger import LoopLedger
from .loop_trips import LoopTrips
from .sending import LOOP_WINDOW

if TYPE_CHECKING:
    from levelq_core.settings import Durability, Settings

_TURN = 100  # commands that are validated before other tasks run
_MANY = 2_000  # commands of a call that make a full collection long
_NEVER = 1_000_000_000
T = TypeVar("T")


class LoopConnections:
    """The connections of one loop: `lanes` for sends, `replies` and `ledger` for outcomes."""

    def __init__(self, settings: Settings, ledger: LedgerReader | None, waker: LoopWaker) -> None:
        self.settings = settings
        self.redis = connect_async(settings.redis_url, settings.redis_seconds)
        self.lanes = AsyncProducerLanes(self.redis, settings, connections=BOUND)
        self.replies = AsyncReplyReader(self.redis, settings.redis_seconds / 2)
        self.ledger = None if ledger is None else LoopLedger(ledger)
        self.waker = waker
        self._trips: dict[tuple[Durability, Partition | None], LoopTrips] = {}

    def trips(self, wait: DurabilityWait, partition: Partition | None) -> LoopTrips:
        """The trips that calls with this durability share; `partition`: the only one to which they go."""
        key = wait.level, partition
        found = self._trips.get(key)
        return self._trips.setdefault(key, LoopTrips(self.settings, wait)) if found is None else found

    async def close(self) -> None:
        """Close them, on their loop. Tasks that wait get ProducerClosed when the read that is under way has ended."""
        self.replies.end()
        self.lanes.close()
        await self.redis.aclose()

    def abandon(self) -> None:
        """Close them without their loop, which will not run again."""
        abandon(self.redis)


class AsyncConnections(PerLoop[LoopConnections]):
    """A producer's connections: each event loop has its own, closed when the loop ends."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._reader = LedgerReader.of(settings)
        self._waker = LoopWaker(settings)
        self._closed = False
        super().__init__(lambda: LoopConnections(settings, self._reader, self._waker))

    def get(self) -> LoopConnections:
        """The connections of the running loop. Raises ProducerClosed."""
        self.require_open()
        return super().get()

    def require_open(self) -> None:
        """Raise ProducerClosed if the producer was closed."""
        if self._closed:
            raise ProducerClosed

    async def close(self) -> None:
        """Close the connections of the running loop, and have other loops close theirs."""
        self._closed = True
        await super().close()
        self._waker.close()
        if self._reader is not None:
            self._reader.close()


class LoopWaker:
    """Wakes drains through RQ, which knows no asyncio: the rare wake-up goes out from a thread."""

    def __init__(self, settings: Settings) -> None:
        redis = connect(settings.redis_url, settings.redis_seconds)
        self._waker = Waker(redis, connect(settings.queue_url, settings.redis_seconds), settings.keys)
        self.close = self._waker.close

    async def wake(self, partition: Partition) -> None:
        """Wake a drain. A task that is cancelled now does not cancel the wake-up: other senders rely on it."""
        try:
            waking = asyncio.get_running_loop().run_in_executor(None, self._waker.wake, partition)
        except RuntimeError:  # the loop is about to end, and its threads have ended
            self._waker.wake(partition)
        else:
            await asyncio.shield(waking)

    async def workers(self, specialization: str) -> int:
        """How many workers serve a specialization. Raises RedisError."""
        return await asyncio.get_running_loop().run_in_executor(None, self._waker.workers, specialization)


class LoopTurns:
    """Cuts a long call into turns of some milliseconds, so that the loop's other tasks run in between.

    While a call has many commands, the garbage collector makes no full collections: one over a hundred thousand
    commands and handles would hold the loop for a tenth of a second. Younger objects are collected.
    """

    def __init__(self) -> None:
        self._commands = 0
        self._paused = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._paused:
            _resume_full_collections()

    def chunks(self, commands: Iterable[Command]) -> Iterator[list[Command]]:
        """The commands in chunks, each for one turn. A list that its owner changes meanwhile is sent as it was."""
        if isinstance(commands, list | tuple) and len(commands) >= _MANY:  # of others it is not known yet
            self._pause()
        left = iter(list(commands) if isinstance(commands, list) else commands)
        while chunk := list(islice(left, _TURN)):
            self._commands += len(chunk)
            if self._commands >= _MANY:
                self._pause()
            yield chunk

    def _pause(self) -> None:
        if not self._paused:
            self._paused = True
            _pause_full_collections()

    @staticmethod
    def windows(commands: Sequence[T]) -> Iterator[Sequence[T]]:
        """The commands in windows, each for one push."""
        for start in range(0, len(commands), LOOP_WINDOW):
            yield commands[start : start + LOOP_WINDOW]

    async def rest(self) -> None:
        """Let other tasks run, unless the call is a short one."""
        if self._commands >= _TURN:
            await asyncio.sleep(0)


_collector_lock = threading.Lock()
_thresholds: list[tuple[int, int, int]] = []  # before the pause, once for each call under way


def _pause_full_collections() -> None:
    with _collector_lock:
        _thresholds.append(_thresholds[0] if _thresholds else gc.get_threshold())
        gc.set_threshold(*gc.get_threshold()[:2], _NEVER)


def _resume_full_collections() -> None:
    with _collector_lock:
        before = _thresholds.pop()
        if not _thresholds and gc.get_threshold()[2] == _NEVER:
            gc.set_threshold(*before)
