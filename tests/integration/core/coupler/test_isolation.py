"""One command at fault, or a batch that takes too long: only it pays, its neighbours in lane and batch do not."""

import logging
import math
import random
from collections.abc import Callable

import psycopg
import pytest
from psycopg import errors
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from levelq_core import Catalog, LevelUp, SetLevel
from levelq_core.coupler.apply import group_by_lane
from levelq_worker.draining.context import Runtime
from levelq_worker.draining.drain import Drain
from tests.support.coupler import apply_batch, drain_all, push, put_rows
from tests.support.fixtures.waiting import until
from tests.support.isolation import (
    DEPTH,
    MISSING,
    PLAYER,
    USERS,
    apply,
    batches,
    burst,
    decided,
    execute,
    experience,
    level_up,
    order,
    push_at_once,
    raising,
    sent,
)


@pytest.fixture
def database_url(application_database_url: str) -> str:
    return application_database_url


APPLIED, REJECTED = ("applied", None), ("rejected", "database_error")


# Data the database refuses


def test_bad_command_within_a_lane_within_a_batch_costs_itself_alone(engine: Engine, attempts: list[int]) -> None:
    lanes, depth = 64, 8
    batch = [
        level_up(user, 1) if n < 4 else level_up(user, 0, sessions_completed=n)
        for n in range(depth)
        for user in range(1, lanes + 1)
    ]
    bad = batch[3 * lanes + 29] = level_up(30, 666_000_663)
    outcomes = apply(engine, batch)
    assert [o.command_id for o in outcomes] == [c.command_id for c in batch]
    (refused,) = [o for o in outcomes if o.status == "rejected"]
    assert (refused.command_id, refused.error) == (bad.command_id, "database_error")
    assert 'violates check constraint "ck_not_the_beast"' in refused.message
    assert experience(engine) == {user: 3 if user == 30 else 4 for user in range(1, lanes + 1)}
    assert [o.after and o.after.completed_sessions for o in outcomes if o.user_id == 30][4:] == [4, 9, 15, 22]
    assert order(engine)[30] == [c.command_id for c in batch if c.user_id == 30]
    assert len(attempts) - 1 <= 2 * math.log2(lanes * depth) + 1  # and one attempt more to write the refusal


def test_every_lane_may_hold_a_bad_command(engine: Engine) -> None:
    batch = [level_up(user, xp, sessions_completed=1) for user in range(1, 21) for xp in (6, 666_000_660, 0)]
    outcomes = apply(engine, batch)
    assert [o.error for o in outcomes] == [None, "database_error", None] * 20
    assert experience(engine) == dict.fromkeys(range(1, 21), 6)


def test_missing_user_refuses_the_whole_lane_at_once(engine: Engine, attempts: list[int]) -> None:
    batch = [level_up(user) for _ in range(5) for user in (1, MISSING, 2)]
    outcomes = apply(engine, batch)
    assert [o.error for o in outcomes] == [None, "database_error", None] * 5
    assert {o.message for o in outcomes if o.error} == {
        f"user {MISSING} is not in users: insert into specialization_progress violates foreign key constraint "
        "specialization_progress_student_id_fkey"
    }
    assert experience(engine) == {1: 50, 2: 50}
    assert attempts == [3]


def test_refused_lane_is_refused_again_when_sent_again(engine: Engine) -> None:
    command = level_up(MISSING)
    (first,) = apply(engine, [command])
    execute(engine, f"INSERT INTO users (id) VALUES ({MISSING})")
    (again,) = apply(engine, [command])
    (another,) = apply(engine, [level_up(MISSING)])
    assert (again.error, again.message, again.duplicate) == ("database_error", first.message, True)
    assert another.status == "applied"


def test_command_of_an_unknown_author_is_rejected_alone(engine: Engine) -> None:
    bad = level_up(1, 1500, advanced_by=MISSING)
    outcomes = apply(engine, [level_up(1, 1000), bad, level_up(1, 20), level_up(2, 1000, advanced_by=2)])
    assert [o.error for o in outcomes] == [None, "database_error", None, None]
    assert "license_progressions_advanced_by_fkey" in outcomes[1].message
    assert experience(engine) == {1: 1020, 2: 1000}


