"""The application's session: what counts as one, whose its transaction is, and which of its objects have changed."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, NestedTransaction, inspect
from sqlalchemy.exc import UnboundExecutionError
from sqlalchemy.orm import Mapper, Session, SessionTransactionOrigin, scoped_session
from sqlalchemy.orm.exc import UnmappedColumnError

from .schema import LICENSES, PROGRESS

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
    """The session itself; of a scoped_session, the one of the present scope."""
    return given() if isinstance(given, scoped_session) else given


def caller_owns(session: Session) -> bool:
    """Whether the transaction's end is the caller's business.

    So it is in a block of `session.begin()` or `begin_nested()`, and where the session is bound to a Connection that
    had a transaction before. A transaction that the session began by itself is levelq's to end.
    """
    root = session.get_transaction()
    if session.in_nested_transaction() or (root is not None and root.origin is SessionTransactionOrigin.BEGIN):
        return True
    try:
        bind = session.get_bind()
    except UnboundExecutionError:  # bound by class only: session.connection() will say so
        return False
    if not isinstance(bind, Connection):
        return False
    joined = root._connections.get(bind) if root is not None else None
    if joined is None:
        return bind.in_transaction()
    _, transaction, commits, _ = joined
    # In the mode control_fully, a transaction that was joined looks like one that the session began. That mode is
    # only ever asked for to join one.
    return isinstance(transaction, NestedTransaction) or not commits or session.join_transaction_mode == "control_fully"


def ends_savepoint(session: Session) -> bool:
    """Whether the session's own commit would only release a SAVEPOINT in a transaction of its Connection.

    Tests use sessions like this, so that the code under test may commit. Without a commit, closing the session would
    take back what a direct call did.
    """
    root = session.get_transaction()
    if root is None or root.origin is not SessionTransactionOrigin.AUTOBEGIN or session.in_nested_transaction():
        return False
    joined = root._connections.get(session.connection())
    return joined is not None and isinstance(joined[1], NestedTransaction) and joined[2]


def refresh_rows(session: Session, user_id: int) -> None:
    """Read again what the session holds of the user's progress and licenses, which levelq changed past the session."""
    for held in session.identity_map.values():
        state = inspect(held)
        if not state.expired and _is_row_of(user_id, state.mapper, state.dict):
            session.refresh(held)


def _is_row_of(user_id: int, mapper: Mapper[Any], values: dict[str, Any]) -> bool:
    for table in mapper.tables:
        name = _USER_COLUMN.get(getattr(table, "name", ""))
        if name is not None and name in table.c:
            try:
                return bool(values.get(mapper.get_property_by_column(table.c[name]).key) == user_id)
            except UnmappedColumnError:
                return True  # no way to tell
    return False
