"""What levelq demands of a connection that is the application's own, checked before anything is done on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus
from sqlalchemy import Connection, Dialect

from levelq_core.errors import TransactionMisuse

AnyConnection = psycopg.Connection[Any] | psycopg.AsyncConnection[Any]


def check_driver(dialect: Dialect) -> None:
    """Raise TransactionMisuse, with what to do, unless the driver is psycopg 3."""
    if dialect.name == "postgresql" and dialect.driver == "psycopg":
        return
    driver = f"{dialect.name}+{dialect.driver}"
    found = f"driver: expected postgresql+psycopg, got {driver}"
    if dialect.name != "postgresql":
        raise TransactionMisuse(f"{found}: levelq's tables are in PostgreSQL", field="driver", value=driver)
    make = "create_async_engine" if dialect.is_async else "create_engine"
    raise TransactionMisuse(
        f"{found}: make an engine for levelq beside yours, on the same URL: "
        f'{make}(engine.url.set(drivername="postgresql+psycopg")), and use a session on that engine',
        field="driver",
        value=driver,
    )


def check_schema(connection: Connection) -> None:
    """Raise TransactionMisuse if table names without a schema are translated: levelq's statements are plain text."""
    translated = connection.get_execution_options().get("schema_translate_map") or {}
    if translated.get(None) is not None:
        raise TransactionMisuse(
            f"schema_translate_map: expected none for tables without a schema, got {translated!r}: levelq's statements "
            "cannot follow it. Use a session or engine without it, and set search_path on its connections",
            field="schema_translate_map",
            value=dict(translated),
        )


def driver_connection(connection: Connection) -> AnyConnection:
    """The psycopg connection beneath. Raises TransactionMisuse if levelq cannot work on it as it stands."""
    check_driver(connection.dialect)
    check_schema(connection)
    raw = connection.connection.driver_connection
    if not isinstance(raw, psycopg.Connection | psycopg.AsyncConnection):
        found = type(raw).__qualname__
        message = f"driver connection: expected one of psycopg's, got {found}"
        raise TransactionMisuse(message, field="driver connection", value=found)
    if raw.autocommit:
        message = "isolation level: expected READ COMMITTED, got AUTOCOMMIT"
        raise TransactionMisuse(message, field="isolation level", value="AUTOCOMMIT")
    if raw.info.transaction_status is TransactionStatus.INERROR:
        raise TransactionMisuse(
            "transaction: current transaction is aborted by an earlier error (SQLSTATE 25P02): "
            "roll it back, or back to a savepoint set before that error",
            field="transaction",
            value="aborted",
        )
    return raw


@contextmanager
def dropped_if_interrupted(connection: Connection) -> Iterator[None]:
    """A block of statements: if what a signal's handler raises ends it during one, the connection is dropped.

    Its answer is still to come, so nothing can be sent any more, not even a ROLLBACK, which would hide what was raised.
    """
    try:
        yield
    except BaseException:
        raw = None if connection.invalidated else connection.connection.driver_connection
        if (
            isinstance(raw, psycopg.Connection | psycopg.AsyncConnection)
            and raw.info.transaction_status is TransactionStatus.ACTIVE
        ):
            connection.invalidate()
        raise
