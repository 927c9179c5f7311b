"""The transactions of an application that an outbox can write in, one adaptor per kind.

Each kind is recognised by the name of its class, so nothing is imported that the application does not use.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

from levelq_core.errors import SchemaError, TransactionMisuse

Values = Mapping[str, Any]
Rows = list[Any]

EXPECTED = (
    "a SQLAlchemy Session or Connection, a psycopg Connection or Django's connection (django.db.connection), "
    "with the transaction that the command belongs to"
)


# A server-side cursor, which a connection may have for its reads, can only SELECT.
_UNSTREAMED = {"stream_results": False, "yield_per": None}


class OpenTransaction(NamedTuple):
    """A transaction that the application will commit or roll back."""

    execute: Callable[[str, Values], Rows]  # a statement with :name for each parameter; returns its rows
    is_async: bool = False  # the application waits on asyncio
    can_notify: bool = True  # a transaction that will be prepared (two-phase commit) may not NOTIFY


def opener(given: Any) -> Callable[[], OpenTransaction]:
    """How to open the transaction of what the application passed. What is returned checks it at each call.

    It then raises TransactionMisuse if what is written could not be rolled back, or not be committed.
    Raises TransactionMisuse for the asyncio kinds, TypeError for what has no transaction.
    """
    for ancestor in given.__class__.__mro__:  # not type(given): a proxy may stand for a session
        name = f"{ancestor.__module__}.{ancestor.__qualname__}"
        if name in _ASYNC:
            message = f"outbox: expected {EXPECTED}, got {ancestor.__qualname__}: {_ASYNC[name]}"
            raise TransactionMisuse(message, field="outbox", value=ancestor.__qualname__)
        if name in _KINDS:
            kind = _KINDS[name]
            return lambda: kind(given)
    hint = _HINTS.get(given.__class__.__name__, "")
    found = f"{given.__class__.__module__}.{given.__class__.__qualname__}"
    raise TypeError(f"outbox: expected {EXPECTED}, got {found}{hint}")


def _open_session(session: Any) -> OpenTransaction:
    """A SQLAlchemy Session or scoped_session: its connection, without a flush of what is pending."""
    from sqlalchemy.exc import InvalidRequestError, UnboundExecutionError  # noqa: PLC0415 - the application has it

    from levelq_core.database.session_binds import bind_of  # noqa: PLC0415

    given = session() if hasattr(session, "registry") else session  # of a scoped_session, the present one
    try:
        connection = given.connection(bind_arguments={"bind": bind_of(given)})
    except UnboundExecutionError as error:
        raise TransactionMisuse(
            "session: it has no bind for levelq's tables; give the outbox the connection instead, as in "
            "Outbox(session.connection(bind_arguments={'mapper': Model}))",
            field="session",
        ) from error
    except InvalidRequestError as error:
        raise _unusable(error) from error
    return _open_connection(connection)


def _open_connection(connection: Any) -> OpenTransaction:
    """A SQLAlchemy Connection."""
    from sqlalchemy.engine import TwoPhaseTransaction  # noqa: PLC0415
    from sqlalchemy.exc import InvalidRequestError  # noqa: PLC0415

    if connection.dialect.name != "postgresql":
        raise _other_database(connection.dialect.name)
    if (connection.get_execution_options().get("schema_translate_map") or {}).get(None) is not None:
        raise TransactionMisuse(
            "schema_translate_map: expected none for tables without a schema, because levelq finds its tables by "
            "search_path; set search_path, or give the outbox a connection without this execution option",
            field="schema_translate_map",
        )
    try:
        if connection.connection.dbapi_connection.autocommit:
            raise _autocommit('without isolation_level="AUTOCOMMIT"')
    except InvalidRequestError as error:
        raise _unusable(error) from error

    def execute(statement: str, values: Values) -> Rows:
        try:
            with _explained():
                return list(connection.execute(_text(statement), values, execution_options=_UNSTREAMED))
        except InvalidRequestError as error:
            raise _unusable(error) from error

    prepared = isinstance(connection.get_transaction(), TwoPhaseTransaction)
    return OpenTransaction(execute, is_async=connection.dialect.is_async, can_notify=not prepared)


def _open_psycopg(connection: Any) -> OpenTransaction:
    """A psycopg 3 Connection."""
    from psycopg import Cursor  # noqa: PLC0415
    from psycopg.pq import TransactionStatus  # noqa: PLC0415
    from psycopg.rows import tuple_row  # noqa: PLC0415

    if connection.closed:
        raise _transaction("the psycopg connection is closed", "closed")
    if connection.info.transaction_status == TransactionStatus.ACTIVE and connection.info.pipeline_status:
        with connection.pipeline():  # a pipeline knows its transaction only after a Sync
            pass
    status = connection.info.transaction_status
    if status == TransactionStatus.INERROR:
        raise _aborted()
    if connection.autocommit and status == TransactionStatus.IDLE:
        raise _autocommit("inside `with connection.transaction():`, or with autocommit off")

    def execute(statement: str, values: Values) -> Rows:
        # levelq's own cursor: the connection's cursor factory may return other rows or read other placeholders.
        with Cursor(connection, row_factory=tuple_row) as cursor, _explained():
            return cursor.execute(_pyformat(statement), values).fetchall()

    return OpenTransaction(execute)


def _open_django(connection: Any) -> OpenTransaction:
    """Django's connection, on psycopg 3 or psycopg2."""
    if getattr(connection, "vendor", None) != "postgresql":
        raise _other_database(getattr(connection, "vendor", connection))
    if connection.closed_in_transaction:
        raise _transaction("Django's connection was closed inside its atomic block", "closed")
    if connection.in_atomic_block and connection.needs_rollback:
        raise _aborted()
    if not connection.in_atomic_block and connection.get_autocommit():
        raise _autocommit(f"inside `with transaction.atomic(using={connection.alias!r}):`")

    def execute(statement: str, values: Values) -> Rows:
        with connection.cursor() as cursor, _explained():
            cursor.execute(_pyformat(statement), values)
            return list(cursor.fetchall())

    return OpenTransaction(execute)


