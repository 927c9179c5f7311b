"""Whether a worker is asked to end."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue


class Stop:
    """What threading.Event is, for signal handlers.

    An Event's `set` takes a lock. A handler runs in the middle of whatever its thread does: in an Event's `wait`, or in
    `set` itself at a second signal, that lock may be the thread's own, and it would wait for itself for ever. The
    queue's `put` may interrupt anything of the queue's (docs.python.org, "queue": reentrant).
    """

    def __init__(self) -> None:
        self._asked = False
        self._listening: socket.socket | None = None
        self._bell: SimpleQueue[None] = SimpleQueue()
        # A queue's first `get` goes round its loop twice. Where that took longer than the limit, what is left of it is
        # less than nothing, and for Python 3.11 that is a wait without end.
        with suppress(Empty):
            self._bell.get_nowait()

    def set(self) -> None:
        """Ask for the end."""
        self._asked = True
        self._bell.put(None)
        if self._listening is not None:
            with suppress(OSError):  # it is closed already
                self._listening.shutdown(socket.SHUT_RD)

    def is_set(self) -> bool:
        """Whether somebody has."""
        return self._asked

    def wait(self, seconds: float) -> bool:
        """Wait so long, or until somebody asks for the end; whether somebody has."""
        if not self._asked:
            with suppress(Empty):
                self._bell.get(timeout=seconds)
                self._bell.put(None)  # for the next who waits
        return self._asked

    @contextmanager
    def shutting(self, listening: socket.socket) -> Iterator[None]:
        """For the main thread to listen on this socket inside. Once somebody asks, the socket is at its end.

        A handler might raise instead. But that comes out wherever the thread stands, and not all code that may stand
        there can bear it: C extensions, finalizers, a tracer that has a lock in its hands.
        """
        self._listening = listening
        try:
            yield
        finally:
            self._listening = None
