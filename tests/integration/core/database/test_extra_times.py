"""`created_at` and `updated_at` of an application's own licenses and progressions, of which levelq makes rows."""

from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from levelq import Settings, level_up_atomic
from levelq_core.database.engine import engine_for
from levelq_worker.draining.context import Runtime
from tests.support.coupler import drain_all, push, put_rows
from tests.support.db_check import execute, findings, role
from tests.support.isolation import apply, batches, level_up

TABLES = ("user_licenses", "license_progressions")
LONG_AGO = "2001-02-03 04:05:06"


def add_times(engine: Engine, declared: str) -> None:
    execute(
        engine,
        *(f"ALTER TABLE {table} ADD {name} {declared}" for table in TABLES for name in ("created_at", "updated_at")),
    )


def times(engine: Engine, table: str) -> list[tuple[Any, Any]]:
    with engine.connect() as connection:
        found = connection.execute(text(f"SELECT created_at, updated_at FROM {table} ORDER BY id"))
        return [(row.created_at, row.updated_at) for row in found]


def two_learners(engine: Engine) -> None:
    for user in (1, 2):
        put_rows(engine, (user, "PLAYER"), 1)


def utc_now(engine: Engine) -> datetime:
    with engine.connect() as connection:
        return connection.execute(text("SELECT clock_timestamp() AT TIME ZONE 'UTC'")).scalar_one()  # type: ignore[no-any-return]


def in_utc(value: Any) -> Any:
    return value.astimezone(UTC).replace(tzinfo=None) if isinstance(value, datetime) and value.tzinfo else value


@pytest.mark.parametrize("declared", ["timestamp", "timestamptz", "date", "timestamp NOT NULL", "timestamptz NOT NULL"])
def test_made_rows_have_both_times_in_utc(application_engine: Engine, declared: str) -> None:
    add_times(application_engine, declared)
    begun = utc_now(application_engine)
    with Session(application_engine) as session:
        assert level_up_atomic(session, 1, "PLAYER", 1000)["success"]
    ended = utc_now(application_engine)
    for table in TABLES:
        ((created, updated),) = times(application_engine, table)
        assert created == updated
        if declared == "date":
            assert begun.date() <= created <= ended.date() and type(created) is date
        else:
            assert begun <= in_utc(created) <= ended


def test_updated_at_of_a_license_moves_when_its_level_does(application_engine: Engine) -> None:
    two_learners(application_engine)
    add_times(application_engine, f"timestamp NOT NULL DEFAULT '{LONG_AGO}'")
    begun = utc_now(application_engine)
    apply(application_engine, [level_up(1, 1000), level_up(2, 1)])
    (first, second) = times(application_engine, "user_licenses")
    assert str(first[0]) == LONG_AGO and first[1] >= begun
    assert [str(value) for value in second] == [LONG_AGO] * 2  # nothing of it changed


def test_trigger_that_sets_updated_at_has_the_last_word(application_engine: Engine) -> None:
    add_times(application_engine, "timestamp")
    execute(
        application_engine,
        f"CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS"
        f" $$ BEGIN NEW.updated_at := '{LONG_AGO}'; RETURN NEW; END $$",
        "CREATE TRIGGER touch BEFORE UPDATE ON user_licenses FOR EACH ROW EXECUTE FUNCTION touch()",
    )
    apply(application_engine, [level_up(1, 1000)])
    ((created, updated),) = times(application_engine, "user_licenses")
    assert str(updated) == LONG_AGO and str(created) != LONG_AGO


@pytest.mark.parametrize(
    "declared", ["timestamp GENERATED ALWAYS AS (started_at) STORED", "text", "bigint NOT NULL DEFAULT 7", "time"]
)
def test_column_that_is_no_plain_timestamp_is_left_alone(application_engine: Engine, declared: str) -> None:
    execute(application_engine, f"ALTER TABLE user_licenses ADD updated_at {declared}")
    assert [o.to_level for o in apply(application_engine, [level_up(1, 1000), level_up(1, 2000)])] == [2, 3]
    with application_engine.connect() as connection:
        found = connection.execute(text("SELECT updated_at, started_at FROM user_licenses")).one()
    expected = {"timestamp": found.started_at, "bigint": 7}.get(declared.split(maxsplit=1)[0])
    assert found.updated_at == expected


def test_check_on_updated_at_is_predicted_with_the_time_that_is_written(
    application_engine: Engine, worker_of: Callable[..., Runtime], application_database_url: str
) -> None:
    """Once a check constraint refused a command, it is evaluated beforehand, for each row as it would be written."""
    two_learners(application_engine)
    add_times(application_engine, f"timestamp NOT NULL DEFAULT '{LONG_AGO}'")
    execute(
        application_engine,
        "ALTER TABLE user_licenses ADD CONSTRAINT fresh CHECK"
        f" (current_level < 2 OR current_level < 4 AND updated_at > '{LONG_AGO}')",
    )
    worker = worker_of(application_database_url, claim_seconds=20)
    found = {}
    for commands in ([level_up(1, 10_000), level_up(2, 1)], [level_up(1, 1000), level_up(2, 10_000)]):
        push(worker, commands)
        drain_all(worker, "PLAYER")
        found = {w.lane.user_id: [d.error for d in w.decisions] for seen in batches(worker) for w in seen.works}
    assert found == {1: [None], 2: ["database_error"]}


def test_columns_that_the_role_may_not_write_are_left_alone(
    application_engine: Engine, application_database_url: str
) -> None:
    """As where the grants name the columns that levelq wrote before."""
    add_times(application_engine, "timestamp")
    named = "id, user_id, specialization_type, current_level, max_achieved_level, started_at, last_advanced_at"
    grants = (
        "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO narrow_worker",
        "GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO narrow_worker",
        "REVOKE INSERT, UPDATE ON user_licenses FROM narrow_worker",
        f"GRANT INSERT ({named}), UPDATE ({named}) ON user_licenses TO narrow_worker",
    )
    with role(application_engine, "narrow_worker", *grants):
        engine = engine_for(Settings.load(database_url=application_database_url.replace("postgres@", "narrow_worker@")))
        assert [o.to_level for o in apply(engine, [level_up(1, 1000), level_up(1, 2000)])] == [2, 3]
        engine.dispose()
    assert times(application_engine, "user_licenses") == [(None, None)]


def test_db_check_finds_no_fault_in_times_that_levelq_writes(application_engine: Engine) -> None:
    add_times(application_engine, "timestamp NOT NULL")
    execute(application_engine, "ALTER TABLE user_licenses ADD revoked_at timestamp NOT NULL")
    assert [found.problem for found in findings(application_engine) if "_at is NOT NULL" in found.problem] == [
        "user_licenses.revoked_at is NOT NULL without a default, and levelq gives it no value: inserts fail"
    ]
