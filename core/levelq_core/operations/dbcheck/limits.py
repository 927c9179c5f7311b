"""A time limit for checks that read rows: a table may be locked, or large."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from levelq_core.database.sqlstate import in_words, sqlstate_of

from .finding import Finding

CUT = ("57014", "55P03")  # statement_timeout, lock_timeout


def limit(connection: Connection, seconds: float | None) -> None:
    """Set the most time for each statement of this transaction, whatever the server's setting; None for no limit."""
    connection.execute(_LIMIT, {"ms": str(round(1000 * (seconds or 0)))})


def check_in_time(connection: Connection, what: str, check: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """All that `check` finds, or a warning if one of its statements was cut off. What it writes is rolled back.

    Raises DBAPIError for all else.
    """
    connection.execute(text("SAVEPOINT levelq_look"))
    try:
        return list(check())
    except DBAPIError as error:
        if sqlstate_of(error) not in CUT:
            raise
        problem = f"{what} could not be checked in time: {in_words(error)}"
        return [Finding("warning", problem, ("levelq db check",))]
    finally:
        if not connection.invalidated:
            connection.execute(text("ROLLBACK TO SAVEPOINT levelq_look"))


_LIMIT = text("SELECT set_config('statement_timeout', :ms, true)")
