"""What each SQLSTATE means for a batch: one table, one function."""

import psycopg
import pytest
from psycopg import errors
from psycopg.pq import DiagnosticField
from sqlalchemy.exc import DBAPIError

from levelq_core.database.sqlstate import ErrorClass, classify, driver_error, in_words, raised_in_function, sqlstate_of

TRANSIENT, RETRY, TOO_SLOW, LOCK_TIMEOUT, ISOLATE = ErrorClass

MEANINGS = {
    # Texts (too long, NUL, bad, untranslatable), numbers, constraints, a sequence at its end, a failed transaction, a
    # wrong password, no such database, missing grants, columns and tables, an application's trigger, damage.
    ISOLATE: "22001 22003 22021 22P02 22P05 23000 23502 23503 2200H 23514 23P01 25P02 28P01 3D000 42501 42703 42P01 "
    "P0001 XX000 XX001",
    TOO_SLOW: "57014 25P04",  # statement and transaction timeout
    LOCK_TIMEOUT: "55P03",
    # Connections, a standby, serialization, deadlock, a full disk, memory, too many connections, shutdown.
    TRANSIENT: "08000 08006 25006 40001 40P01 53100 53200 53300 57P01 57P02 57P03 57P05",
}
TABLE = {state: meaning for meaning, states in MEANINGS.items() for state in states.split()}


def reported(state: str, **fields: str) -> psycopg.Error:
    """An error as the server would have reported it."""
    info = {DiagnosticField[name.upper()]: value.encode() for name, value in fields.items()}
    return errors.lookup(state)("what psycopg says", info=info)  # type: ignore[arg-type]


@pytest.mark.parametrize("state", TABLE)
def test_each_state_has_its_meaning(state: str) -> None:
    assert classify(reported(state)) is TABLE[state]


@pytest.mark.parametrize("state", ["ZZ999", "99999", "0A000"])
def test_an_unknown_state_is_isolated(state: str) -> None:
    error = type("Unknown", (psycopg.DatabaseError,), {"sqlstate": state})("?")
    assert classify(error) is ISOLATE


@pytest.mark.parametrize("table", ["levelq_ledger", "specialization_progress", "user_licenses"])
def test_duplicate_of_our_keys_is_run_again(table: str) -> None:
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
def test_error_of_a_function_is_distinguished_from_one_of_the_statement(context: str | None, raised: bool) -> None:
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
