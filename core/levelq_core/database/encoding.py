"""Texts travel as UTF-8, whatever encoding the application's connection uses.

Binary arrays and COPY hold texts as UTF-8 bytes, which the server reads in the connection's client_encoding. And what
it sends back, an earlier decision's message for one, may hold characters that a narrower encoding does not have.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from psycopg.pq import TransactionStatus

from .cursors import cursor_on
from .transactions import AnyConnection

_SET = "SELECT set_config('client_encoding', %s, true)"


@contextmanager
def utf8_texts(connection: AnyConnection) -> Iterator[None]:
    """Use UTF-8 on this connection within the block, for its transaction only. Make cursors within the block.

    One round trip before and one after if the connection uses another encoding, none if it uses UTF-8. Raises
    psycopg.Error if the database's encoding cannot be converted to UTF-8.
    """
    before = connection.info.parameter_status("client_encoding")
    if before == "UTF8":
        yield
        return
    _set(connection, "UTF8")
    try:
        yield
    finally:
        # In a transaction that failed, nothing can be set; its rollback restores the encoding.
        if connection.info.transaction_status is TransactionStatus.INTRANS:
            _set(connection, before)


def _set(connection: AnyConnection, encoding: str | None) -> None:
    with cursor_on(connection) as cursor:
        cursor.execute(_SET, (encoding,))
