"""Questions to the ledger from the tasks of an event loop; see ledger_reader.py."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any
from uuid import UUID

from levelq_core.domain.outcome import Outcome
from levelq_core.errors import ConfigurationError

from .ledger_reader import Asked, LedgerReader


class LoopLedger:
    """What LedgerReader.ask is for threads, for the tasks of one loop: one thread at a time asks for all of them."""

    def __init__(self, reader: LedgerReader) -> None:
        self.pause, self.waiting = reader.pause, reader.waiting
        self._reader = reader
        self._pending: list[tuple[Asked, asyncio.Future[Outcome | None]]] = []
        self._busy = False

    async def ask(self, command_id: UUID, digest: bytes | None = None) -> Outcome | None:
        """The decision on a command, if there is one. Raises as LedgerReader.look_up."""
        future: asyncio.Future[Outcome | None] = asyncio.get_running_loop().create_future()
        self._pending.append(((command_id, digest), future))
        if not self._busy:
            self._begin()
        return await future

    def _begin(self) -> None:
        batch, self._pending = self._pending, []
        futures = [future for _, future in batch]
        try:
            loop = asyncio.get_running_loop()
            asking = loop.run_in_executor(None, self._reader.ask_many, [asked for asked, _ in batch])
        except RuntimeError as error:  # the loop is about to end, and its threads have
            for future in futures:
                if not future.done():
                    future.set_exception(ConfigurationError(f"the ledger cannot be asked: {error}"))
            return
        self._busy = True
        asking.add_done_callback(partial(self._done, futures))

    def _done(self, futures: Sequence[asyncio.Future[Outcome | None]], asking: asyncio.Future[Any]) -> None:
        self._busy = False
        error = asyncio.CancelledError() if asking.cancelled() else asking.exception()
        for number, future in enumerate(futures):
            if future.done():  # its waiter was cancelled
                continue
            if isinstance(error, asyncio.CancelledError):
                future.cancel()
            elif error is not None:
                future.set_exception(error)
            else:
                future.set_result(asking.result()[number])
        if self._pending and not asking.cancelled():
            self._begin()
