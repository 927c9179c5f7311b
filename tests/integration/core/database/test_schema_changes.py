"""Tables that change while workers and applications run: no command is rejected by what the tables were before."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import psycopg
import pytest
from redis import Redis
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from levelq import Command, LevelUp, ProgressLicenseCoupler, SetLevel, SyncLevels, apply_commands, level_up_atomic
from levelq_core.database import schema
from levelq_core.database.sqlstate import ErrorClass, classify
from levelq_core.domain.commands import new_command_id
from levelq_core.lanes.worker_alerts import read
from levelq_worker.draining.context import Runtime
from levelq_worker.draining.drain import Drain
from tests.support.coupler import drain_all, ledger, put_rows, session, wait_until_blocked_by
from tests.support.db_check import execute, query
from tests.support.fixtures.keys import KEYS
from tests.support.isolation import MISSING, PLAYER, apply, batches, decided, experience, level_up, push_at_once

FAR = 3_000_000_000  # no int4 holds it


class Migration(NamedTuple):
    """What makes the tables refuse a command, and the migration after which they take it."""

    before: tuple[str, ...]
    after: tuple[str, ...]
    command: Command


FOREIGN_KEYS = (
    "ALTER TABLE specialization_progress DROP CONSTRAINT specialization_progress_student_id_fkey",
    "ALTER TABLE user_licenses DROP CONSTRAINT user_licenses_user_id_fkey",
)
RELAXED = {
    "a total widened from int4 to int8": Migration(
        ("UPDATE specialization_progress SET total_xp = 2147483000",),
        ("ALTER TABLE specialization_progress ALTER total_xp TYPE bigint",),
        level_up(1, 1000),
    ),
    "a reason widened from varchar(20) to text": Migration(
        ("ALTER TABLE license_progressions ALTER advancement_reason TYPE varchar(20)",),
        ("ALTER TABLE license_progressions ALTER advancement_reason TYPE text",),
        level_up(1, 1000, reason="x" * 21),
    ),
    "a specialization's column widened": Migration(
        ("ALTER TABLE user_licenses ALTER specialization_type TYPE varchar(6)",),
        ("ALTER TABLE user_licenses ALTER specialization_type TYPE varchar(40)",),
        LevelUp(user_id=1, specialization="INTERNSHIP", xp_gained=1),
    ),
    "a user's columns widened": Migration(
        FOREIGN_KEYS,
        (
            "ALTER TABLE specialization_progress ALTER student_id TYPE bigint",
            "ALTER TABLE user_licenses ALTER user_id TYPE bigint",
        ),
        level_up(FAR),
    ),
    "an author's column widened": Migration(
        ("ALTER TABLE license_progressions DROP CONSTRAINT license_progressions_advanced_by_fkey",),
        ("ALTER TABLE license_progressions ALTER advanced_by TYPE bigint",),
        level_up(1, 1000, advanced_by=FAR),
    ),
    "a level's column widened": Migration(
        (
            "ALTER TABLE user_licenses ALTER current_level TYPE smallint",
            "UPDATE specialization_progress SET current_level = 40000 WHERE student_id = 1",
        ),
        ("ALTER TABLE user_licenses ALTER current_level TYPE int",),
        SyncLevels(user_id=1, specialization="PLAYER"),
    ),
    "foreign keys dropped": Migration((), FOREIGN_KEYS, level_up(MISSING)),
    "foreign keys that are no longer enforced": Migration(
        (),
        (
            "ALTER TABLE specialization_progress ALTER CONSTRAINT specialization_progress_student_id_fkey NOT ENFORCED",
            "ALTER TABLE user_licenses ALTER CONSTRAINT user_licenses_user_id_fkey NOT ENFORCED",
        ),
        level_up(MISSING),
    ),
    "foreign keys that lead to another table": Migration(
        (),
        (
            f"CREATE TABLE people AS SELECT {MISSING} AS id UNION SELECT id FROM users",
            "ALTER TABLE people ADD PRIMARY KEY (id)",
            *FOREIGN_KEYS,
            "ALTER TABLE specialization_progress ADD FOREIGN KEY (student_id) REFERENCES people",
            "ALTER TABLE user_licenses ADD FOREIGN KEY (user_id) REFERENCES people",
        ),
        level_up(MISSING),
    ),
    "an author's foreign key dropped": Migration(
        (),
        ("ALTER TABLE license_progressions DROP CONSTRAINT license_progressions_advanced_by_fkey",),
        level_up(1, 1000, advanced_by=MISSING),
    ),
    "a check dropped": Migration(
        ("ALTER TABLE specialization_progress ADD CONSTRAINT most CHECK (total_xp < 1000)",),
        ("ALTER TABLE specialization_progress DROP CONSTRAINT most",),
        level_up(1, 1000),
    ),
    "a check changed under the same name": Migration(
        ("ALTER TABLE user_licenses ADD CONSTRAINT most CHECK (current_level < 2)",),
        (
            "ALTER TABLE user_licenses DROP CONSTRAINT most",
            "ALTER TABLE user_licenses ADD CONSTRAINT most CHECK (current_level < 3)",
        ),
        SetLevel(user_id=1, specialization="PLAYER", new_level=2),
    ),
    "a check of a domain dropped": Migration(
        (
            "CREATE DOMAIN points AS int CONSTRAINT few CHECK (VALUE < 1000)",
            "ALTER TABLE specialization_progress ALTER total_xp TYPE points",
        ),
        ("ALTER DOMAIN points DROP CONSTRAINT few",),
        level_up(1, 1000),
    ),
    "a table exchanged for a wider one": Migration(
        ("UPDATE specialization_progress SET total_xp = 2147483000",),
        (
            "CREATE TABLE wider (LIKE specialization_progress INCLUDING ALL)",
            "ALTER TABLE wider ALTER total_xp TYPE bigint",
            "INSERT INTO wider SELECT * FROM specialization_progress",
            "ALTER TABLE specialization_progress RENAME TO older",
            "ALTER TABLE wider RENAME TO specialization_progress",
        ),
        level_up(1, 1000),
    ),
}


def with_new_id(command: Command) -> Command:
    return command.model_copy(update={"command_id": new_command_id()})


def statuses(engine: Engine, user_id: int) -> list[str]:
    return [row["status"] for row in ledger(engine) if row["user_id"] == user_id]


@pytest.fixture
def engine(application_engine: Engine) -> Engine:
    """With two learners, at level 1."""
    for user in (1, 2):
        put_rows(application_engine, (user, "PLAYER"), 1)
    return application_engine


@pytest.fixture
def worker(application_database_url: str, worker_of: Callable[..., Runtime]) -> Runtime:
    return worker_of(application_database_url, claim_seconds=20)


# What was refused and is taken after a migration


@pytest.mark.parametrize("how", RELAXED)
def test_worker_applies_what_the_tables_take_since_a_migration(engine: Engine, worker: Runtime, how: str) -> None:
    before, after, command = RELAXED[how]
    execute(engine, *before)
    for expected in (["rejected"], ["rejected", "applied"]):
        send(worker, [level_up(2), with_new_id(command)])
        assert statuses(engine, command.user_id) == expected
        if expected == ["rejected"]:
            execute(engine, *after)
    assert statuses(engine, 2) == ["applied"] * 2


@pytest.mark.parametrize("how", RELAXED)
def test_apply_commands_applies_what_the_tables_take_since_a_migration(engine: Engine, how: str) -> None:
    before, after, command = RELAXED[how]
    execute(engine, *before)
    assert [o.status for o in apply(engine, [level_up(2), with_new_id(command)])] == ["applied", "rejected"]
    execute(engine, *after)
    assert [o.status for o in apply(engine, [level_up(2), with_new_id(command)])] == ["applied", "applied"]


@pytest.mark.parametrize("owned", [False, True])
@pytest.mark.parametrize("how", RELAXED)
def test_direct_call_applies_what_the_tables_take_since_a_migration(engine: Engine, how: str, owned: bool) -> None:
    before, after, command = RELAXED[how]
    execute(engine, *before)
    assert call(engine, command, owned=owned) is False
    execute(engine, *after)
    assert call(engine, command, owned=owned) is True


@pytest.mark.parametrize("how", ["a total widened from int4 to int8", "foreign keys dropped"])
def test_migration_that_commits_while_a_batch_waits_for_its_lock_counts(
    engine: Engine, application_database_url: str, how: str
) -> None:
    before, after, command = RELAXED[how]
    execute(engine, *before)
    apply(engine, [level_up(2)])  # the tables were read before
    with session(application_database_url) as migration, ThreadPoolExecutor(1) as threads:
        for statement in after:
            migration.execute(statement)
        waiting = threads.submit(apply, engine, [with_new_id(command)])
        wait_until_blocked_by(application_database_url, migration)
        migration.commit()
        assert [outcome.status for outcome in waiting.result(timeout=20)] == ["applied"]


# What the tables take no more


def test_narrowed_total_refuses_its_own_command_only_and_names_the_bound(own_engine: Engine) -> None:
    apply(own_engine, [level_up(1), level_up(2)])
    execute(own_engine, "ALTER TABLE specialization_progress ALTER total_xp TYPE int")
    commands = [
        level_up(1, 5),
        *[level_up(2, 2_000_000_000)] * 1,
        with_new_id(level_up(2, 2_000_000_000)),
        level_up(2, 7),
    ]
    outcomes = apply(own_engine, commands)
    assert [o.error for o in outcomes] == [None, None, "validation_error", None]
    assert "would overflow its column (at most 2147483647)" in outcomes[2].message


def test_foreign_key_added_meanwhile_refuses_the_missing_user_only(engine: Engine, worker: Runtime) -> None:
    execute(engine, *FOREIGN_KEYS)
    send(worker, [level_up(1), level_up(MISSING)])
    execute(
        engine,
        f"INSERT INTO users (id) VALUES ({MISSING})",
        "ALTER TABLE specialization_progress ADD FOREIGN KEY (student_id) REFERENCES users",
        "ALTER TABLE user_licenses ADD FOREIGN KEY (user_id) REFERENCES users",
    )
    send(worker, [level_up(1), level_up(MISSING), level_up(MISSING + 1)])
    assert decided(engine) == {
        1: [("applied", None)] * 2,
        MISSING: [("applied", None)] * 2,
        MISSING + 1: [("rejected", "database_error")],
    }
    assert "is not in users" in ledger(engine)[-1]["message"]


# What changes nothing for the commands


UNHARMED = {
    "a column that is NOT NULL with a default": (
        "ALTER TABLE specialization_progress ADD season int NOT NULL DEFAULT 1",
        "ALTER TABLE user_licenses ADD season int NOT NULL DEFAULT 1",
        "ALTER TABLE license_progressions ADD season int NOT NULL DEFAULT 1",
    ),
    "unique constraints exchanged for indexes": (
        "CREATE UNIQUE INDEX progress_pairs ON specialization_progress (student_id, specialization_id)",
        "CREATE UNIQUE INDEX license_pairs ON user_licenses (user_id, specialization_type)",
        "ALTER TABLE specialization_progress DROP CONSTRAINT uq_progress_student_specialization",
        "ALTER TABLE user_licenses DROP CONSTRAINT uq_license_user_specialization",
    ),
    "indexes built again": ("REINDEX TABLE specialization_progress", "REINDEX TABLE user_licenses"),
    "the text of the requirements becomes JSON": (
        "ALTER TABLE license_progressions ALTER requirements_met TYPE jsonb USING requirements_met::jsonb",
    ),
    "the users' ids widened": ("ALTER TABLE users ALTER id TYPE bigint",),
    "the users' table renamed": ("ALTER TABLE users RENAME TO people",),
    "the users' column renamed": ("ALTER TABLE users RENAME COLUMN id TO number",),
}


@pytest.mark.parametrize("how", UNHARMED)
def test_worker_goes_on_through_a_migration_with_its_next_batch(engine: Engine, worker: Runtime, how: str) -> None:
    """Its statements were prepared before: psycopg does so at the sixth time."""
    for user in range(10, 17):
        send(worker, [level_up(user, 1000, advanced_by=1)])
    execute(engine, *UNHARMED[how])
    send(worker, [level_up(user, 5000, advanced_by=2) for user in range(10, 20)])
    assert not any(seen.parked for seen in batches(worker))
    assert experience(engine) | {1: 0, 2: 0} == {
        **dict.fromkeys(range(10, 17), 6000), **dict.fromkeys(range(17, 20), 5000), 1: 0, 2: 0
    }  # fmt: skip


def test_users_ids_widened_are_no_obstacle_to_a_connection_that_prepared_its_statements(
    engine: Engine, attempts: list[int]
) -> None:
    with engine.connect() as connection:
        for user in range(10, 17):
            apply_commands(connection, [level_up(user)])
            connection.commit()
        execute(engine, "ALTER TABLE users ALTER id TYPE bigint")
        attempts.clear()
        outcomes = apply_commands(connection, [level_up(user) for user in range(17, 25)])
        connection.commit()
    assert {outcome.status for outcome in outcomes} == {"applied"}
    assert attempts == [8]


def test_statement_whose_results_changed_their_types_is_a_transient_failure(
    engine: Engine, application_database_url: str
) -> None:
    with session(application_database_url) as prepared:
        statement = "SELECT current_level FROM user_licenses"
        prepared.execute(statement, prepare=True)
        prepared.commit()
        execute(engine, "ALTER TABLE user_licenses ALTER current_level TYPE bigint")
        with pytest.raises(psycopg.errors.FeatureNotSupported) as raised:
            prepared.execute(statement)
    assert classify(raised.value) is ErrorClass.TRANSIENT


@pytest.mark.parametrize("how", UNHARMED)
def test_direct_call_goes_on_through_a_migration(engine: Engine, how: str) -> None:
    with Session(engine) as session_:
        coupler = ProgressLicenseCoupler(session_)
        for user in range(10, 17):
            assert coupler.update_level_atomic(user, "PLAYER", 2, advanced_by=1)["success"]
        execute(engine, *UNHARMED[how])
        for user in (10, 17):
            assert coupler.update_level_atomic(user, "PLAYER", 3, advanced_by=2)["success"]


def test_consistency_is_reported_after_a_level_changed_its_type(engine: Engine) -> None:
    """The statement was prepared before, and PostgreSQL refuses a prepared one whose columns change their types."""
    with engine.connect() as connection, Session(connection) as session_:
        coupler = ProgressLicenseCoupler(session_)
        for _ in range(7):
            assert coupler.validate_consistency(1, "PLAYER")["message"] == "Both at level 1"
        session_.commit()
        execute(engine, "ALTER TABLE user_licenses ALTER current_level TYPE bigint")
        assert coupler.validate_consistency(1, "PLAYER")["message"] == "Both at level 1"


def test_renamed_column_makes_commands_wait_until_it_is_back(engine: Engine, worker: Runtime, redis: Redis) -> None:
    send(worker, [level_up(1), level_up(2)])
    execute(engine, "ALTER TABLE specialization_progress RENAME COLUMN total_xp TO points")
    push_at_once(worker, [level_up(1), level_up(2, 2_147_483_647)])
    Drain(worker, PLAYER).step()
    assert worker.outage.bad
    assert ["total_xp" in notice.what for notice in read(redis, KEYS)] == [True]
    with Session(engine) as session_:
        refused = level_up_atomic(session_, 1, "PLAYER", 10)
        assert refused["message"].startswith("specialization_progress has no column total_xp")
    execute(engine, "ALTER TABLE specialization_progress RENAME COLUMN points TO total_xp")
    drain_all(worker, "PLAYER")
    assert decided(engine) == {
        1: [("applied", None)] * 2, 2: [("applied", None), ("rejected", "validation_error")]
    }  # fmt: skip


# What the comparison costs, and what is noticed without a rejection


def test_batch_that_rejects_many_compares_the_tables_once(engine: Engine, asked: list[str]) -> None:
    users = range(1, 101)
    apply(engine, [level_up(user) for user in users])
    assert asked.count("fingerprint") == 1  # as they were read
    asked.clear()
    apply(engine, [level_up(user) for user in users])
    assert asked == []
    outcomes = apply(engine, [level_up(user, 2_147_483_647) for user in users for _ in range(3)])
    assert {outcome.error for outcome in outcomes} == {"validation_error"}
    assert asked == ["fingerprint"]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is asked of the catalogs of PostgreSQL."""
    found: list[str] = []
    execute = psycopg.Cursor.execute

    def noted(cursor: Any, query: Any, *args: Any, **options: Any) -> Any:
        if "pg_attribute" in str(query) or "pg_constraint" in str(query):
            found.append("fingerprint" if "md5" in str(query) else "the tables")
        return execute(cursor, query, *args, **options)

    monkeypatch.setattr(psycopg.Cursor, "execute", noted)
    return found


