"""A second batch in one transaction hardly waits for its locks: a lock it does not get soon is an answer."""

from collections.abc import Iterator
from uuid import uuid4

import pytest
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from levelq_core import LevelUp, Outcome, apply_commands
from tests.support.coupler import ledger
from tests.support.isolation import DISK_FULL, execute, experience, level_up


def apply(connection: Connection, *commands: LevelUp) -> list[Outcome]:
    return apply_commands(connection, commands)


@pytest.fixture
def database_url(application_database_url: str) -> str:
    return application_database_url


@pytest.fixture
def first(engine: Engine) -> Iterator[Connection]:
    with engine.connect() as connection:
        yield connection


@pytest.fixture
def second(engine: Engine) -> Iterator[Connection]:
    with engine.connect() as connection:
        yield connection


def seed(engine: Engine, *users: int) -> None:
    with engine.begin() as connection:
        assert {o.status for o in apply(connection, *map(level_up, users))} == {"applied"}


def is_not_waited_for(outcome: Outcome) -> bool:
    assert "PLAYER" in outcome.message and "send the same command_id again" in outcome.message
    return (outcome.status, outcome.error, outcome.after) == ("rejected", "database_error", None)


def test_two_transactions_locking_in_opposite_order_do_not_deadlock(
    engine: Engine, first: Connection, second: Connection
) -> None:
    """Both would wait for each other forever; this test needs no thread, because neither waits."""
    seed(engine, 1, 2)
    commands = {"of first": level_up(2), "of second": level_up(1)}
    apply(first, level_up(1))
    apply(second, level_up(2))
    (refused,) = apply(first, commands["of first"])
    assert is_not_waited_for(refused) and "PLAYER:2" in refused.message
    (refused,) = apply(second, commands["of second"])
    assert is_not_waited_for(refused) and "PLAYER:1" in refused.message
    first.commit()
    second.commit()
    assert experience(engine) == {1: 20, 2: 20}
    with engine.begin() as connection:
        ids = {row["command_id"] for row in ledger(connection)}
        assert not ids & {command.command_id for command in commands.values()}
        sent_again = apply(connection, *commands.values())
    assert [(o.status, o.duplicate) for o in sent_again] == [("applied", False)] * 2
    assert experience(engine) == {1: 30, 2: 30}


def test_rows_that_another_transaction_is_inserting_are_not_waited_for(
    engine: Engine, first: Connection, second: Connection
) -> None:
    apply(first, level_up(1))
    apply(second, level_up(2))
    (refused,) = apply(second, level_up(1))
    assert is_not_waited_for(refused)
    first.commit()
    assert [o.status for o in apply(second, level_up(1))] == ["applied"]
    second.commit()
    assert experience(engine) == {1: 20, 2: 10}


def test_users_row_that_another_transaction_locks_is_not_waited_for(
    engine: Engine, first: Connection, second: Connection
) -> None:
    first.execute(text("SELECT FROM users WHERE id = 5 FOR UPDATE"))
    apply(second, level_up(2))
    (refused,) = apply(second, level_up(5))
    assert is_not_waited_for(refused)
    second.commit()
    assert experience(engine) == {2: 10}


def test_command_id_that_another_transaction_is_deciding_is_not_waited_for(
    engine: Engine, first: Connection, second: Connection
) -> None:
    shared = uuid4()
    apply(first, level_up(1, command_id=shared))
    apply(second, level_up(2))
    (refused,) = apply(second, level_up(3, command_id=shared))
    assert is_not_waited_for(refused)
    second.commit()
    first.commit()
    assert experience(engine) == {1: 10, 2: 10}


def test_locked_lane_does_not_hold_up_the_other_lanes_of_its_batch(
    engine: Engine, first: Connection, second: Connection
) -> None:
    seed(engine, 1, 2, 3)
    apply(first, level_up(2))
    apply(second, level_up(1))
    outcomes = apply(second, level_up(3), level_up(2), level_up(1), level_up(2))
    assert [o.status for o in outcomes] == ["applied", "rejected", "applied", "rejected"]
    assert all(is_not_waited_for(outcomes[n]) for n in (1, 3))
    second.commit()
    first.commit()
    assert experience(engine) == {1: 30, 2: 20, 3: 20}


def lock_timeout(connection: Connection) -> str:
    return str(connection.execute(text("SHOW lock_timeout")).scalar_one())


@pytest.mark.parametrize("locked", [False, True])
def test_lock_timeout_of_the_caller_is_restored(first: Connection, second: Connection, locked: bool) -> None:
    second.execute(text("SET LOCAL lock_timeout = '7s'"))
    if locked:
        apply(first, level_up(2))
    apply(second, level_up(1))
    assert lock_timeout(second) == "7s"
    apply(second, level_up(2))
    assert lock_timeout(second) == "7s"


def test_lock_timeout_is_restored_after_an_error(engine: Engine, second: Connection) -> None:
    execute(engine, DISK_FULL)
    apply(second, level_up(1))
    with pytest.raises(DBAPIError, match="disk full"):
        apply(second, level_up(4, 1000))
    assert lock_timeout(second) == "0"
    assert [o.status for o in apply(second, level_up(3))] == ["applied"]


def test_batch_rolled_back_to_a_savepoint_lets_the_next_one_wait(
    engine: Engine, first: Connection, second: Connection
) -> None:
    """Its locks are released, so the next batch is the first: it waits, here until its own lock_timeout."""
    seed(engine, 1)
    savepoint = second.begin_nested()
    apply(second, level_up(2))
    savepoint.rollback()
    assert has_batch(second) is False
    apply(first, level_up(1))
    second.execute(text("SET LOCAL lock_timeout = '20ms'"))
    with pytest.raises(Exception, match="canceling statement due to lock timeout"):
        apply(second, level_up(1))
    assert has_batch(second) is False


def test_batch_of_a_released_savepoint_still_counts(engine: Engine, first: Connection, second: Connection) -> None:
    seed(engine, 1)
    with second.begin_nested():
        apply(second, level_up(2))
    savepoint = second.begin_nested()
    apply(second, level_up(3))
    savepoint.rollback()
    assert has_batch(second) is True
    apply(first, level_up(1))
    assert is_not_waited_for(apply(second, level_up(1))[0])


def test_next_transaction_of_the_connection_has_no_batch(second: Connection) -> None:
    apply(second, level_up(1))
    second.commit()
    assert has_batch(second) is False


def has_batch(connection: Connection) -> bool:
    return bool(connection.execute(text("SELECT current_setting('levelq.batch', true)")).scalar_one())
