"""What each SQLSTATE means for a batch: one table, one function."""

from __future__ import annotations

import psycopg
import pytest
from psycopg import errors
from psycopg.pq import DiagnosticField

from levelq_core.sqlstate import Meaning, classify, in_words

DATA, AGAIN, TOO_LARGE, LOCKED, WEATHER = Meaning

TABLE = [
    ("22001", DATA),  # string too long
    ("22003", DATA),  # out of range
    ("22021", DATA),  # NUL in text
    ("22P02", DATA),  # bad text representation
    ("22P05", DATA),  # untranslatable character
    ("23000", DATA),
    ("23502", DATA),  # not null
    ("23503", DATA),  # foreign key
    ("23514", DATA),  # check
    ("23P01", DATA),  # exclusion
    ("57014", TOO_LARGE),  # statement timeout
    ("25P04", TOO_LARGE),  # transaction timeout
    ("55P03", LOCKED),  # lock timeout
    ("08000", WEATHER),
    ("08006", WEATHER),
    ("25006", WEATHER),  # read-only: a standby
    ("25P02", WEATHER),
    ("28P01", WEATHER),  # wrong password
    ("3D000", WEATHER),  # no such database
    ("40001", WEATHER),
    ("40P01", WEATHER),  # deadlock
    ("42501", WEATHER),  # a grant is missing
    ("42703", WEATHER),  # a column is missing
    ("42P01", WEATHER),  # a table is missing
    ("53100", WEATHER),  # disk full
    ("53200", WEATHER),
    ("53300", WEATHER),  # too many connections
    ("57P01", WEATHER),  # shutdown
    ("57P02", WEATHER),
    ("57P03", WEATHER),
    ("57P05", WEATHER),
    ("P0001", WEATHER),  # an application's trigger raises
    ("XX000", WEATHER),
    ("XX001", WEATHER),
]


def reported(state: str, **fields: str) -> psycopg.Error:
    """An error as the server would have reported it."""
    info = {DiagnosticField[name.upper()]: value.encode() for name, value in fields.items()}
    return errors.lookup(state)("what psycopg says", info=info)  # type: ignore[arg-type]


@pytest.mark.parametrize(("state", "meaning"), TABLE, ids=[state for state, _ in TABLE])
def test_each_state_has_its_meaning(state: str, meaning: Meaning) -> None:
    assert classify(reported(state)) is meaning


@pytest.mark.parametrize("state", ["ZZ999", "99999", "0A000"])
def test_an_unknown_state_never_costs_a_command(state: str) -> None:
    error = type("Unknown", (psycopg.DatabaseError,), {"sqlstate": state})("?")
    assert classify(error) is WEATHER


@pytest.mark.parametrize("table", ["levelq_ledger", "specialization_progress", "user_licenses"])
def test_a_duplicate_of_our_keys_means_somebody_was_faster(table: str) -> None:
    assert classify(reported("23505", table_name=table, constraint_name="some_key")) is AGAIN
    assert classify(reported("23505", table_name=table)) is AGAIN


@pytest.mark.parametrize("table", ["levelq_ledger", "specialization_progress", "user_licenses"])
def test_a_collision_of_row_numbers_is_a_sequence_left_behind(table: str) -> None:
    assert classify(reported("23505", table_name=table, constraint_name=f"{table}_pkey")) is WEATHER


def test_a_duplicate_in_the_applications_own_table_is_data() -> None:
    assert classify(reported("23505", table_name="audit", constraint_name="audit_key")) is DATA
    assert classify(reported("23505")) is DATA


def test_without_a_state_only_what_cannot_be_encoded_is_data() -> None:
    assert classify(UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates")) is DATA
    assert classify(psycopg.DataError("cannot dump NUL")) is DATA
    for error in (
        psycopg.OperationalError("connection refused"),
        psycopg.InterfaceError("closed"),
        psycopg.Error("?"),
        RuntimeError("a bug"),
        OSError(28, "No space left on device"),
        ValueError("?"),
    ):
        assert classify(error) is WEATHER


def test_in_words_is_one_line_without_the_values() -> None:
    error = reported("23503", message_primary="violates fk_user", message_detail="Key (id)=(42) is not present")
    assert in_words(error) == "violates fk_user (SQLSTATE 23503)"
    assert in_words(psycopg.OperationalError("refused\n  Is the server running?")) == "refused"
    assert in_words(RuntimeError()) == "RuntimeError"
