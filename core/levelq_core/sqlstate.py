"""What a database error means for a batch: decided here by SQLSTATE, once for all callers.

Source: PostgreSQL's list of error codes (Appendix A of its manual).
"""

from __future__ import annotations

from enum import Enum

import psycopg

from .schema import LEDGER, LICENSES, PROGRESS


class Meaning(Enum):
    """What to do next."""

    DATA = "this command is at fault: find it and reject it"
    AGAIN = "somebody else was faster: run the same batch again"
    TOO_LARGE = "the batch took too long: halve it"
    LOCKED = "a row is held by foreign code: put that lane aside"
    WEATHER = "not the commands' fault: wait and try again, charge nothing"


_KEYS_OF = (LEDGER, PROGRESS, LICENSES)


def classify(error: Exception) -> Meaning:
    """Decide what an error that ended a batch means. What is unknown is weather: it never costs a command."""
    if isinstance(error, UnicodeEncodeError):
        return Meaning.DATA
    if not isinstance(error, psycopg.Error):
        return Meaning.WEATHER
    state = error.sqlstate
    if state is None:  # raised by psycopg itself
        return Meaning.DATA if isinstance(error, psycopg.DataError) else Meaning.WEATHER
    if state == "23505" and error.diag.table_name in _KEYS_OF:
        # A collision of our own row numbers is a sequence that a restore left behind: no command's fault.
        return Meaning.WEATHER if (error.diag.constraint_name or "").endswith("_pkey") else Meaning.AGAIN
    if state[:2] in ("22", "23"):
        return Meaning.DATA
    if state in ("57014", "25P04"):
        return Meaning.TOO_LARGE
    if state == "55P03":
        return Meaning.LOCKED
    return Meaning.WEATHER


def in_words(error: Exception) -> str:
    """One line about an error, without the values it was about: fit for a message and for a log."""
    if isinstance(error, psycopg.Error) and error.diag.message_primary:
        said, constraint = " ".join(error.diag.message_primary.split()), error.diag.constraint_name
        named = f", constraint {constraint}" if constraint and constraint not in said else ""
        return f"{said}{named} (SQLSTATE {error.sqlstate})"
    return str(error).splitlines()[0] if str(error) else type(error).__name__
