"""What a database error means for a batch: decided here by SQLSTATE, once for all callers.

Source: PostgreSQL's list of error codes (Appendix A of its manual).
"""

from __future__ import annotations

import re
from enum import Enum

import psycopg
from sqlalchemy.exc import DBAPIError

from .schema import LEDGER, LICENSES, PROGRESS


class ErrorClass(Enum):
    """What to do next."""

    TRANSIENT = "the connection, the server's state or the time is to blame: wait and try again, charge nothing"
    RETRY = "another transaction was faster: run the same batch again"
    TOO_SLOW = "the batch took too long: halve it"
    LOCK_TIMEOUT = "other code holds a row: park that lane"
    ISOLATE = "find out which lane it follows: that lane is to blame if others pass, the database if none does"


_KEYS_OF = (LEDGER, PROGRESS, LICENSES)
_BY_STATE = {"57014": ErrorClass.TOO_SLOW, "25P04": ErrorClass.TOO_SLOW, "55P03": ErrorClass.LOCK_TIMEOUT}
_TRANSIENT_CLASSES = ("08", "53", "57P")
_TRANSIENT_STATES = ("25006", "25P03", "40001", "40P01")
# The context of an unreadable bound parameter is this one line; a function adds lines of its own.
_BOUND_PARAMETER = re.compile(r"(?!.*PL/)[^\n]*\$\d+")


def driver_error(error: Exception) -> Exception:
    """The driver's error in a DBAPIError of SQLAlchemy; any other error as it is."""
    return error.orig if isinstance(error, DBAPIError) and isinstance(error.orig, Exception) else error


def sqlstate_of(error: Exception) -> str | None:
    """The SQLSTATE of an error of PostgreSQL, wrapped by SQLAlchemy or not; None for any other error."""
    return getattr(driver_error(error), "sqlstate", None)


def classify(error: Exception) -> ErrorClass:
    """Decide what an error that ended a batch, or an attempt at it, means."""
    error = driver_error(error)
    if isinstance(error, UnicodeEncodeError):
        return ErrorClass.ISOLATE
    if not isinstance(error, psycopg.Error):
        return ErrorClass.TRANSIENT
    state = error.sqlstate
    if state is None:  # raised by psycopg itself
        return ErrorClass.ISOLATE if isinstance(error, psycopg.DataError) else ErrorClass.TRANSIENT
    if state == "23505" and error.diag.table_name in _KEYS_OF:
        # A collision of row numbers is a sequence that a restore left behind, and not another transaction.
        return ErrorClass.ISOLATE if (error.diag.constraint_name or "").endswith("_pkey") else ErrorClass.RETRY
    if state in _TRANSIENT_STATES or state.startswith(_TRANSIENT_CLASSES) or _was_prepared_before(error):
        return ErrorClass.TRANSIENT
    return _BY_STATE.get(state, ErrorClass.ISOLATE)


def _was_prepared_before(error: psycopg.Error) -> bool:
    """Whether a table changed since this statement was prepared: another session prepares it again."""
    return error.sqlstate == "0A000" and error.diag.source_function == "RevalidateCachedQuery"


def raised_in_function(error: psycopg.Error) -> bool:
    """Whether a trigger or another function raised it, not the statement itself."""
    context = error.diag.context
    return bool(context) and not _BOUND_PARAMETER.fullmatch(context or "")


def names_what_is_not_there(error: Exception) -> bool:
    """Whether a table, column or constraint that levelq's own statement names does not exist."""
    return isinstance(error, psycopg.Error) and (error.sqlstate or "")[:2] == "42" and not raised_in_function(error)


def constraint_of(error: Exception) -> str | None:
    """The constraint that an error names, if any."""
    return error.diag.constraint_name if isinstance(error, psycopg.Error) else None


def in_words(error: Exception) -> str:
    """One line about an error, without the values it was about: fit for a message and for a log."""
    error = driver_error(error)
    if isinstance(error, psycopg.Error) and error.diag.message_primary:
        message, constraint = " ".join(error.diag.message_primary.split()), error.diag.constraint_name
        named = f", constraint {constraint}" if constraint and constraint not in message else ""
        return f"{message}{named} (SQLSTATE {error.sqlstate})"
    return str(error).splitlines()[0] if str(error) else type(error).__name__