DEFER = "ALTER TABLE license_progressions ALTER CONSTRAINT license_progressions_advanced_by_fkey"


def test_command_of_an_unknown_author_is_rejected_alone_by_a_deferred_constraint(
    engine: Engine, database_url: str, worker_of: Callable[..., Runtime]
) -> None:
    """Applications made with Django have every foreign key DEFERRABLE INITIALLY DEFERRED."""
    execute(engine, f"{DEFER} DEFERRABLE INITIALLY DEFERRED")
    worker = worker_of(database_url, claim_seconds=20, slice_seconds=0.5)
    push(worker, [level_up(1, 1000, advanced_by=MISSING), level_up(1, 20), level_up(2, 30)])
    Drain(worker, PLAYER).run()
    assert decided(engine) == {1: [REJECTED, APPLIED], 2: [APPLIED]}


@pytest.mark.parametrize("kind", ["own", "application"])
def test_command_that_a_trigger_refuses_costs_itself_alone(request: pytest.FixtureRequest, kind: str) -> None:
    engine: Engine = request.getfixturevalue(f"{kind}_engine")
    does = "RAISE EXCEPTION 'not\ntoday' USING ERRCODE = '23514', CONSTRAINT = 'no_tuesdays'"
    execute(engine, raising("specialization_progress", "UPDATE", "NEW.total_xp = 77", does=does))
    outcomes = apply(engine, [level_up(1), level_up(2, 77), level_up(3)])
    assert [o.error for o in outcomes] == [None, "database_error", None]
    assert "no_tuesdays" in outcomes[1].message
    assert "\n" not in outcomes[1].message
    assert experience(engine) == {1: 10, 3: 10}


def test_unique_key_of_the_application_rejects_one_command(engine: Engine) -> None:
    execute(engine, "CREATE UNIQUE INDEX one_each ON specialization_progress (total_xp) WHERE total_xp > 0")
    outcomes = apply(engine, [level_up(1, 5), level_up(2, 6), level_up(3, 5), level_up(4, 7)])
    assert [o.error for o in outcomes] == [None, None, "database_error", None]
    assert "one_each" in outcomes[2].message


def test_value_that_its_column_cannot_hold_is_rejected(engine: Engine) -> None:
    most = 2**31 - 1
    total = [level_up(1, most), level_up(1, 1)]
    reasons = [level_up(2, 1, reason="r" * length) for length in (255, 256)]
    ids = [level_up(3, 1, advanced_by=2**31), level_up(2**31, 1)]
    outcomes = apply(engine, [*total, *reasons, *ids, level_up(4, 1)])
    assert [o.error for o in outcomes] == [None, "validation_error", None, *["validation_error"] * 3, None]
    assert [o.message for o in outcomes if o.error] == [
        f"total_xp: {most} +1 would overflow its column (at most {most})",
        "reason: expected at most 255 characters, as the column holds, got 256",
        f"advanced_by: expected at most {most}, as the column holds, got {2**31}",
        f"user_id: expected at most {most}, as the column holds, got {2**31}",
    ]
    assert experience(engine) == {1: most, 2: 1, 4: 1}


def test_specialization_that_its_column_cannot_hold_is_rejected(engine: Engine) -> None:
    name = "ABCDEFGHIJKLMNOPQRSTUVWXY"
    catalog = Catalog.of({name: {"levels": [0, 10]}, "PLAYER": {"levels": [0, 10]}})
    commands = [LevelUp(user_id=1, specialization=name, xp_gained=1), level_up(1)]
    outcomes = apply(engine, commands, catalog=catalog)
    assert [o.error for o in outcomes] == ["validation_error", None]
    assert outcomes[0].message == f"specialization: expected at most 20 characters, got {name!r}"


def test_total_at_the_top_of_bigint_goes_down_only(own_engine: Engine) -> None:
    most = 2**63 - 1
    put_rows(own_engine, (1, "PLAYER"), 8, total_xp=most)
    lower = SetLevel(user_id=1, specialization="PLAYER", new_level=8, xp_change=-1)
    outcomes = apply(own_engine, [level_up(1, 1), lower])
    assert outcomes[0].message == f"total_xp: {most} +1 would overflow its column (at most {most})"
    assert experience(own_engine) == {1: most - 1}


