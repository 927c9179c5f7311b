"""The transaction is the caller's: what `apply_commands` demands of it, and how it leaves it."""

from __future__ import annotations

from typing import Any, cast

import psycopg
import pytest
from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.exc import DBAPIError

from levelq_core import Command, LevelUp, SchemaError, TransactionMisuse, apply_commands
from tests.support.coupler import ledger, session, tables


def level_up(user_id: int, xp: int = 10, **fields: Any) -> LevelUp:
    return LevelUp(user_id=user_id, specialization="PLAYER", xp_gained=xp, **fields)


def totals(connection: Connection) -> dict[int, int]:
    return {user: row["total_xp"] for (user, _), row in tables(connection).progress.items()}


def count(engine: Engine) -> int:
    with engine.connect() as connection:
        return len(ledger(connection))


@pytest.mark.parametrize("level", ["SERIALIZABLE", "REPEATABLE READ", "AUTOCOMMIT"])
def test_other_isolation_levels_are_refused(own_engine: Engine, level: Any) -> None:
    with own_engine.connect().execution_options(isolation_level=level) as connection:
        with pytest.raises(TransactionMisuse, match=f"isolation level: expected READ COMMITTED, got {level}"):
            apply_commands(connection, [level_up(1)])
        assert connection.execute(text("SELECT 1")).scalar_one() == 1
        connection.rollback()
    assert count(own_engine) == 0


def test_other_drivers_are_refused() -> None:
    expected = r"driver: expected postgresql\+psycopg, got sqlite\+pysqlite"
    with create_engine("sqlite://").connect() as connection, pytest.raises(TransactionMisuse, match=expected):
        apply_commands(connection, [level_up(1)])


def test_second_call_in_one_transaction_is_applied_too(own_engine: Engine) -> None:
    with own_engine.begin() as connection:
        for user in (2, 1, 2):
            assert [o.status for o in apply_commands(connection, [level_up(user)])] == ["applied"]
    with own_engine.connect() as connection:
        assert totals(connection) == {1: 10, 2: 20}


def test_one_connection_may_apply_in_one_transaction_after_another(own_engine: Engine) -> None:
    with own_engine.connect() as connection:
        for user in (2, 1):
            apply_commands(connection, [level_up(user)])
            connection.commit()
        apply_commands(connection, [level_up(3)])
        connection.rollback()
        apply_commands(connection, [level_up(4)])
        connection.commit()
        assert totals(connection) == {1: 10, 2: 10, 4: 10}


def test_what_is_no_command_is_refused_before_anything_is_done(own_engine: Engine) -> None:
    with own_engine.begin() as connection:
        with pytest.raises(TypeError, match=r"commands: expected LevelUp, .*, Adjust or Reset, got 'level up'"):
            apply_commands(connection, [level_up(1), cast(Command, "level up")])
        assert totals(connection) == {}


def test_no_commands_are_no_outcomes(engine: Engine) -> None:
    with engine.begin() as connection:
        assert apply_commands(connection, []) == []


def test_commands_may_come_from_a_generator_and_outcomes_keep_their_order(engine: Engine) -> None:
    with engine.begin() as connection:
        outcomes = apply_commands(connection, (level_up(user) for user in (9, 3, 7, 3)))
    assert [(o.user_id, o.after and o.after.total_xp) for o in outcomes] == [(9, 10), (3, 10), (7, 10), (3, 20)]


def test_the_callers_rollback_takes_everything_back(engine: Engine) -> None:
    with engine.connect() as connection:
        apply_commands(connection, [level_up(1)])
        connection.rollback()
    assert count(engine) == 0


