"""A reading that all viewers share, so that many open pages cost no more than one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Cached(Generic[T]):
    """Reads when it is asked and the last reading is older than `seconds`; one thread reads, others wait for it."""

    def __init__(self, read: Callable[[], T], seconds: float) -> None:
        self._read = read
        self._seconds = seconds
        self._lock = threading.Lock()
        self._latest: tuple[float, T] | None = None

    def get(self) -> T:
        """The reading. Raises what reading raises."""
        with self._lock:
            if self._latest is None or time.monotonic() - self._latest[0] > self._seconds:
                found = self._read()
                self._latest = time.monotonic(), found
            return self._latest[1]

    def forget(self) -> None:
        """Have the next one read again: something was changed."""
        with self._lock:
            self._latest = None
