"""The one module that makes levelq's cursors: on psycopg's connections of either kind, levelq's or an application's.

What a cursor needs is registered on the cursor. SQLAlchemy copies psycopg's global adapters when an engine is made, so
an engine older than this import would not know what is registered globally. What an application registers
globally, or sets as its cursor factory, does not change how levelq reads its own rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self, TypeVar

import psycopg
from psycopg import AsyncCursor
from psycopg import Cursor as SyncCursor
from psycopg.pq import Format
from psycopg.rows import tuple_row
from psycopg.types.numeric import Int8BinaryLoader
from psycopg.types.string import TextBinaryLoader
from psycopg.types.uuid import UUIDBinaryLoader
from sqlalchemy.util import await_only

from .pgbinary import DUMPERS

_LOADERS: dict[str, type[Any]] = {"int8": Int8BinaryLoader, "text": TextBinaryLoader, "uuid": UUIDBinaryLoader}
_Row = TypeVar("_Row")
_C = TypeVar("_C", AsyncCursor[Any], SyncCursor[Any])


@contextmanager
def cursor_on(connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> Iterator[Cursor[Any]]:
    """A binary cursor that knows levelq's arrays. On an AsyncConnection: only inside SQLAlchemy's run_sync."""
    if isinstance(connection, psycopg.AsyncConnection):
        awaited = _prepared(AsyncCursor(connection, row_factory=tuple_row))
        try:
            yield _AwaitingCursor(awaited)
        finally:
            await_only(awaited.close())
    else:
        with _prepared(SyncCursor(connection, row_factory=tuple_row)) as cursor:
            yield cursor


def _prepared(cursor: _C) -> _C:
    cursor.format = Format.BINARY
    for kind, dumper in DUMPERS.items():
        cursor.adapters.register_dumper(kind, dumper)
    for name, loader in _LOADERS.items():
        cursor.adapters.register_loader(name, loader)
    return cursor


class _AwaitingCursor:
    """An AsyncCursor with a sync cursor's methods: each waits for the answer in the greenlet that run_sync made."""

    def __init__(self, cursor: AsyncCursor[Any]) -> None:
        self._cursor = cursor

    @property
    def connection(self) -> psycopg.AsyncConnection[Any]:
        return self._cursor.connection

    @property
    def rowcount(self) -> int:
        return self._cursor.rowcount

    def execute(self, query: str, params: Sequence[Any] | None = None) -> Self:
        await_only(self._cursor.execute(query, params))
        return self

    def fetchone(self) -> Any:
        return await_only(self._cursor.fetchone())

    def fetchall(self) -> list[Any]:
        return await_only(self._cursor.fetchall())

    def __iter__(self) -> Iterator[Any]:
        return iter(self.fetchall())

    @contextmanager
    def copy(self, statement: str, /) -> Iterator[_AwaitingCopy]:
        block = self._cursor.copy(statement)
        copy = await_only(block.__aenter__())
        try:
            yield _AwaitingCopy(copy)
        except BaseException as error:
            if not await_only(block.__aexit__(type(error), error, error.__traceback__)):
                raise
        else:
            await_only(block.__aexit__(None, None, None))


class _AwaitingCopy:
    def __init__(self, copy: psycopg.AsyncCopy) -> None:
        self._copy = copy

    def write(self, buffer: bytes, /) -> None:
        await_only(self._copy.write(buffer))


Cursor = SyncCursor[_Row] | _AwaitingCursor  # what the coupler writes and reads through
