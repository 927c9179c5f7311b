"""A reading that all viewers share, so that many open pages cost no more than one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

FAILED_SECONDS = 1.5  # for so long all are told of a failure
T = TypeVar("T")


class Cached(Generic[T]):
    """Reads when it is asked and the last reading is older than `seconds`; one thread reads, others wait for it.

    They share a failure as well: if a server does not answer, each would else wait for it in turn, after all others.
    """

    def __init__(self, read: Callable[[], T], seconds: float) -> None:
        self._read = read
        self._seconds = seconds
        self._lock = threading.Lock()
        self._changes = 0
        self._read_after = 0  # how many of the changes
        self._latest: tuple[float, T] | None = None
        self._failed: tuple[float, Exception] | None = None

    def get(self) -> T:
        """The reading. Raises what reading raises."""
        with self._lock:
            changes = self._changes
            if self._read_after < changes:
                self._latest = self._failed = None
            if self._failed is not None and time.monotonic() - self._failed[0] <= FAILED_SECONDS:
                raise self._failed[1]
            if self._latest is None or time.monotonic() - self._latest[0] > self._seconds:
                self._failed, self._read_after = None, changes
                try:
                    found = self._read()
                except Exception as error:
                    self._failed = time.monotonic(), error
                    raise
                self._latest = time.monotonic(), found
            return self._latest[1]

    def forget(self) -> None:
        """Have the next one read again: something was changed. Does not wait for a reading that is under way."""
        self._changes += 1
