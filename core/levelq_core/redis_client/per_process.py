"""Objects of one process, such as connections and locks, which must not cross a fork."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class PerProcess(Generic[T]):
    """One object for each process: a forked child makes its own, and does not touch its parent's.

    The child keeps a reference to the parent's object, so no finalizer closes a connection that the parent uses. It
    never waits for a lock that another thread held at the fork. `make` must have no side effect.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._made: dict[int, T] = {}

    def get(self) -> T:
        """This process's object."""
        process = os.getpid()
        made = self._made.get(process)
        # setdefault: two threads that call this at the same time get the same object.
        return self._made.setdefault(process, self._make()) if made is None else made
