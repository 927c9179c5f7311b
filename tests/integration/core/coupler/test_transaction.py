"""What `apply_commands` requires of the caller's transaction, and how it leaves it."""

from typing import Any, cast

import psycopg
import pytest
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.exc import DBAPIError

from levelq_core import Command, SchemaError, TransactionMisuse, apply_commands
from tests.support.coupler import ledger, session
from tests.support.isolation import DISK_FULL, MISSING, apply, execute, experience, level_up
from tests.support.orm import REFUSED, new_users, recorded


@pytest.mark.parametrize("level", ["SERIALIZABLE", "REPEATABLE READ", "AUTOCOMMIT"])
def test_other_isolation_level_is_refused(own_engine: Engine, level: Any) -> None:
    with own_engine.connect().execution_options(isolation_level=level) as connection:
        with pytest.raises(TransactionMisuse, match=f"isolation level: expected READ COMMITTED, got {level}"):
            apply_commands(connection, [level_up(1)])
        assert connection.execute(text("SELECT 1")).scalar_one() == 1
        connection.rollback()
    assert recorded(own_engine) == []


def test_other_driver_is_refused() -> None:
    expected = r"driver: expected postgresql\+psycopg, got sqlite\+pysqlite"
    with create_engine("sqlite://").connect() as connection, pytest.raises(TransactionMisuse, match=expected):
        apply_commands(connection, [level_up(1)])


def test_second_call_in_one_transaction_is_applied_too(own_engine: Engine) -> None:
    with own_engine.begin() as connection:
        for user in (2, 1, 2):
            assert [o.status for o in apply_commands(connection, [level_up(user)])] == ["applied"]
    assert experience(own_engine) == {1: 10, 2: 20}


def test_one_connection_may_apply_in_one_transaction_after_another(own_engine: Engine) -> None:
    with own_engine.connect() as connection:
        for user in (2, 1):
            apply_commands(connection, [level_up(user)])
            connection.commit()
        apply_commands(connection, [level_up(3)])
        connection.rollback()
        apply_commands(connection, [level_up(4)])
        connection.commit()
    assert experience(own_engine) == {1: 10, 2: 10, 4: 10}


def test_other_object_than_a_command_is_refused_before_anything_is_done(own_engine: Engine) -> None:
    expected = r"commands: expected LevelUp, .*, Adjust or Reset, got 'level up'"
    with own_engine.begin() as connection, pytest.raises(TypeError, match=expected):
        apply_commands(connection, [level_up(1), cast(Command, "level up")])
    assert experience(own_engine) == {}


def test_no_commands_are_no_outcomes(engine: Engine) -> None:
    assert apply(engine, []) == []


def test_commands_may_come_from_a_generator_and_outcomes_keep_their_order(engine: Engine) -> None:
    with engine.begin() as connection:
        outcomes = apply_commands(connection, (level_up(user) for user in (9, 3, 7, 3)))
    assert [(o.user_id, o.after and o.after.total_xp) for o in outcomes] == [(9, 10), (3, 10), (7, 10), (3, 20)]


def test_rollback_of_the_caller_removes_everything(engine: Engine) -> None:
    with engine.connect() as connection:
        apply_commands(connection, [level_up(1)])
        connection.rollback()
    assert recorded(engine) == []


def test_work_of_the_caller_is_kept_when_a_command_is_isolated(application_engine: Engine) -> None:
    with application_engine.begin() as connection:
        connection.execute(text("INSERT INTO users (id) VALUES (5000)"))
        outcomes = apply_commands(connection, [level_up(MISSING), level_up(2, REFUSED), level_up(3)])
        connection.execute(text("UPDATE users SET name = 'after' WHERE id = 5000"))
    assert [o.error for o in outcomes] == [None, "database_error", None]
    assert experience(application_engine) == {MISSING: 10, 3: 10}
    assert new_users(application_engine) == {MISSING: "after"}


def test_transient_failure_is_raised_and_leaves_the_transaction_usable(application_engine: Engine) -> None:
    execute(application_engine, DISK_FULL)
    with application_engine.begin() as connection:
        with pytest.raises(DBAPIError, match="disk full"):
            apply_commands(connection, [level_up(4, 5000)])
        connection.execute(text("INSERT INTO users (id, name) VALUES (5000, 'still here')"))
    assert experience(application_engine) == {}
    assert new_users(application_engine) == {MISSING: "still here"}


def test_transient_failure_during_an_isolation_leaves_nothing_decided(application_engine: Engine) -> None:
    """The bad command of user 2 makes halves; the error comes in the second, when the first is done."""
    execute(application_engine, DISK_FULL)
    batch = [level_up(1), level_up(2, REFUSED), level_up(3), level_up(4, 5000)]
    with application_engine.begin() as connection, pytest.raises(DBAPIError, match="disk full"):
        apply_commands(connection, batch)
    assert experience(application_engine) == {}
    assert recorded(application_engine) == []


def test_lock_timeout_of_the_caller_is_raised(own_engine: Engine, own_database_url: str) -> None:
    apply(own_engine, [level_up(1), level_up(2)])
    with session(own_database_url) as holder, own_engine.begin() as connection:
        holder.execute("SELECT FROM specialization_progress WHERE student_id = 2 FOR UPDATE")
        connection.execute(text("SET LOCAL lock_timeout = 50"))
        with pytest.raises(DBAPIError) as raised:
            apply_commands(connection, [level_up(1), level_up(2)])
        assert isinstance(raised.value.orig, psycopg.errors.LockNotAvailable)
        assert connection.execute(text("SELECT 1")).scalar_one() == 1
    assert experience(own_engine) == {1: 10, 2: 10}


def test_lost_connection_is_invalidated(own_engine: Engine, own_database_url: str) -> None:
    with own_engine.connect() as connection:
        pid = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
        with psycopg.connect(own_database_url, autocommit=True) as admin:
            admin.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))
        with pytest.raises(DBAPIError):
            apply_commands(connection, [level_up(1)])
        assert connection.invalidated
    assert [o.status for o in apply(own_engine, [level_up(1)])] == ["applied"]


def test_database_without_the_tables_names_what_is_missing(blank_database_url: str, engines: Any) -> None:
    expected = r"table specialization_progress does not exist.*levelq db check"
    with pytest.raises(SchemaError, match=expected):
        apply(engines(blank_database_url), [level_up(1)])


def test_ledger_rows_of_a_batch_share_its_id_and_transaction(own_engine: Engine) -> None:
    with own_engine.begin() as connection:
        xid = connection.execute(text("SELECT pg_current_xact_id()::text::bigint")).scalar_one()
        apply_commands(connection, [level_up(1), level_up(2)], source="import")
        rows = ledger(connection)
    assert {(row["xid"], row["source"]) for row in rows} == {(xid, "import")}
    assert len({row["batch"] for row in rows}) == 1
