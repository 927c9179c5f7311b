"""The application's session: what counts as one, who owns its transaction, and which of its objects have changed."""

from __future__ import annotations

from contextlib import suppress
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, NestedTransaction
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.orm import Mapper, Session, SessionTransactionOrigin, scoped_session
from sqlalchemy.orm.exc import UnmappedColumnError

from levelq_core.database.schema import LICENSES, PROGRESS
from levelq_core.database.session_binds import Bind, bind_of, leading_to

AnySession = Session | scoped_session[Any]

_USER_COLUMN = {PROGRESS: "student_id", LICENSES: "user_id"}


def check_session(given: object) -> None:
    """Raise TypeError, with what to do, for what is neither a Session nor a scoped_session."""
    if isinstance(given, Session | scoped_session):
        return
    found = f"session: expected a SQLAlchemy Session, got {type(given).__qualname__}"
    if type(given).__name__.lower().startswith("async"):
        raise TypeError(f"{found}; use: await session.run_sync(level_up_atomic, user_id, specialization, xp_gained)")
    raise TypeError(found)


def session_of(given: AnySession) -> Session:
    """The session itself; of a scoped_session, that of the current scope."""
    return given() if isinstance(given, scoped_session) else given


def caller_owns(session: Session) -> bool:
    """Whether the caller must end the transaction, not levelq.

    True in a block of `session.begin()` or of `begin_nested()`, the session's or its connection's, and where the
    session is bound to a Connection that had a transaction before. levelq ends a transaction that the session began by
    itself.
    """
    root = session.get_transaction()
    if session.in_nested_transaction() or (root is not None and root.origin is SessionTransactionOrigin.BEGIN):
        return True
    try:
        bind = bind_of(session)
    except Exception:  # the next call reports it
        return False
    joined = root._connections.get(bind) if root is not None else None
    if joined is None:
        return isinstance(bind, Connection) and bind.in_transaction()
    connection, _, commits, _ = joined
    # In the mode control_fully, a transaction that was joined looks like one that the session began. That mode is
    # used only to join one.
    fully = isinstance(bind, Connection) and session.join_transaction_mode == "control_fully"
    return connection.in_nested_transaction() or not commits or fully


def ends_savepoint(session: Session, connection: Connection) -> bool:
    """Whether the session's own commit would only release a SAVEPOINT in a transaction of its Connection.

    Tests use such sessions, so that the code under test may commit. Without a commit, closing the session would roll
    back what a direct call did.
    """
    root = session.get_transaction()
    if root is None or root.origin is not SessionTransactionOrigin.AUTOBEGIN or session.in_nested_transaction():
        return False
    joined = root._connections.get(connection)
    return joined is not None and isinstance(joined[1], NestedTransaction) and joined[2]


def refresh_rows(session: Session, user_id: int, bind: Bind) -> None:
    """Refresh the session's objects of the user's progress and licenses, which levelq changed past the session.

    An object whose row is gone is left expired, as by a commit.
    """
    with leading_to(session, bind):
        for state in session.identity_map.all_states():
            key, held = _user_key(state.mapper), state.obj()
            if key is None or held is None or state.expired or state.dict.get(key, user_id) != user_id:
                continue
            loaded = set(state.dict)
            with suppress(InvalidRequestError):
                session.refresh(held)
                deferred = loaded.intersection(state.mapper.attrs.keys()).difference(state.dict)
                if deferred:  # loaded by their use, so not by a refresh
                    session.refresh(held, deferred)


@lru_cache(maxsize=256)
def _user_key(mapper: Mapper[Any]) -> str | None:
    """The attribute that names the user; "" where it is not mapped, None if levelq does not change such rows."""
    for table in mapper.tables:
        name = _USER_COLUMN.get(getattr(table, "name", ""))
        if name is not None and name in table.c:
            try:
                return mapper.get_property_by_column(table.c[name]).key
            except UnmappedColumnError:
                return ""
    return None
