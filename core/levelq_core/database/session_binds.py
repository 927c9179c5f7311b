"""Which engine a session uses for the two coupled tables: a session may have one for each mapped class or table.

Imports no driver: an outbox may be on another one than psycopg 3.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, TableClause, table, update
from sqlalchemy.exc import UnboundExecutionError
from sqlalchemy.orm import Session
from sqlalchemy.orm.mapper import _all_registries

from levelq_core.errors import TransactionMisuse

from .table_names import LICENSES, PROGRESS

Bind = Engine | Connection


def bind_of(session: Session) -> Bind:
    """The engine that the session's `bind`, its `binds` or its own `get_bind` give for progress and licenses.

    Raises UnboundExecutionError if there is none, TransactionMisuse if there are two.
    """
    if session.__class__.get_bind is Session.get_bind and not _binds(session):  # not type(): it may be a proxy
        return session.get_bind()
    progress, licenses = _bind_for(session, PROGRESS), _bind_for(session, LICENSES)
    if progress is None or licenses is None or progress is licenses:
        found = progress or licenses
        if found is None:
            raise UnboundExecutionError(f"the session leads {PROGRESS} and {LICENSES} to no engine")
        return found
    raise TransactionMisuse(
        f"session: expected one engine for {PROGRESS} and {LICENSES}, which change in one transaction, "
        f"got {progress.engine.url!r} and {licenses.engine.url!r}",
        field="session",
        value=(repr(progress.engine.url), repr(licenses.engine.url)),
    )


@contextmanager
def leading_to(session: Session, bind: Bind) -> Iterator[None]:
    """A block in which the session uses this engine for reads, too: a replica may not have the new rows yet.

    Nothing may be flushed in it.
    """
    if session.__class__.get_bind is Session.get_bind:
        yield
        return
    with session.no_autoflush:
        session.get_bind = lambda *_, **__: bind  # type: ignore[method-assign]
        try:
            yield
        finally:
            del session.get_bind


def _bind_for(session: Session, name: str) -> Bind | None:
    """The engine for one table, or None. A bind for a class or table goes before the session's own bind."""
    found = set(_particular_binds(session, name))
    if len(found) != 1:
        default = _get_bind(session, clause=update(table(name)))
        found = (found - {default}) or {default}  # type: ignore[arg-type]
    if len(found) > 1:
        urls = sorted(repr(bind.engine.url) for bind in found)
        message = f"session: expected one engine for {name}, got several for its mapped classes: {' and '.join(urls)}"
        raise TransactionMisuse(message, field="session", value=tuple(urls))
    return found.pop()


def _particular_binds(session: Session, name: str) -> Iterator[Bind]:
    """The engines that are bound to the application's mapped classes and tables of this name."""
    # SQLAlchemy has no public list of all registries; a session does not know which of them are its application's.
    for mapper in [mapper for registry in _all_registries() for mapper in registry.mappers]:
        for mapped in mapper.tables:
            if isinstance(mapped, TableClause) and mapped.name == name:
                bind = _get_bind(session, mapper=mapper, clause=update(mapped))
                if bind is not None:
                    yield bind
    for key, bind in _binds(session).items():
        if isinstance(key, TableClause) and key.name == name:
            yield bind


def _get_bind(session: Session, **arguments: Any) -> Bind | None:
    try:
        return session.get_bind(**arguments)
    except UnboundExecutionError:
        return None


def _binds(session: Session) -> dict[Any, Bind]:
    """`Session(binds=...)`: private before SQLAlchemy 2.1."""
    return getattr(session, "binds", None) or getattr(session, "_Session__binds", None) or {}
