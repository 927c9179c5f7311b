"""Limits how many connections are used at once. Callers beyond the limit wait, first come, first served."""

from __future__ import annotations

import threading
from collections import deque
from typing import Generic, TypeVar

W = TypeVar("W")


class ConnectionSlots(Generic[W]):
    """`most` slots and a queue of waiters. It neither blocks nor locks: the caller serializes the calls."""

    def __init__(self, most: int) -> None:
        self._free = most
        self._waiting: deque[W] = deque()

    def acquire(self) -> bool:
        """Take a free slot; False if there is none."""
        if self._free <= 0:
            return False
        self._free -= 1
        return True

    def enqueue(self, waiter: W) -> None:
        """Put a waiter at the end of the queue."""
        self._waiting.append(waiter)

    def release(self) -> W | None:
        """Free a slot. The first waiter gets it, and is returned for the caller to wake; None if none waits."""
        if self._waiting:
            return self._waiting.popleft()
        self._free += 1
        return None

    def withdraw(self, waiter: W) -> bool:
        """Take a waiter out of the queue; False if it is not in it, because it was given a slot or refused."""
        try:
            self._waiting.remove(waiter)
        except ValueError:
            return False
        return True

    def refuse_waiting(self) -> list[W]:
        """Empty the queue; returns the waiters, none of which has a slot."""
        refused = list(self._waiting)
        self._waiting.clear()
        return refused


class _WaitingThread:
    """A thread in the queue."""

    __slots__ = ("called", "refusal")

    def __init__(self) -> None:
        self.called = threading.Lock()
        self.called.acquire()
        self.refusal: Exception | None = None


class ThreadSlots:
    """A semaphore for threads that is fair, and whose waiters can all be refused at once."""

    def __init__(self, most: int) -> None:
        self._lock = threading.Lock()
        self._slots: ConnectionSlots[_WaitingThread] = ConnectionSlots(most)

    def acquire(self) -> None:
        """Wait for a slot, without a limit in time. Raises what `refuse_waiting` was given."""
        with self._lock:
            if self._slots.acquire():
                return
            mine = _WaitingThread()
            self._slots.enqueue(mine)
        try:
            mine.called.acquire()
        except BaseException:  # a signal's handler raised
            with self._lock:
                passed_on = not self._slots.withdraw(mine) and mine.refusal is None
            if passed_on:
                self.release()
            raise
        if mine.refusal is not None:
            raise mine.refusal

    def release(self) -> None:
        """Free a slot."""
        with self._lock:
            following = self._slots.release()
        if following is not None:
            following.called.release()

    def refuse_waiting(self, refusal: Exception) -> None:
        """Raise this in every thread that waits now."""
        with self._lock:
            refused = self._slots.refuse_waiting()
            for waiting in refused:
                waiting.refusal = refusal
        for waiting in refused:
            waiting.called.release()
