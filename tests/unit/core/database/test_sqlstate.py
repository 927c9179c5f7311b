"""What each SQLSTATE means for a batch: one table, one function."""

from __future__ import annotations

import psycopg
import pytest
from psycopg import errors
from psycopg.pq import DiagnosticField
from sqlalchemy.exc import DBAPIError

from levelq_core.database.sqlstate import (
    ErrorClass,
    classify,
    driver_error,
    in_words,
    raised_in_function,
    sqlstate_of,
)

TRANSIENT, RETRY, TOO_SLOW, LOCK_TIMEOUT, ISOLATE = ErrorClass

TABLE = [
    ("22001", ISOLATE),  # string too long
    ("22003", ISOLATE),  # out of range
    ("22021", ISOLATE),  # NUL in text
    ("22P02", ISOLATE),  # bad text representation
    ("22P05", ISOLATE),  # untranslatable character
    ("23000", ISOLATE),
    ("23502", ISOLATE),  # not null
    ("23503", ISOLATE),  # foreign key
    ("2200H", ISOLATE),  # a sequence at its end
    ("23514", ISOLATE),  # check
    ("23P01", ISOLATE),  # exclusion
    ("57014", TOO_SLOW),  # statement timeout
    ("25P04", TOO_SLOW),  # transaction timeout
    ("55P03", LOCK_TIMEOUT),  # lock timeout
    ("08000", TRANSIENT),
    ("08006", TRANSIENT),
    ("25006", TRANSIENT),  # read-only: a standby
    ("25P02", ISOLATE),
    ("28P01", ISOLATE),  # wrong password
    ("3D000", ISOLATE),  # no such database
    ("40001", TRANSIENT),
    ("40P01", TRANSIENT),  # deadlock
    ("42501", ISOLATE),  # a grant is missing
    ("42703", ISOLATE),  # a column is missing
    ("42P01", ISOLATE),  # a table is missing
    ("53100", TRANSIENT),  # disk full
    ("53200", TRANSIENT),
    ("53300", TRANSIENT),  # too many connections
    ("57P01", TRANSIENT),  # shutdown
    ("57P02", TRANSIENT),
    ("57P03", TRANSIENT),
    ("57P05", TRANSIENT),
    ("P0001", ISOLATE),  # an application's trigger raises
    ("XX000", ISOLATE),
    ("XX001", ISOLATE),
]


def reported(state: str, **fields: str) -> psycopg.Error:
    """An error as the server would have reported it."""
    info = {DiagnosticField[name.upper()]: value.encode() for name, value in fields.items()}
    return errors.lookup(state)("what psycopg says", info=info)  # type: ignore[arg-type]


@pytest.mark.parametrize(("state", "meaning"), TABLE, ids=[state for state, _ in TABLE])
def test_each_state_has_its_meaning(state: str, meaning: ErrorClass) -> None:
    assert classify(reported(state)) is meaning


@pytest.mark.parametrize("state", ["ZZ999", "99999", "0A000"])
def test_an_unknown_state_is_isolated(state: str) -> None:
    error = type("Unknown", (psycopg.DatabaseError,), {"sqlstate": state})("?")
    assert classify(error) is ISOLATE


@pytest.mark.parametrize("table", ["levelq_ledger", "specialization_progress", "user_licenses"])
def test_a_duplicate_of_our_keys_means_somebody_was_faster(table: str) -> None:
    assert classify(reported("23505", table_name=table, constraint_name="some_key")) is RETRY
    assert classify(reported("23505", table_name=table)) is RETRY


@pytest.mark.parametrize("table", ["levelq_ledger", "specialization_progress", "user_licenses"])
def test_a_collision_of_row_numbers_is_isolated_at_once(table: str) -> None:
    """A sequence that a restore left behind: another transaction has nothing to do with it."""
    assert classify(reported("23505", table_name=table, constraint_name=f"{table}_pkey")) is ISOLATE


def test_a_duplicate_in_the_applications_own_table_is_isolated() -> None:
    assert classify(reported("23505", table_name="audit", constraint_name="audit_key")) is ISOLATE
    assert classify(reported("23505")) is ISOLATE


def test_without_a_state_only_what_cannot_be_encoded_is_isolated() -> None:
    assert classify(UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates")) is ISOLATE
    assert classify(psycopg.DataError("cannot dump NUL")) is ISOLATE
    for error in (
        psycopg.OperationalError("connection refused"),
        psycopg.InterfaceError("closed"),
        psycopg.Error("?"),
        RuntimeError("a bug"),
        OSError(28, "No space left on device"),
        ValueError("?"),
    ):
        assert classify(error) is TRANSIENT


def test_in_words_is_one_line_without_the_values() -> None:
    error = reported("23503", message_primary="violates fk_user", message_detail="Key (id)=(42) is not present")
    assert in_words(error) == "violates fk_user (SQLSTATE 23503)"
    assert in_words(psycopg.OperationalError("refused\n  Is the server running?")) == "refused"
    assert in_words(RuntimeError()) == "RuntimeError"


@pytest.mark.parametrize(
    ("context", "raised"),
    [
        (None, False),
        ("unnamed portal parameter $5", False),
        ('portal "p" parameter $5', False),
        ("PL/pgSQL function object() line 1 at RAISE", True),
        ('SQL statement "SELECT $1"\nPL/pgSQL function object() line 1 at PERFORM', True),
        ('SQL function "f" statement 1', True),
        ("PL/pgSQL-Funktion object() Zeile 1 bei RAISE", True),
        ("PL/pgSQL function object() line 1 during statement block local variable $1", True),
    ],
)
def test_what_a_function_raises_is_told_from_what_the_statement_does(context: str | None, raised: bool) -> None:
    error = reported("23514") if context is None else reported("23514", context=context)
    assert raised_in_function(error) is raised


@pytest.mark.parametrize("wrapped", [False, True])
def test_an_error_is_the_same_wrapped_by_sqlalchemy_or_not(wrapped: bool) -> None:
    error = errors.LockNotAvailable("canceling statement")
    found = DBAPIError("SELECT", {}, error) if wrapped else error
    assert driver_error(found) is error
    assert (sqlstate_of(found), classify(found), in_words(found)) == ("55P03", LOCK_TIMEOUT, "canceling statement")


def test_an_error_that_is_not_postgresqls_has_no_sqlstate() -> None:
    error = ValueError("x")
    assert (driver_error(error), sqlstate_of(error), classify(error)) == (error, None, TRANSIENT)
