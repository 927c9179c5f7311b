"""A rolling migration under load: real workers keep running while the tables change under them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import pytest

from levelq_core import LevelUp, Settings
from tests.support.fixtures.processes import Started
from tests.support.fixtures.waiting import until
from tests.support.system import System, up

USERS = range(1, 41)
NEWCOMERS = range(1001, 1041)  # no users of the application
OLD_TABLES = (
    "CREATE TABLE users (id int PRIMARY KEY)",
    "INSERT INTO users SELECT generate_series(1, 40)",
    "ALTER TABLE specialization_progress ALTER total_xp TYPE int,"
    " ADD CONSTRAINT fk_student FOREIGN KEY (student_id) REFERENCES users",
    "ALTER TABLE user_licenses ADD CONSTRAINT fk_user FOREIGN KEY (user_id) REFERENCES users",
    "ALTER TABLE license_progressions ALTER advancement_reason TYPE varchar(20)",
    "ALTER TABLE specialization_progress ADD CONSTRAINT few CHECK (completed_sessions < 1000)",
)


class Step(NamedTuple):
    """Statements of a migration, and the commands that the tables take only since then."""

    statements: Sequence[str]
    commands: Sequence[LevelUp]


STEPS = (
    Step(
        ("ALTER TABLE specialization_progress ALTER total_xp TYPE bigint",),
        [up(user, 2_147_483_647) for user in USERS],
    ),
    Step(
        ("ALTER TABLE license_progressions ALTER advancement_reason TYPE text",),
        [up(user, reason="longer than twenty characters") for user in USERS],
    ),
    Step(
        ("ALTER TABLE specialization_progress DROP CONSTRAINT few",),
        [up(user, sessions_completed=1000) for user in USERS],
    ),
    Step(
        (
            "ALTER TABLE specialization_progress DROP CONSTRAINT fk_student",
            "ALTER TABLE user_licenses DROP CONSTRAINT fk_user",
            "ALTER TABLE specialization_progress ADD season int NOT NULL DEFAULT 1",
        ),
        [up(user) for user in NEWCOMERS],
    ),
    Step(
        (
            "CREATE UNIQUE INDEX pairs ON specialization_progress (student_id, specialization_id)",
            "ALTER TABLE specialization_progress DROP CONSTRAINT specialization_progress_pair_key",
            "ALTER TABLE user_licenses RENAME COLUMN current_level TO level",
        ),
        [],
    ),
    Step(("ALTER TABLE user_licenses RENAME COLUMN level TO current_level",), []),
)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Small batches, so that the tables change in the midst of many."""
    return settings.model_copy(
        update={"claim_seconds": 2.0, "sweep_seconds": 0.2, "redis_seconds": 0.5, "batch_commands": 50}
    )


def test_no_valid_command_is_rejected_while_the_tables_migrate(start: Callable[..., Started], system: System) -> None:
    system.sql(*OLD_TABLES)
    start("worker", "--processes", "2")
    sent: list[LevelUp] = []

    def send(commands: Sequence[LevelUp]) -> None:
        assert not any(handle.error for handle in system.producer.send_many(commands))
        sent.extend(commands)

    for step in STEPS:
        send(list(load()))
        if step is not STEPS[-1]:  # before it, a column is missing and everything waits
            until(lambda: system.applied() > len(sent) - 100, what="most commands")
        for statement in step.statements:  # each in a transaction of its own: none waits with a lock held
            system.sql(statement)
        send([*step.commands, *load()])
    until(lambda: system.applied() == len(sent), seconds=60, what="all commands")
    assert system.rows("SELECT status, count(*) FROM levelq_ledger GROUP BY status") == [("applied", len(sent))]
    assert system.total_xp() == sum(command.xp_gained for command in sent)


def load() -> Iterator[LevelUp]:
    """What the tables take before each migration and after it."""
    return (up(user) for _ in range(4) for user in USERS)
