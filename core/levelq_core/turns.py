"""A bounded number of connections, and who waits for one: first come, first served."""

from __future__ import annotations

import threading
from collections import deque
from typing import Generic, TypeVar

W = TypeVar("W")


class Turns(Generic[W]):
    """At most `most` at once; the others wait in order. No input or output and no locks: callers serialize."""

    def __init__(self, most: int) -> None:
        self._free = most
        self._waiting: deque[W] = deque()

    def enter(self) -> bool:
        """Take a free turn, if there is one."""
        if self._free <= 0:
            return False
        self._free -= 1
        return True

    def wait(self, waiter: W) -> None:
        """Stand in line behind the others."""
        self._waiting.append(waiter)

    def leave(self) -> W | None:
        """Give a turn back: to the first who waits, who is returned and has it now, if anyone does."""
        if self._waiting:
            return self._waiting.popleft()
        self._free += 1
        return None

    def withdraw(self, waiter: W) -> bool:
        """Wait no longer; False if the waiter is no longer in line."""
        try:
            self._waiting.remove(waiter)
        except ValueError:
            return False
        return True

    def dismiss(self) -> list[W]:
        """Send all away who wait; none of them has a turn."""
        dismissed = list(self._waiting)
        self._waiting.clear()
        return dismissed


class _ThreadTurn:
    """One thread in line."""

    __slots__ = ("called", "refusal")

    def __init__(self) -> None:
        self.called = threading.Lock()
        self.called.acquire()
        self.refusal: Exception | None = None


class ThreadTurns:
    """Turns for threads."""

    def __init__(self, most: int) -> None:
        self._lock = threading.Lock()
        self._turns: Turns[_ThreadTurn] = Turns(most)

    def enter(self) -> None:
        """Wait for a turn, without a limit in time. Raises what `dismiss` was given."""
        with self._lock:
            if self._turns.enter():
                return
            mine = _ThreadTurn()
            self._turns.wait(mine)
        try:
            mine.called.acquire()
        except BaseException:  # a signal's handler raised
            with self._lock:
                passed_on = not self._turns.withdraw(mine) and mine.refusal is None
            if passed_on:
                self.leave()
            raise
        if mine.refusal is not None:
            raise mine.refusal

    def leave(self) -> None:
        """Give a turn back."""
        with self._lock:
            following = self._turns.leave()
        if following is not None:
            following.called.release()

    def dismiss(self, refusal: Exception) -> None:
        """Have all who wait raise this."""
        with self._lock:
            dismissed = self._turns.dismiss()
            for turn in dismissed:
                turn.refusal = refusal
        for turn in dismissed:
            turn.called.release()
