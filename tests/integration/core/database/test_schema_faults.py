"""Tables that changed under running workers: no command pays for it, and all are applied once the tables are fixed."""

import logging
from collections.abc import Callable
from uuid import uuid4

import pytest
from redis import Redis
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from levelq_core import level_up_atomic
from levelq_core.lanes.parked import read as read_parked
from levelq_worker.draining.context import Runtime
from levelq_worker.draining.drain import Drain
from tests.support.coupler import drain_all
from tests.support.db_check import execute, role
from tests.support.fixtures.keys import KEYS
from tests.support.isolation import PLAYER, apply, decided, experience, level_up, push_at_once

WITH_ROWS, WITHOUT_LICENSE, NEW = 1, 2, 3  # users


def no_default(table: str, declared: str) -> tuple[str, str, str]:
    """A new column without a default."""
    name, kind, value = declared.split()
    alter = f"ALTER TABLE {table}"
    column = f"{alter} ALTER COLUMN {name}"
    added = f"{alter} ADD COLUMN {name} {kind} NOT NULL DEFAULT {value}; {column} DROP DEFAULT"
    return added, "SQLSTATE 23502", f"{column} SET DEFAULT {value}"


# What a deployment does to the tables, the words of the database, and what fixes it.
FAULTS = {
    "a column of the licenses without a default": no_default("user_licenses", "region text ''"),
    "a column of the progress without a default": no_default("specialization_progress", "school int 0"),
    "a column of the progressions without a default": no_default("license_progressions", "office text ''"),
    "an author that must be given": (
        "ALTER TABLE license_progressions ALTER COLUMN advanced_by SET NOT NULL",
        "SQLSTATE 23502",
        "ALTER TABLE license_progressions ALTER COLUMN advanced_by DROP NOT NULL",
    ),
    "a column that was renamed": (
        "ALTER TABLE user_licenses RENAME COLUMN max_achieved_level TO best_level",
        "",
        "ALTER TABLE user_licenses RENAME COLUMN best_level TO max_achieved_level",
    ),
    "a table that was renamed": (
        "ALTER TABLE license_progressions RENAME TO old_progressions",
        "",
        "ALTER TABLE old_progressions RENAME TO license_progressions",
    ),
}
# Those that concern only users whose rows must be made.
OF_NEW_ROWS = ["a column of the licenses without a default", "a column of the progress without a default"]


@pytest.fixture
def worker(application_database_url: str, worker_of: Callable[..., Runtime]) -> Runtime:
    return worker_of(application_database_url)


@pytest.fixture
def learner(application_engine: Engine) -> Engine:
    """User 1 has both rows, user 2 has progress alone."""
    apply(application_engine, [level_up(WITH_ROWS, 0), level_up(WITHOUT_LICENSE, 0)])
    execute(application_engine, f"DELETE FROM user_licenses WHERE user_id = {WITHOUT_LICENSE}")
    execute(application_engine, "DELETE FROM levelq_ledger")
    return application_engine


@pytest.mark.parametrize("fault", FAULTS)
def test_command_of_a_user_alone_is_not_charged_for_a_fault_of_the_tables(
    fault: str, learner: Engine, worker: Runtime, redis: Redis
) -> None:
    worker.transactions.probe()  # the tables were read before
    breaking, words, fix = FAULTS[fault]
    execute(learner, *breaking.split("; "))
    push_at_once(worker, [level_up(NEW, 1000), level_up(NEW, 7)])
    Drain(worker, PLAYER).run()
    assert decided(learner) == {}
    assert worker.lanes.status(PLAYER).waiting == 2
    if not worker.outage.bad:
        (parked,) = read_parked(redis, KEYS, PLAYER).lanes
        assert words in parked.reason
    execute(learner, fix)
    redis.zadd(KEYS.of(PLAYER, "ready"), {str(NEW): 0})  # as if its delay had passed
    drain_all(worker, "PLAYER")
    assert decided(learner) == {NEW: [("applied", None)] * 2}
    assert experience(learner)[NEW] == 1007


