"""Connections that end when a client keeps them open and asks for nothing.

uvicorn waits without end for the head of a request, for the rest of a body that nobody reads, and for a client to read
its answer. Some hundred such connections, which need no login, would take all that the console has.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

SILENT_SECONDS = 15.0


class Connection(H11Protocol):
    """A connection that ends after `silent_seconds` without a request under way, or with an answer that is not read."""

    silent_seconds = SILENT_SECONDS
    _no_request: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Wait for the first request."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Go on waiting unless these bytes begin a request."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        self._watch()

    def pause_writing(self) -> None:
        """The client does not read as fast as we write: wait for it."""
        super().pause_writing()
        self._unread = self.loop.call_later(self.silent_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """It reads."""
        super().resume_writing()
        _cancel(self._unread)

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        _cancel(self._no_request)
        _cancel(self._unread)
        super().connection_lost(exc)

    def _watch(self) -> None:
        """Each byte that comes would have uvicorn wait anew; this waits from the end of the last request."""
        if self.cycle is not None and not self.cycle.response_complete:
            _cancel(self._no_request)
            self._no_request = None
        elif self._no_request is None:
            self._no_request = self.loop.call_later(self.silent_seconds, self.transport.abort)


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