def test_the_callers_own_work_is_kept_when_a_command_is_isolated(application_engine: Engine) -> None:
    with application_engine.begin() as connection:
        connection.execute(text("INSERT INTO users (id) VALUES (5000)"))
        outcomes = apply_commands(connection, [level_up(5000), level_up(2, 666_000_666), level_up(3)])
        connection.execute(text("UPDATE users SET name = 'after' WHERE id = 5000"))
    assert [o.error for o in outcomes] == [None, "database_error", None]
    with application_engine.connect() as connection:
        assert totals(connection) == {5000: 10, 3: 10}
        assert connection.execute(text("SELECT name FROM users WHERE id = 5000")).scalar_one() == "after"


WEATHER = """
    CREATE FUNCTION storm() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'disk full' USING ERRCODE = '53100'; END $$;
    CREATE TRIGGER storm BEFORE UPDATE ON user_licenses FOR EACH ROW WHEN (NEW.user_id = 4) EXECUTE FUNCTION storm();
"""


def test_weather_is_raised_and_leaves_the_transaction_usable(application_engine: Engine) -> None:
    with application_engine.begin() as connection:
        connection.execute(text(WEATHER))
    with application_engine.begin() as connection:
        with pytest.raises(DBAPIError, match="disk full"):
            apply_commands(connection, [level_up(4, 5000)])
        connection.execute(text("INSERT INTO users (id, name) VALUES (5000, 'still here')"))
    with application_engine.connect() as connection:
        assert totals(connection) == {}
        assert connection.execute(text("SELECT name FROM users WHERE id = 5000")).scalar_one() == "still here"


def test_weather_in_the_middle_of_an_isolation_leaves_nothing_decided(application_engine: Engine) -> None:
    """The bad command of user 2 makes halves; the first is done when the weather strikes in the second."""
    with application_engine.begin() as connection:
        connection.execute(text(WEATHER))
    batch = [level_up(1), level_up(2, 666_000_666), level_up(3), level_up(4, 5000)]
    with application_engine.begin() as connection, pytest.raises(DBAPIError, match="disk full"):
        apply_commands(connection, batch)
    with application_engine.connect() as connection:
        assert totals(connection) == {}
        assert ledger(connection) == []


def test_a_lock_that_is_not_given_up_is_weather_for_the_caller(own_engine: Engine, own_database_url: str) -> None:
    with own_engine.begin() as connection:
        apply_commands(connection, [level_up(1), level_up(2)])
    with session(own_database_url) as holder, own_engine.begin() as connection:
        holder.execute("SELECT FROM specialization_progress WHERE student_id = 2 FOR UPDATE")
        connection.execute(text("SET LOCAL lock_timeout = 50"))
        with pytest.raises(DBAPIError) as raised:
            apply_commands(connection, [level_up(1), level_up(2)])
        assert isinstance(raised.value.orig, psycopg.errors.LockNotAvailable)
        assert totals(connection) == {1: 10, 2: 10}


def test_a_connection_that_died_is_invalidated(own_engine: Engine, own_database_url: str) -> None:
    with own_engine.connect() as connection:
        pid = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
        with psycopg.connect(own_database_url, autocommit=True) as admin:
            admin.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))
        with pytest.raises(DBAPIError):
            apply_commands(connection, [level_up(1)])
        assert connection.invalidated
    with own_engine.begin() as connection:
        assert [o.status for o in apply_commands(connection, [level_up(1)])] == ["applied"]


def test_a_database_without_the_tables_says_what_is_missing(blank_database_url: str, engines: Any) -> None:
    expected = r"table specialization_progress does not exist.*levelq db check"
    with engines(blank_database_url).begin() as connection, pytest.raises(SchemaError, match=expected):
        apply_commands(connection, [level_up(1)])


def test_ledger_rows_of_a_batch_share_its_id_and_transaction(own_engine: Engine) -> None:
    with own_engine.begin() as connection:
        xid = connection.execute(text("SELECT pg_current_xact_id()::text::bigint")).scalar_one()
        apply_commands(connection, [level_up(1), level_up(2)], source="import")
        rows = ledger(connection)
    assert {(row["xid"], row["source"]) for row in rows} == {(xid, "import")}
    assert len({row["batch"] for row in rows}) == 1