def test_total_that_becomes_numeric_keeps_its_fraction_once_the_tables_were_compared(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply(engine, [level_up(1)])
    execute(
        engine,
        "ALTER TABLE specialization_progress ALTER total_xp TYPE numeric(12, 2)",
        "UPDATE specialization_progress SET total_xp = 10.75",
    )
    monkeypatch.setattr(schema, "COMPARE_SECONDS", 0.0)
    apply(engine, [level_up(1)])
    ((total,),) = query(engine, "SELECT total_xp FROM specialization_progress WHERE student_id = 1")
    assert str(total) == "20.75"


def call(engine: Engine, command: Command, *, owned: bool) -> bool:
    with Session(engine) as session:
        if owned:
            session.begin()
        coupler = ProgressLicenseCoupler(session)
        lane = (command.user_id, command.specialization)
        if isinstance(command, SetLevel):
            result: object = coupler.update_level_atomic(*lane, command.new_level)
        elif isinstance(command, SyncLevels):
            result = coupler.sync_existing_records_atomic(*lane, command.source)
        elif command.advanced_by:
            result = coupler.update_level_atomic(*lane, 2, advanced_by=command.advanced_by)
        else:
            assert isinstance(command, LevelUp)
            result = level_up_atomic(session, *lane, command.xp_gained, reason=command.reason)
        session.commit()
    return bool(result["success"])  # type: ignore[index]


def send(worker: Runtime, commands: Sequence[Command]) -> None:
    by_name: dict[str, list[Command]] = {}
    for command in commands:
        by_name.setdefault(command.specialization, []).append(command)
    for name, same in by_name.items():
        push_at_once(worker, same, type(PLAYER)(name))
    drain_all(worker, *by_name)
