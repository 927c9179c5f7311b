"""What belongs to one process: connections, locks, and whatever must not cross a fork."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class PerProcess(Generic[T]):
    """One object of a kind for each process: a forked child makes its own and leaves its parent's alone.

    In the child the parent's object stays referenced, so no finalizer ends a connection that the parent uses, and a
    lock that another thread held at the fork is never waited for. `make` must have no effect but to make the object.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._made: dict[int, T] = {}

    def get(self) -> T:
        """This process's object."""
        process = os.getpid()
        made = self._made.get(process)
        # setdefault: of two threads that come first at once, both get the same object.
        return self._made.setdefault(process, self._make()) if made is None else made
