"""Outcomes from the ledger, for the tasks of an event loop; see ledger_reader.py."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any
from uuid import UUID

from levelq_core.domain.outcome import Outcome
from levelq_core.errors import ConfigurationError

from .ledger_reader import Key, LedgerReader


class LoopLedger:
    """What LedgerReader is for threads, for the tasks of one loop: one thread at a time queries for all of them."""

    def __init__(self, reader: LedgerReader) -> None:
        self.pause, self.waiting = reader.pause, reader.waiting
        self._reader = reader
        self._pending: list[tuple[Key, asyncio.Future[Outcome | None]]] = []
        self._busy = False

    async def outcome(self, command_id: UUID, digest: bytes | None = None) -> Outcome | None:
        """The outcome of one command, if it is decided. Raises as LedgerReader.query."""
        future: asyncio.Future[Outcome | None] = asyncio.get_running_loop().create_future()
        self._pending.append(((command_id, digest), future))
        if not self._busy:
            self._begin()
        return await future

    async def last_in_outbox(self, user_id: int, specialization: str, *ids: int) -> int | None:
        """The same as LedgerReader's, from a thread."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(None, self._reader.last_in_outbox, user_id, specialization, *ids)

    async def in_outbox(self, command_id: UUID) -> str | None:
        """What LedgerReader.in_outbox returns."""
        return await asyncio.get_running_loop().run_in_executor(None, self._reader.in_outbox, command_id)

    def _begin(self) -> None:
        batch, self._pending = self._pending, []
        futures = [future for _, future in batch]
        try:
            loop = asyncio.get_running_loop()
            query = loop.run_in_executor(None, self._reader.outcomes, [key for key, _ in batch])
        except RuntimeError as error:  # the loop is about to end, and its threads have ended
            message = f"the ledger cannot be asked: {error}"
            _fail(futures, ConfigurationError(message, setting="LEVELQ_DATABASE_URL"))
            return
        self._busy = True
        query.add_done_callback(partial(self._done, futures))

    def _done(self, futures: Sequence[asyncio.Future[Outcome | None]], query: asyncio.Future[Any]) -> None:
        self._busy = False
        if query.cancelled():
            for future in futures:
                future.cancel()
            return
        error = query.exception()
        if error is not None:
            _fail(futures, error)
        else:
            for future, outcome in zip(futures, query.result(), strict=True):
                if not future.done():  # else its waiter was cancelled
                    future.set_result(outcome)
        if self._pending:
            self._begin()


def _fail(futures: Sequence[asyncio.Future[Outcome | None]], error: BaseException) -> None:
    for future in futures:
        if not future.done():
            future.set_exception(error)
