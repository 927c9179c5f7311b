"""Slots limit how many connections are used at once. Callers beyond the limit wait, first come, first served."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from concurrent.futures import Future


class ThreadSlots:
    """Slots for threads. In contrast to a semaphore they are fair, and all waiting threads can be refused at once."""

    def __init__(self, most: int) -> None:
        self._lock = threading.Lock()
        self._free = most
        self._waiting: deque[Future[None]] = deque()

    def acquire(self) -> None:
        """Wait for a slot, without a limit in time. Raises what `refuse_waiting` was given."""
        with self._lock:
            if self._free:
                self._free -= 1
                return
            waiting: Future[None] = Future()
            self._waiting.append(waiting)
        try:
            waiting.result()
        except BaseException:  # refused, or the handler of a signal raised
            with self._lock:
                queued = waiting in self._waiting
                if queued:
                    self._waiting.remove(waiting)
            if not queued and waiting.exception() is None:
                self.release()  # the slot was given to this thread before that
            raise

    def release(self) -> None:
        """Free a slot, or give it to the first waiting thread."""
        with self._lock:
            if self._waiting:
                self._waiting.popleft().set_result(None)
            else:
                self._free += 1

    def refuse_waiting(self, refusal: Exception) -> None:
        """Raise this in every thread that waits now."""
        with self._lock:
            while self._waiting:
                self._waiting.popleft().set_exception(refusal)


class TaskSlots:
    """The same for the tasks of one event loop."""

    def __init__(self, most: int) -> None:
        self._free = most
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def acquire(self) -> None:
        """Wait for a slot, without a limit in time. Raises what `refuse_waiting` was given."""
        if self._free:
            self._free -= 1
            return
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiting)
        try:
            await waiting
        except BaseException:  # refused or cancelled
            if waiting in self._waiting:
                self._waiting.remove(waiting)
            elif not waiting.cancelled() and waiting.exception() is None:
                self.release()  # the slot was given to this task before that
            raise

    def release(self) -> None:
        """Free a slot, or give it to the first waiting task."""
        while self._waiting:
            waiting = self._waiting.popleft()
            if not waiting.done():  # else its task is being cancelled
                waiting.set_result(None)
                return
        self._free += 1

    def refuse_waiting(self, refusal: Exception) -> None:
        """Raise this in every task that waits now."""
        while self._waiting:
            waiting = self._waiting.popleft()
            if not waiting.done():
                waiting.set_exception(refusal)
