"""Who is to blame for a failure: a command, the lane it is in, or the database.

An error that follows one lane is that lane's: its command is rejected if the error is provably about what the command
says; else the lane is parked with the reason and goes on once the cause is gone. An error of every lane is the
database's and costs no command.
"""

import logging
from collections.abc import Callable, Sequence

import pytest
from redis import Redis
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from levelq_core import Command, LevelUp, SetLevel, apply_commands, level_up_atomic
from levelq_core.lanes.parked import read as read_parked
from levelq_core.lanes.worker_alerts import read
from levelq_worker.draining.context import Runtime
from levelq_worker.draining.drain import Drain
from tests.support.coupler import drain_all, ledger, push, put_rows
from tests.support.fixtures.keys import KEYS
from tests.support.fixtures.waiting import until
from tests.support.isolation import (
    MISSING,
    PLAYER,
    apply,
    batches,
    decided,
    execute,
    experience,
    level_up,
    push_at_once,
    raising,
)

PROGRESS = "specialization_progress"
APPLIED, REJECTED = ("applied", None), ("rejected", "database_error")
NOT_THIS_ONE = "not this one (SQLSTATE P0001)"
DROP = "DROP TRIGGER object ON {}"


@pytest.fixture
def database_url(application_database_url: str) -> str:
    return application_database_url


@pytest.fixture
def worker(database_url: str, worker_of: Callable[..., Runtime]) -> Runtime:
    # However long a batch takes, the next one is as large.
    return worker_of(database_url, claim_seconds=20, slice_seconds=0.1, batch_seconds=600)


def all_applied(users: Sequence[int]) -> dict[int, list[tuple[str, str | None]]]:
    return {user: [APPLIED] for user in users}


def parked(worker: Runtime) -> dict[int, str]:
    """Of the last batch: the lanes that wait, with the reason; none of them for a lock."""
    found = {lane.work.lane.user_id: lane.reason for lane in batches(worker)[-1].parked}
    assert not any(lane.locked for lane in batches(worker)[-1].parked)
    return found


def drain(worker: Runtime, commands: Sequence[Command]) -> None:
    """Push these, and drain until a batch was committed or failed; its lanes are all in it."""
    push_at_once(worker, commands)
    run(worker)


def run(worker: Runtime) -> None:
    before = len(batches(worker))

    def drained() -> bool:
        Drain(worker, PLAYER).run()
        return len(batches(worker)) > before or worker.outage.bad

    until(drained, what="a batch")


def due(redis: Redis, *users: int) -> None:
    """As if their delay had passed."""
    redis.zadd(KEYS.of(PLAYER, "ready"), {str(user): 0 for user in users})


def drain_again(worker: Runtime, redis: Redis, *users: int) -> None:
    due(redis, *users)
    run(worker)


# The database is to blame