_KINDS: dict[str, Callable[[Any], OpenTransaction]] = {
    "sqlalchemy.orm.session.Session": _open_session,
    "sqlalchemy.orm.scoping.scoped_session": _open_session,
    "sqlalchemy.engine.base.Connection": _open_connection,
    "psycopg.Connection": _open_psycopg,
    "django.utils.connection.ConnectionProxy": _open_django,
    "django.db.backends.base.base.BaseDatabaseWrapper": _open_django,
}
_RUN_SYNC = "`await {0}.run_sync(lambda s: Outbox(s).send(command))` writes in its transaction"
_ASYNC = {
    "sqlalchemy.ext.asyncio.session.AsyncSession": _RUN_SYNC.format("session"),
    "sqlalchemy.ext.asyncio.scoping.async_scoped_session": _RUN_SYNC.format("session"),
    "sqlalchemy.ext.asyncio.engine.AsyncConnection": _RUN_SYNC.format("connection"),
    "psycopg.AsyncConnection": "on asyncio use SQLAlchemy's AsyncSession or AsyncConnection",
}
_HINTS = {
    "Engine": "; pass a connection of it, as in `with engine.begin() as connection: Outbox(connection)`",
    "AsyncEngine": "; pass a connection of it, as in `async with engine.begin() as connection: "
    "await connection.run_sync(lambda c: Outbox(c).send(command))`",
}


@cache
def _text(statement: str) -> Any:
    from sqlalchemy import text  # noqa: PLC0415

    return text(statement)


@cache
def _pyformat(statement: str) -> str:
    """The statement with %(name)s for each :name, as psycopg, psycopg2 and Django read it."""
    return re.sub(r"(?<!:):(\w+)", r"%(\1)s", statement)


def _transaction(what: str, value: str) -> TransactionMisuse:
    return TransactionMisuse(f"transaction: {what}", field="transaction", value=value)


def _other_database(name: Any) -> TransactionMisuse:
    return TransactionMisuse(f"database: expected PostgreSQL, got {name}", field="database", value=name)


def _autocommit(instead: str) -> TransactionMisuse:
    return _transaction(
        "expected one that can be rolled back, got autocommit, where the command would be sent whatever becomes of "
        f"your data; use the outbox {instead}",
        "autocommit",
    )


def _aborted() -> TransactionMisuse:
    return _transaction("it is aborted by an earlier error; roll it back, then send", "aborted")


def _unusable(error: Exception) -> TransactionMisuse:
    return _transaction(f"expected one that is open, got: {str(error).splitlines()[0]}", "not open")


@contextmanager
def _explained() -> Iterator[None]:
    """Explain the errors that the application can fix; all others pass through."""
    try:
        yield
    except Exception as error:
        cause = getattr(error, "orig", None) or error.__cause__ or error
        state = getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)
        if state == "25P02":
            raise _aborted() from error
        if state in ("42P01", "42703"):  # undefined table, undefined column
            raise SchemaError(
                f"table levelq_outbox: {str(cause).splitlines()[0]}: it was looked for in the application's database, "
                "along its search_path; run `levelq db upgrade` on that database, or give the outbox a connection to "
                "the one that has levelq's tables",
                table="levelq_outbox",
            ) from error
        raise