# At the size of a burst: thousands of commands over 500 lanes, in one claim and one transaction

_chance = random.Random(3)
BAD_ONES = {
    "the first": {(1, 0)},  # of all the one that is looked for longest
    "one in the middle": {(250, 5)},
    # In one lane, in neighbours, at both ends, and anywhere.
    "many": {(1, 0), (1, 9), (2, 0), (500, 9)} | {(_chance.choice(USERS), _chance.randrange(DEPTH)) for _ in range(8)},
}


@pytest.mark.parametrize("bad", BAD_ONES.values(), ids=BAD_ONES)
def test_bad_commands_among_5000_cost_themselves_alone(
    engine: Engine, database_url: str, worker_of: Callable[..., Runtime], attempts: list[int], bad: set[tuple[int, int]]
) -> None:
    worker = worker_of(database_url, claim_seconds=60)
    commands = burst(DEPTH, bad)
    push_at_once(worker, commands)
    Drain(worker, PLAYER).run()
    (batch,) = batches(worker)
    assert sum(len(work.records) for work in batch.works) == len(commands) == 5000
    assert len(attempts) - 1 <= len(bad) * 2 * math.log2(5000)
    expected = {user: [REJECTED if (user, n) in bad else APPLIED for n in range(DEPTH)] for user in USERS}
    assert decided(engine) == expected
    assert experience(engine) == {user: expected[user].count(APPLIED) for user in USERS}
    assert order(engine) == sent(commands)
    assert worker.lanes.status(PLAYER).waiting == 0


# Batches that take too long


# Which statements a trigger slows by 20 ms a row, for how many users. The limits are 800 ms a statement and
# 1,200 a transaction: a batch passes one 400 ms before it could pass the other, however busy the machine.
_TABLES = ("specialization_progress", "user_licenses", "license_progressions")
SLOWED = {
    "statement": (["INSERT ON specialization_progress"], 60),
    "transaction": ([f"INSERT OR UPDATE ON {table}" for table in _TABLES], 16),
}


@pytest.mark.parametrize("limit", SLOWED)
def test_batch_that_takes_too_long_is_halved(
    own_engine: Engine,
    own_database_url: str,
    worker_of: Callable[..., Runtime],
    caplog: pytest.LogCaptureFixture,
    limit: str,
) -> None:
    slowed, users = SLOWED[limit]
    slow = (
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.02); RETURN NEW; END $$"
    )
    triggers = [f"CREATE TRIGGER slow BEFORE {event} FOR EACH ROW EXECUTE FUNCTION slow()" for event in slowed]
    execute(own_engine, slow, *triggers)
    worker = worker_of(own_database_url, claim_seconds=2)
    push(worker, [level_up(user, 1000) for user in range(1, users + 1)])
    with caplog.at_level(logging.WARNING, "levelq"):
        drain_all(worker, "PLAYER")
    assert f"batch of {users} halved: " in caplog.text
    assert f"due to {limit} timeout" in caplog.text
    assert "waiting: " not in caplog.text
    assert experience(own_engine) == dict.fromkeys(range(1, users + 1), 1000)
    assert decided(own_engine) == {user: [APPLIED] for user in range(1, users + 1)}


def test_error_does_not_turn_the_limit_of_a_transaction_off(
    database_url: str, worker_of: Callable[..., Runtime]
) -> None:
    """The server does, even if a savepoint caught it: a batch with bad commands could outlive its claims."""
    worker = worker_of(database_url, claim_seconds=2)

    def wait() -> None:
        """Between two attempts, until the server has ended the transaction and its session."""
        with psycopg.connect(database_url, autocommit=True) as observer:  # a transaction would see the same rows again
            workers = (
                "SELECT FROM pg_stat_activity WHERE application_name = 'levelq worker' AND datname = current_database()"
            )
            until(lambda: observer.execute(workers).fetchone() is None, what="the server to end the transaction")

    works = group_by_lane([level_up(1, 1000), level_up(2, 1000, advanced_by=MISSING)])
    with pytest.raises(DBAPIError) as ended:
        apply_batch(worker.transactions, works, between=wait)
    assert isinstance(ended.value.orig, errors.TransactionTimeout)
