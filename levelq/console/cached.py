"""A reading that all viewers share, so that many open pages cost no more than one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Generic, TypeVar

T = TypeVar("T")


class Cached(Generic[T]):
    """Reads when it is asked and the last reading is older than `seconds`; never twice at the same time.

    The last reading serves until the new one is there, so that an open page does not wait; one that is older than
    `most_seconds` does not. `executor` reads.
    """

    def __init__(self, read: Callable[[], T], executor: Executor, *, seconds: float, most_seconds: float) -> None:
        self._read = read
        self._executor = executor
        self._seconds = seconds
        self._most_seconds = most_seconds
        self._lock = threading.Lock()
        self._latest: tuple[float, T] | None = None
        self._reading: Future[T] | None = None
        self._changes = 0

    def get(self) -> T:
        """The reading. Raises what reading raises."""
        with self._lock:
            age = None if self._latest is None else time.monotonic() - self._latest[0]
            if self._latest is not None and age is not None and age <= self._most_seconds:
                if age > self._seconds:
                    self._begin()
                return self._latest[1]
            reading = self._begin()
        return reading.result()

    def forget(self) -> None:
        """Have the next one read again, also if a reading is under way: something was changed."""
        with self._lock:
            self._latest = self._reading = None
            self._changes += 1

    def _begin(self) -> Future[T]:
        """The reading under way, or a new one. The caller has the lock."""
        if self._reading is None or self._reading.done():
            self._reading = self._executor.submit(self._read_and_keep, self._changes)
        return self._reading

    def _read_and_keep(self, changes: int) -> T:
        found = self._read()
        with self._lock:
            if changes == self._changes:
                self._latest = time.monotonic(), found
        return found
