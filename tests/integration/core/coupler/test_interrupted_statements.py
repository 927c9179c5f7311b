"""A signal handler of the application raises while a statement of a direct call waits for its answer."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import PendingRollbackError
from sqlalchemy.orm import Session

from levelq import LevelUpRefused, ProgressLicenseCoupler, apply_commands, level_up_atomic
from tests.support.isolation import experience, level_up
from tests.support.time_limit import TimeLimit, time_limit

TOLD = {"success": False, "message": "TimeLimit", "error_type": "unknown_error"}


@pytest.fixture
def lock(own_database_url: str, own_engine: Engine) -> Iterator[None]:
    """Another session has locked the table of progress."""
    with Session(own_engine) as session:
        assert level_up_atomic(session, 1, "PLAYER", 10)["success"]
    with psycopg.connect(own_database_url) as other:
        other.execute("LOCK TABLE specialization_progress")
        yield
        other.rollback()


def test_call_returns_a_failure_and_its_session_is_usable(
    own_engine: Engine, own_database_url: str, lock: None
) -> None:
    with Session(own_engine) as session:
        with time_limit(own_database_url):
            assert level_up_atomic(session, 1, "PLAYER", 10) == TOLD
        assert session.execute(text("SELECT 1")).scalar_one() == 1


def test_raising_call_raises_with_the_cause(own_engine: Engine, own_database_url: str, lock: None) -> None:
    with Session(own_engine) as session, pytest.raises(LevelUpRefused) as caught, time_limit(own_database_url):
        level_up_atomic(session, 1, "PLAYER", 10, raise_on_failure=True)
    assert caught.value.result == TOLD and isinstance(caught.value.__cause__, TimeLimit)


def test_transaction_of_the_caller_ends_with_its_connection(
    own_engine: Engine, own_database_url: str, lock: None
) -> None:
    with Session(own_engine) as session:
        session.begin()
        with time_limit(own_database_url):
            assert level_up_atomic(session, 1, "PLAYER", 10) == TOLD | {"committed": False}
        with pytest.raises(PendingRollbackError):
            session.execute(text("SELECT 1"))
        session.rollback()
        assert session.execute(text("SELECT 1")).scalar_one() == 1


def test_apply_commands_lets_the_exception_through_and_its_connection_can_be_rolled_back(
    own_engine: Engine, own_database_url: str, lock: None
) -> None:
    with own_engine.connect() as connection:
        with pytest.raises(TimeLimit), time_limit(own_database_url):
            apply_commands(connection, [level_up(1)])
        connection.rollback()
        assert connection.execute(text("SELECT 1")).scalar_one() == 1


@pytest.mark.parametrize("owned", [False, True])
def test_validation_returns_a_failure_and_its_session_can_be_rolled_back(
    own_engine: Engine, own_database_url: str, lock: None, owned: bool
) -> None:
    with Session(own_engine) as session:
        if owned:
            session.begin()
        with time_limit(own_database_url):
            assert ProgressLicenseCoupler(session).validate_consistency(1, "PLAYER") == TOLD
        session.rollback()
        assert session.execute(text("SELECT 1")).scalar_one() == 1


def test_interrupted_call_took_no_effect(own_engine: Engine, own_database_url: str) -> None:
    with psycopg.connect(own_database_url) as other, Session(own_engine) as session:
        other.execute("LOCK TABLE specialization_progress")
        with time_limit(own_database_url):
            level_up_atomic(session, 2, "PLAYER", 10)
        other.rollback()
        session.commit()
    assert experience(own_engine) == {}
