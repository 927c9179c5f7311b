"""Whether a worker is asked to stop."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue


class Stop:
    """A threading.Event that signal handlers may set.

    An Event's `set` takes a lock. A handler interrupts its thread anywhere, also inside an Event's `wait` or `set`,
    where the thread has that lock itself, and would wait for ever. A SimpleQueue's `put` is reentrant.
    """

    def __init__(self) -> None:
        self._requested = False
        self._socket: socket.socket | None = None
        self._wakeups: SimpleQueue[None] = SimpleQueue()
        # On Python 3.11 the first `get` of a queue may compute a negative rest of its timeout, and wait without end.
        with suppress(Empty):
            self._wakeups.get_nowait()

    def set(self) -> None:
        """Request the stop."""
        self._requested = True
        self._wakeups.put(None)
        if self._socket is not None:
            with suppress(OSError):  # it is closed already
                self._socket.shutdown(socket.SHUT_RD)

    def is_set(self) -> bool:
        """Whether the stop is requested."""
        return self._requested

    def wait(self, seconds: float) -> bool:
        """Wait until the stop is requested, `seconds` at most; whether it is."""
        if not self._requested:
            with suppress(Empty):
                self._wakeups.get(timeout=seconds)
                self._wakeups.put(None)  # for the next thread that waits
        return self._requested

    @contextmanager
    def ending_reads(self, connected: socket.socket) -> Iterator[None]:
        """A request shuts this socket down for reading, so that the main thread's read inside ends.

        An exception from the handler would do that, too. But it comes out wherever the thread stands, and C extensions,
        finalizers or a tracer with a lock cannot bear it.
        """
        self._socket = connected
        try:
            yield
        finally:
            self._socket = None
