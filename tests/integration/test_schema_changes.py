"""Tables that change while workers and applications run: no command is rejected by what the tables were before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from levelq import Command, LevelUp, ProgressLicenseCoupler, SetLevel, SyncLevels, level_up_atomic
from levelq_core.commands import new_command_id
from levelq_worker.draining import Drain
from levelq_worker.runtime import Runtime
from tests.integration.coupler_support import drain_all, ledger, put_license, put_progress
from tests.integration.isolation_support import MISSING, PLAYER, apply, batches, decided, experience, push_at_once

FAR = 3_000_000_000  # no int4 holds it


class Migration(NamedTuple):
    """What makes the tables refuse a command, and the migration after which they take it."""

    before: tuple[str, ...]
    after: tuple[str, ...]
    command: Command


def level_up(user_id: int, xp: int = 10, **fields: object) -> LevelUp:
    return LevelUp(user_id=user_id, specialization="PLAYER", xp_gained=xp, **fields)  # type: ignore[arg-type]


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


def change(engine: Engine, *statements: str) -> None:
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))


def with_new_id(command: Command) -> Command:
    return command.model_copy(update={"command_id": new_command_id()})


def statuses(engine: Engine, user_id: int) -> list[str]:
    with engine.connect() as connection:
        return [row["status"] for row in ledger(connection) if row["user_id"] == user_id]


@pytest.fixture
def engine(application_engine: Engine) -> Engine:
    """With two learners, at level 1."""
    with application_engine.begin() as connection:
        for user in (1, 2):
            put_progress(connection, (user, "PLAYER"), 1)
            put_license(connection, (user, "PLAYER"), 1, 1)
    return application_engine


@pytest.fixture
def worker(application_database_url: str, worker_of: Callable[..., Runtime]) -> Runtime:
    return worker_of(application_database_url, claim_seconds=20)


# What was refused and is taken after a migration


@pytest.mark.parametrize("how", RELAXED)
def test_worker_applies_what_the_tables_take_since_a_migration(engine: Engine, worker: Runtime, how: str) -> None:
    before, after, command = RELAXED[how]
    change(engine, *before)
    for expected in (["rejected"], ["rejected", "applied"]):
        send(worker, [level_up(2), with_new_id(command)])
        assert statuses(engine, command.user_id) == expected
        if expected == ["rejected"]:
            change(engine, *after)
    assert statuses(engine, 2) == ["applied"] * 2


@pytest.mark.parametrize("how", RELAXED)
def test_apply_commands_applies_what_the_tables_take_since_a_migration(engine: Engine, how: str) -> None:
    before, after, command = RELAXED[how]
    change(engine, *before)
    assert [o.status for o in apply(engine, [level_up(2), with_new_id(command)])] == ["applied", "rejected"]
    change(engine, *after)
    assert [o.status for o in apply(engine, [level_up(2), with_new_id(command)])] == ["applied", "applied"]


@pytest.mark.parametrize("owned", [False, True])
@pytest.mark.parametrize("how", RELAXED)
def test_direct_call_applies_what_the_tables_take_since_a_migration(engine: Engine, how: str, owned: bool) -> None:
    before, after, command = RELAXED[how]
    change(engine, *before)
    assert call(engine, command, owned=owned) is False
    change(engine, *after)
    assert call(engine, command, owned=owned) is True


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