def test_sequence_at_its_end_charges_no_command(
    engine: Engine, worker: Runtime, redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    execute(engine, "SELECT setval('license_progressions_id_seq', 2147483647)")
    with caplog.at_level(logging.WARNING, "levelq"):
        drain(worker, [level_up(user, 1000) for user in range(1, 41)])
        run(worker)
    assert decided(engine) == {}
    assert experience(engine) == {}
    assert sum("license_progressions_id_seq" in line for line in caplog.messages) == 1
    assert any("license_progressions_id_seq" in notice.what for notice in read(redis, KEYS))
    status = worker.lanes.status(PLAYER)
    assert (status.waiting, status.ready, status.parked) == (40, 40, 0)
    execute(engine, "SELECT setval('license_progressions_id_seq', 1)")
    drain_all(worker, "PLAYER")
    assert decided(engine) == all_applied(range(1, 41))
    assert experience(engine) == dict.fromkeys(range(1, 41), 1000)


EVERY_LANE = {
    "a check that nothing passes": "ALTER TABLE specialization_progress ADD CHECK (false) NOT VALID",
    "a check on what no command sets": "ALTER TABLE user_licenses ADD CHECK (NOT is_active) NOT VALID",
    "a column without a default": "ALTER TABLE specialization_progress ADD COLUMN tenant int NOT NULL",
    "a missing column": "ALTER TABLE license_progressions RENAME COLUMN requirements_met TO requirements",
    "a trigger on every row": raising(PROGRESS, "INSERT OR UPDATE", "true"),
    "a trigger on the ledger": raising("levelq_ledger", "INSERT", "true"),
    "a foreign key of its own": (
        "CREATE TABLE tenants (id int PRIMARY KEY);"
        "ALTER TABLE user_licenses ADD COLUMN tenant_id int DEFAULT 1 REFERENCES tenants"
    ),
}


@pytest.mark.parametrize("how", EVERY_LANE)
def test_error_of_every_lane_charges_no_command(engine: Engine, worker: Runtime, how: str) -> None:
    worker.transactions.probe()  # the tables were read before
    execute(engine, EVERY_LANE[how])
    drain(worker, [level_up(user, 1000) for user in (1, 2, 3)])
    assert decided(engine) == {}
    assert worker.outage.bad
    assert worker.lanes.status(PLAYER).waiting == 3


def test_direct_call_raises_an_error_of_every_lane(engine: Engine) -> None:
    execute(engine, "SELECT setval('license_progressions_id_seq', 2147483647)")
    for users in ((1,), (1, 2, 3)):
        with pytest.raises(DBAPIError, match="license_progressions_id_seq"):
            apply(engine, [level_up(user, 1000) for user in users])
    assert decided(engine) == {}


def test_many_lanes_at_fault_in_front_do_not_pass_for_all(engine: Engine, worker: Runtime) -> None:
    """The first 30 of 100 fail, more than are needed to suspect the database; others are tried by chance."""
    execute(engine, raising(PROGRESS, "INSERT OR UPDATE", "NEW.student_id <= 30"))
    drain(worker, [level_up(user) for user in range(1, 101)])
    assert sorted(decided(engine)) == list(range(31, 101))
    assert sorted(parked(worker)) == list(range(1, 31))


def test_parked_lanes_that_come_back_hold_no_other_lane_up(
    database_url: str, engine: Engine, worker_of: Callable[..., Runtime], redis: Redis
) -> None:
    """A hundred whose error lasts, all due, and two whose commands pass; to a worker that has seen none of them."""
    execute(engine, raising(PROGRESS, "INSERT OR UPDATE", "NEW.student_id <= 100"))
    first, second = (worker_of(database_url, claim_seconds=60) for _ in range(2))
    drain(first, [level_up(user) for user in range(1, 201)])
    assert len(parked(first)) == 100
    due(redis, *range(1, 101))
    run(second)  # no lane passes, and none of them blames the database
    assert batches(second) and not second.outage.bad
    due(redis, *range(1, 101))
    push_at_once(second, [level_up(user) for user in (201, 202)])

    def others_are_applied() -> bool:
        Drain(second, PLAYER).run()
        assert not second.outage.bad
        return {201, 202} <= decided(engine).keys()

    until(others_are_applied, what="the others to be applied")
    assert read_parked(redis, KEYS, PLAYER).total == 100
    assert decided(engine).keys() == set(range(101, 203))


# The lane is to blame, and waits


def test_user_for_whom_a_trigger_raises_waits_alone(
    engine: Engine, worker: Runtime, redis: Redis, attempts: list[int]
) -> None:
    execute(engine, raising(PROGRESS, "INSERT OR UPDATE", "NEW.student_id = 13"))
    commands = [level_up(user) for user in range(1, 201)] + [level_up(13, 7)]
    drain(worker, commands)
    others = [user for user in range(1, 201) if user != 13]
    assert len(batches(worker)) == 1
    assert decided(engine) == all_applied(others)
    assert parked(worker) == {13: NOT_THIS_ONE}
    assert len(attempts) - 1 <= 2 * 8
    attempts.clear()
    push(worker, [level_up(user) for user in (12, 14)])
    drain_again(worker, redis, 12, 13, 14)  # it comes back, and is tried apart from the others
    assert parked(worker) == {13: NOT_THIS_ONE}
    assert attempts == [1, 1, 1, 1]  # of 13 all it has, then its first
    execute(engine, DROP.format(PROGRESS))
    drain_all(worker, "PLAYER")
    assert [row["xp"] for row in ledger(engine) if row["user_id"] == 13] == [10, 7]
    assert experience(engine)[13] == 17
    assert worker.lanes.status(PLAYER).waiting == 0


def test_only_lane_of_its_batch_waits_and_holds_nothing_up(engine: Engine, worker: Runtime, redis: Redis) -> None:
    execute(engine, raising(PROGRESS, "INSERT OR UPDATE", "NEW.student_id = 13"))
    drain(worker, [level_up(13), level_up(13)])
    assert parked(worker) == {13: NOT_THIS_ONE}
    assert decided(engine) == {}
    assert not worker.outage.bad
    execute(engine, DROP.format(PROGRESS))
    drain_again(worker, redis, 13)
    assert experience(engine) == {13: 20}


def test_lane_waits_from_the_command_at_fault_on(engine: Engine, worker: Runtime, redis: Redis) -> None:
    execute(engine, raising(PROGRESS, "UPDATE", "NEW.total_xp >= 33"))
    drain(worker, [level_up(1, 11), level_up(1, 22), level_up(1, 100), level_up(2)])
    assert parked(worker) == {1: NOT_THIS_ONE}
    assert experience(engine) == {1: 11, 2: 10}
    assert worker.lanes.status(PLAYER).waiting == 2
    execute(engine, DROP.format(PROGRESS))
    drain_again(worker, redis, 1)
    assert experience(engine) == {1: 133, 2: 10}


def test_level_changes_wait_while_their_sequence_is_at_its_end(engine: Engine, worker: Runtime, redis: Redis) -> None:
    apply(engine, [level_up(user, 0) for user in range(1, 21)])
    execute(engine, "SELECT setval('license_progressions_id_seq', 2147483647)")
    drain(worker, [level_up(user, 1000 if user in (5, 6, 17) else 1) for user in range(1, 21)])
    assert sorted(parked(worker)) == [5, 6, 17]
    assert all("license_progressions_id_seq" in reason for reason in parked(worker).values())
    assert sum(experience(engine).values()) == 17
    execute(engine, "SELECT setval('license_progressions_id_seq', 1)")
    drain_again(worker, redis, 5, 6, 17)
    assert sum(experience(engine).values()) == 3017
    assert {status for rows in decided(engine).values() for status, _ in rows} == {"applied"}


OBJECT_TO_13 = "IF {} THEN RAISE EXCEPTION 'not this one'; END IF"
LICENSE_OF_13 = "(SELECT user_id FROM user_licenses WHERE id = NEW.user_license_id) = 13"

# What is wrong with user 13 in the application's tables, and how it is fixed.
OF_ONE_LANE = {
    "a row that a constraint would not take any more": (
        "ALTER TABLE specialization_progress ADD CONSTRAINT most CHECK (total_xp < 50000) NOT VALID",
        "ALTER TABLE specialization_progress DROP CONSTRAINT most",
    ),
    "a constraint on what no command sets": (
        "ALTER TABLE user_licenses ADD CONSTRAINT active CHECK (is_active) NOT VALID",
        "UPDATE user_licenses SET is_active = true WHERE user_id = 13",
    ),
    "a trigger that sets what a constraint refuses": (
        "ALTER TABLE specialization_progress ADD CONSTRAINT enabled CHECK (enabled OR total_xp IS NULL);"
        + raising(PROGRESS, "UPDATE", "NEW.student_id = 13", does="NEW.enabled := false"),
        DROP.format(PROGRESS),
    ),
    "a constraint raised by a trigger": (
        raising(
            PROGRESS, "UPDATE", "NEW.student_id = 13",
            does="RAISE EXCEPTION 'no' USING ERRCODE = '23514', CONSTRAINT = 'ck_not_the_beast', "
            "TABLE = 'specialization_progress', SCHEMA = 'public'",
        ),
        DROP.format(PROGRESS),
    ),
    "an overflow within a trigger": (
        raising("user_licenses", "UPDATE", "NEW.user_id = 13", does="NEW.max_achieved_level := 2147483647 + NEW.id"),
        DROP.format("user_licenses"),
    ),
    "a unique key of its own": (
        "CREATE UNIQUE INDEX one_each ON specialization_progress (completed_sessions) WHERE completed_sessions > 0",
        "DROP INDEX one_each",
    ),
    "an exclusion": (
        "ALTER TABLE specialization_progress ADD EXCLUDE USING btree (completed_sessions WITH =)"
        " WHERE (completed_sessions > 0)",
        "ALTER TABLE specialization_progress DROP CONSTRAINT specialization_progress_completed_sessions_excl",
    ),
    "a trigger on the audit rows": (
        raising("license_progressions", "INSERT", "true", does=OBJECT_TO_13.format(LICENSE_OF_13)),
        DROP.format("license_progressions"),
    ),
    "a trigger on the ledger": (
        raising("levelq_ledger", "INSERT", "NEW.user_id = 13"), DROP.format("levelq_ledger")
    ),
    "a constraint trigger that waits for the commit": (
        "CREATE FUNCTION object() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'not this one'; END $$;"
        "CREATE CONSTRAINT TRIGGER object AFTER UPDATE ON user_licenses DEFERRABLE INITIALLY DEFERRED FOR EACH ROW"
        " WHEN (NEW.user_id = 13) EXECUTE FUNCTION object()",
        DROP.format("user_licenses"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("how", OF_ONE_LANE)
def test_error_of_one_lane_is_not_its_commands_fault(engine: Engine, worker: Runtime, redis: Redis, how: str) -> None:
    wrong, fixed = OF_ONE_LANE[how]
    with engine.begin() as connection:
        for user in range(8, 16):
            total_xp, sessions = (60_000 if user == 13 else 0), (7 if user == 9 else 0)
            put_rows(connection, (user, "PLAYER"), 1, total_xp=total_xp, completed_sessions=sessions)
        connection.execute(text("UPDATE user_licenses SET is_active = false WHERE user_id = 13"))
    execute(engine, wrong)
    commands = [level_up(user, 1000, sessions_completed=7 if user == 13 else 0) for user in range(8, 16)]
    drain(worker, [*commands, level_up(13, 1)])
    others = [user for user in range(8, 16) if user != 13]
    assert decided(engine) == all_applied(others)
    assert list(parked(worker)) == [13]
    execute(engine, fixed)
    due(redis, 13)
    drain_all(worker, "PLAYER")
    assert decided(engine)[13] == [APPLIED] * 2
    assert experience(engine)[13] == 61_001


RAISES_AT_COMMIT = (
    "CREATE FUNCTION object() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'not this one'; END $$;"
    "CREATE CONSTRAINT TRIGGER object AFTER {event} ON {table} DEFERRABLE INITIALLY DEFERRED FOR EACH ROW"
    " WHEN (NEW.student_id = 13) EXECUTE FUNCTION object()"
)
AT_COMMIT = {
    "made while workers run": (RAISES_AT_COMMIT.format(event="UPDATE", table="specialization_progress"),),
    "of another table": (
        "CREATE TABLE log (student_id int)",
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN INSERT INTO log VALUES (NEW.student_id); RETURN NULL; END $$",
        "CREATE TRIGGER note AFTER UPDATE ON specialization_progress FOR EACH ROW EXECUTE FUNCTION note()",
        RAISES_AT_COMMIT.format(event="INSERT", table="log"),
    ),
}


@pytest.mark.parametrize("how", AT_COMMIT)
def test_user_for_whom_a_commit_is_refused_waits_alone(engine: Engine, worker: Runtime, how: str) -> None:
    worker.transactions.probe()  # the tables were read before
    execute(engine, *AT_COMMIT[how])
    push_at_once(worker, [level_up(user) for user in range(10, 20)])

    def others_are_applied() -> bool:
        Drain(worker, PLAYER).run()
        return len(decided(engine)) == 9

    until(others_are_applied, what="the others to be applied")
    assert parked(worker) == {13: NOT_THIS_ONE}


def test_deferred_constraint_that_shares_its_name_with_another_tables_is_checked(
    engine: Engine, worker: Runtime
) -> None:
    execute(
        engine,
        "CREATE TABLE friends (user_id int CONSTRAINT fk_user REFERENCES users)",
        "ALTER TABLE specialization_progress DROP CONSTRAINT specialization_progress_student_id_fkey",
        "ALTER TABLE specialization_progress ADD CONSTRAINT fk_user FOREIGN KEY (student_id) REFERENCES users"
        " DEFERRABLE INITIALLY DEFERRED",
    )
    drain(worker, [level_up(1), level_up(MISSING), level_up(2)])
    assert decided(engine) == {1: [APPLIED], 2: [APPLIED], MISSING: [REJECTED]}


def test_rows_that_cannot_be_made_for_one_user_make_that_lane_wait(engine: Engine, worker: Runtime) -> None:
    execute(engine, raising("user_licenses", "INSERT", "NEW.user_id = 13"))
    drain(worker, [level_up(user) for user in range(10, 20)])
    assert list(parked(worker)) == [13]
    assert 13 not in experience(engine)
    assert len(decided(engine)) == 9


LEAVES_OUT = (
    (PROGRESS, "INSERT", "NEW.student_id = 13"),
    ("user_licenses", "INSERT", "NEW.user_id = 13"),
    (PROGRESS, "UPDATE", "NEW.student_id = 13"),
    ("user_licenses", "UPDATE", "NEW.user_id = 13"),
)


@pytest.mark.parametrize(("table", "event", "condition"), LEAVES_OUT)
def test_row_that_a_trigger_leaves_out_makes_that_lane_wait(
    engine: Engine, worker: Runtime, redis: Redis, table: str, event: str, condition: str
) -> None:
    """A trigger BEFORE that returns NULL raises no error: the row is not inserted, or stays as it was."""
    execute(engine, raising(table, event, condition, does="RETURN NULL"))
    drain(worker, [level_up(user, 1000) for user in range(10, 20)])
    assert list(parked(worker)) == [13]
    assert table in parked(worker)[13] and "trigger" in parked(worker)[13]
    assert decided(engine) == all_applied([user for user in range(10, 20) if user != 13])
    with Session(engine) as session:
        answer = level_up_atomic(session, 13, "PLAYER", 1000)
    assert not answer["success"] and table in answer["message"]
    assert 13 not in experience(engine)
    execute(engine, DROP.format(table))
    drain_again(worker, redis, 13)
    assert decided(engine)[13] == [APPLIED]


def test_direct_call_leaves_undecided_what_is_no_commands_fault(engine: Engine) -> None:
    execute(engine, raising(PROGRESS, "UPDATE", "NEW.total_xp >= 33"))
    commands = [level_up(1, 11), level_up(1, 22), level_up(2), level_up(1, 100)]
    outcomes = apply(engine, commands)
    assert [o.error for o in outcomes] == [None, "database_error", None, "database_error"]
    assert {o.message for o in outcomes if o.error} == {NOT_THIS_ONE}
    assert decided(engine) == {1: [APPLIED], 2: [APPLIED]}
    execute(engine, DROP.format(PROGRESS))
    again = apply(engine, commands)
    assert [(o.status, o.duplicate) for o in again] == [("applied", i in (0, 2)) for i in range(4)]
    assert experience(engine) == {1: 133, 2: 10}


def test_id_of_a_direct_call_may_be_used_again_if_its_failure_was_not_its_own(engine: Engine) -> None:
    execute(engine, raising(PROGRESS, "UPDATE", "NEW.student_id = 13"))
    command_id = level_up(13).command_id
    with Session(engine) as session:
        failed = level_up_atomic(session, 13, "PLAYER", 10, command_id=command_id)
        assert failed == {"success": False, "message": NOT_THIS_ONE, "error_type": "database_error"}
        execute(engine, DROP.format(PROGRESS))
        assert level_up_atomic(session, 13, "PLAYER", 10, command_id=command_id)["success"]
    assert decided(engine) == {13: [APPLIED]}


def test_callers_lock_timeout_is_as_it_was_after_many_at_fault(engine: Engine) -> None:
    execute(engine, raising(PROGRESS, "UPDATE", "NEW.student_id < 9"))
    with engine.begin() as connection:
        connection.execute(text("SET LOCAL lock_timeout = '7s'"))
        outcomes = apply_commands(connection, [level_up(user) for user in range(1, 41)])
        assert connection.execute(text("SHOW lock_timeout")).scalar_one() == "7s"
    assert [o.user_id for o in outcomes if o.error] == list(range(1, 9))


# The command is to blame, also alone


def rejected(engine: Engine, command: Command) -> str:
    """Send it between two others, then alone; both are rejected for good, with the same message."""
    alone = command.model_copy(update={"command_id": level_up(1).command_id})
    outcomes = apply(engine, [level_up(1, 1), command, level_up(3, 1)])
    assert [o.error for o in outcomes] == [None, "database_error", None]
    (again,) = apply(engine, [alone])
    assert (again.error, again.message) == ("database_error", outcomes[1].message)
    assert decided(engine)[command.user_id] == [REJECTED] * 2
    return again.message


CHECK = "ALTER TABLE {} ADD CONSTRAINT refuses CHECK ({})"
OF_THE_COMMAND: dict[str, tuple[str, Command]] = {
    "a check on a total": (CHECK.format(PROGRESS, "total_xp < 5000"), level_up(2, 5000)),
    "a check with a percent sign": (CHECK.format(PROGRESS, "total_xp % 1000 <> 7"), level_up(2, 7)),
    "a check on the license": (
        CHECK.format("user_licenses", "max_achieved_level < 5"),
        SetLevel(user_id=2, specialization="PLAYER", new_level=5),
    ),
    "a check on the audit row": (
        CHECK.format("license_progressions", "length(advancement_reason) < 9"),
        level_up(2, 1000, reason="much too long"),
    ),
    "a check beside a trigger": (
        CHECK.format(PROGRESS, "total_xp < 5000")
        + ";" + raising(PROGRESS, "UPDATE", "true", does="NEW.enabled := true"),
        level_up(2, 5000),
    ),
    "a check on a domain": (
        "CREATE DOMAIN points AS int CONSTRAINT refuses CHECK (VALUE < 5000);"
        "ALTER TABLE specialization_progress ALTER total_xp TYPE points",
        level_up(2, 5000),
    ),
    "a reason that is too long": (
        "ALTER TABLE license_progressions ADD short varchar(9) GENERATED ALWAYS AS (advancement_reason) STORED",
        level_up(2, 1000, reason="much too long"),
    ),
    "an overflow": (
        "ALTER TABLE specialization_progress ADD small smallint GENERATED ALWAYS AS (total_xp) STORED",
        level_up(2, 40_000),
    ),
    "an author who does not exist": ("SELECT 1", level_up(2, 1000, advanced_by=MISSING)),
    "a specialization that does not exist": (
        "CREATE TABLE kinds (code varchar PRIMARY KEY); INSERT INTO kinds VALUES ('PLAYER');"
        "ALTER TABLE specialization_progress ADD FOREIGN KEY (specialization_id) REFERENCES kinds",
        LevelUp(user_id=2, specialization="COACH", xp_gained=1),
    ),
}  # fmt: skip


@pytest.mark.parametrize("how", OF_THE_COMMAND)
def test_command_is_rejected_for_its_content(engine: Engine, how: str) -> None:
    refuses, command = OF_THE_COMMAND[how]
    execute(engine, refuses)
    message = rejected(engine, command.model_copy(update={"command_id": level_up(1).command_id}))
    assert "refuses" not in refuses or "refuses" in message
    assert 2 not in experience(engine)


# Many at fault


def test_every_second_command_that_a_check_refuses_is_rejected_in_one_batch(
    engine: Engine, worker: Runtime, attempts: list[int]
) -> None:
    execute(engine, "ALTER TABLE specialization_progress ADD CHECK (total_xp < 1000)")
    commands = [level_up(user, 1000 if (user + n) % 2 else 1) for n in range(4) for user in range(1, 201)]
    drain(worker, commands)
    assert {user: [error for _, error in rows] for user, rows in decided(engine).items()} == {
        user: ["database_error" if (user + n) % 2 else None for n in range(4)] for user in range(1, 201)
    }
    assert experience(engine) == dict.fromkeys(range(1, 201), 2)
    assert attempts == [200, 200]
    attempts.clear()
    drain(worker, [level_up(user, 1000 if user == 7 else 1) for user in range(1, 201)])
    assert attempts == [200]  # known beforehand
    assert decided(engine)[7][-1] == REJECTED


def test_check_that_was_dropped_meanwhile_refuses_nothing_more(engine: Engine, worker: Runtime) -> None:
    execute(engine, "ALTER TABLE specialization_progress ADD CONSTRAINT most CHECK (total_xp < 1000)")
    drain(worker, [level_up(1, 1000), level_up(2, 1)])
    execute(engine, "ALTER TABLE specialization_progress DROP CONSTRAINT most")
    drain(worker, [level_up(1, 1000), level_up(2, 1)])
    assert decided(engine)[1] == [REJECTED, APPLIED]
    execute(engine, "ALTER TABLE specialization_progress ADD CONSTRAINT most CHECK (total_xp < 3000)")
    drain(worker, [level_up(1, 1000), level_up(1, 1000), level_up(2, 1)])
    assert decided(engine)[1][2:] == [APPLIED, REJECTED]


def test_check_that_cannot_be_evaluated_apart_from_its_table(engine: Engine, worker: Runtime) -> None:
    execute(
        engine,
        "CREATE FUNCTION modest(p specialization_progress) RETURNS bool LANGUAGE sql AS 'SELECT p.total_xp < 1000'",
        "ALTER TABLE specialization_progress ADD CONSTRAINT modest CHECK (modest(specialization_progress))",
    )
    drain(worker, [level_up(user, 1000 if user == 5 else 1) for user in range(1, 9)])
    assert experience(engine) == {user: 1 for user in range(1, 9) if user != 5}
    assert list(parked(worker)) == [5]  # the whole row is no column that a command sets