@pytest.mark.parametrize("fault", OF_NEW_ROWS)
def test_users_with_both_rows_go_on_while_those_without_wait_for_the_tables(
    fault: str, learner: Engine, worker: Runtime, redis: Redis
) -> None:
    worker.transactions.probe()
    breaking, _, fix = FAULTS[fault]
    execute(learner, *breaking.split("; "))
    push_at_once(worker, [level_up(user, 1000) for user in (WITH_ROWS, WITHOUT_LICENSE, NEW)])
    Drain(worker, PLAYER).run()
    assert {row for rows in decided(learner).values() for row in rows} == {("applied", None)}
    assert WITH_ROWS in decided(learner) and NEW not in decided(learner)
    execute(learner, fix)
    redis.zadd(KEYS.of(PLAYER, "ready"), {str(user): 0 for user in (WITHOUT_LICENSE, NEW)})
    drain_all(worker, "PLAYER")
    assert decided(learner) == {user: [("applied", None)] for user in (WITH_ROWS, WITHOUT_LICENSE, NEW)}


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_of_every_lane_is_logged_once_and_charges_nothing(
    fault: str, learner: Engine, worker: Runtime, caplog: pytest.LogCaptureFixture
) -> None:
    worker.transactions.probe()
    breaking, _, fix = FAULTS[fault]
    execute(learner, *breaking.split("; "))
    push_at_once(worker, [level_up(user, 1000) for user in range(10, 40)])
    with caplog.at_level(logging.WARNING, "levelq"):
        for _ in range(3):
            Drain(worker, PLAYER).run()
    assert decided(learner) == {}
    messages = [line for line in caplog.messages if line.startswith("waiting: ")]
    # The database's message, then levelq's once the tables were read again.
    assert messages and len(messages) == len(set(messages)) <= 2
    assert worker.lanes.status(PLAYER).parked == 0
    execute(learner, fix)
    drain_all(worker, "PLAYER")
    assert decided(learner) == {user: [("applied", None)] for user in range(10, 40)}


@pytest.mark.parametrize("fault", FAULTS)
def test_direct_call_on_broken_tables_is_a_database_error_and_its_id_may_be_used_again(
    fault: str, learner: Engine
) -> None:
    breaking, _, fix = FAULTS[fault]
    execute(learner, *breaking.split("; "))
    command_id = uuid4()
    with Session(learner) as session:
        answer = level_up_atomic(session, NEW, "PLAYER", 1000, command_id=command_id)
    assert (answer["success"], answer.get("error_type")) == (False, "database_error")
    assert decided(learner) == {}
    execute(learner, fix)
    with Session(learner) as session:
        assert level_up_atomic(session, NEW, "PLAYER", 1000, command_id=command_id)["success"]
    assert decided(learner) == {NEW: [("applied", None)]}


@pytest.mark.parametrize("fault", OF_NEW_ROWS)
def test_batch_call_leaves_what_the_tables_refuse_undecided_and_applies_the_rest(fault: str, learner: Engine) -> None:
    breaking, _, fix = FAULTS[fault]
    execute(learner, *breaking.split("; "))
    batch = [level_up(WITH_ROWS, 1000), level_up(NEW, 1000)]
    outcomes = apply(learner, batch)
    assert [outcome.error for outcome in outcomes] == [None, "database_error"]
    with pytest.raises(DBAPIError, match="violates not-null constraint"):
        apply(learner, batch[1:])
    assert decided(learner) == {WITH_ROWS: [("applied", None)]}
    execute(learner, fix)
    assert [outcome.status for outcome in apply(learner, batch[1:])] == ["applied"]


def test_right_that_was_revoked_from_running_workers_charges_no_command(
    learner: Engine, application_database_url: str, worker_of: Callable[..., Runtime]
) -> None:
    name = "levelq_revoked"
    grants = [f"GRANT ALL ON ALL {kind} IN SCHEMA public TO {name}" for kind in ("TABLES", "SEQUENCES")]
    with role(learner, name, *grants):
        worker = worker_of(application_database_url.replace("//postgres@", f"//{name}@"))
        worker.transactions.probe()
        execute(learner, f"REVOKE INSERT ON user_licenses FROM {name}")
        push_at_once(worker, [level_up(user, 1000) for user in (WITH_ROWS, WITHOUT_LICENSE, NEW)])
        Drain(worker, PLAYER).run()
        assert decided(learner) == {WITH_ROWS: [("applied", None)]}
        execute(learner, f"GRANT INSERT ON user_licenses TO {name}")
        worker.lanes.redis.zadd(KEYS.of(PLAYER, "ready"), {str(user): 0 for user in (WITHOUT_LICENSE, NEW)})
        drain_all(worker, "PLAYER")
        assert decided(learner) == {user: [("applied", None)] for user in (WITH_ROWS, WITHOUT_LICENSE, NEW)}
