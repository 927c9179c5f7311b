"""One command, one lane or one entry at fault: only it pays, its neighbours in lane and batch do not."""

from __future__ import annotations

import logging
import math
import random
import struct
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack
from hashlib import blake2b, sha256
from typing import Any
from uuid import UUID

import pytest
from psycopg import errors
from redis import Redis
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from levelq_core import Catalog, Command, LevelUp, Outcome, SetLevel, Settings, apply_commands
from levelq_core.apply import gather
from levelq_core.codec import Lane, encode
from levelq_core.isolate import Isolation
from levelq_core.partitions import Partition
from levelq_core.sqlstate import Meaning, classify
from levelq_worker.batch import LONGEST_ASIDE, Batch
from levelq_worker.draining import Drain
from levelq_worker.embedded import Servers
from levelq_worker.runtime import Runtime
from tests.fixtures.waiting import until
from tests.integration.coupler_support import (
    Observed,
    Seen,
    drain_all,
    ledger,
    push,
    push_bare,
    push_raw,
    put_license,
    put_progress,
    runtime,
    session,
    tables,
)

PLAYER = Partition("PLAYER")
MISSING = 5000  # no such user in the application's schema


def level_up(user_id: int, xp: int = 10, **fields: Any) -> LevelUp:
    return LevelUp(user_id=user_id, specialization="PLAYER", xp_gained=xp, **fields)


def apply(engine: Engine, commands: Sequence[Command]) -> list[Outcome]:
    with engine.begin() as connection:
        return apply_commands(connection, commands)


def experience(engine: Engine) -> dict[int, int]:
    with engine.connect() as connection:
        return {user: row["total_xp"] for (user, _), row in tables(connection).progress.items()}


def after_a_drain(worker: Runtime, engine: Engine) -> dict[int, int]:
    Drain(worker, PLAYER).run()
    return experience(engine)


def decided(engine: Engine) -> dict[int, list[tuple[str, str | None]]]:
    """Per user, in the order of effect: the status and the error of each command."""
    found: dict[int, list[tuple[str, str | None]]] = {}
    with engine.connect() as connection:
        for row in ledger(connection):
            found.setdefault(row["user_id"], []).append((row["status"], row["error"]))
    return found


@pytest.fixture
def attempts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many lanes each attempt at a batch took."""
    made: list[int] = []
    attempt = Isolation._attempt

    def counted(self: Isolation, works: Any, *args: Any) -> Any:
        made.append(len(works))
        return attempt(self, works, *args)

    monkeypatch.setattr(Isolation, "_attempt", counted)
    return made


@pytest.fixture
def lock_waits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of each attempt that waited for a lock in vain: how long, in ms."""
    waited: list[int] = []
    attempt = Isolation._attempt

    def timed(self: Isolation, *args: Any) -> Exception | None:
        self._cursor.execute("SELECT setting::int FROM pg_settings WHERE name = 'lock_timeout'")
        ((limit,),) = self._cursor.fetchall()
        error = attempt(self, *args)
        if error is not None and classify(error) is Meaning.LOCKED:
            waited.append(limit)
        return error

    monkeypatch.setattr(Isolation, "_attempt", timed)
    return waited


@pytest.fixture
def delays(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How long lanes were put aside each time, in ms."""
    found: list[int] = []
    aside_ms = Batch._aside_ms

    def noted(self: Batch, *args: Any) -> int:
        found.append(aside_ms(self, *args))
        return found[-1]

    monkeypatch.setattr(Batch, "_aside_ms", noted)
    return found


@pytest.fixture
def worker_of(servers: Servers, redis: Redis) -> Iterator[Callable[..., Runtime]]:
    """Make workers whose limits are short: a lock is waited for 100 ms."""
    with ExitStack() as stack:

        def make(url: str, **given: Any) -> Runtime:
            given = {"claim_seconds": 1, "redis_seconds": 0.5} | given
            settings = Settings.load(redis_url=servers.valkey.url, database_url=url, **given)
            return stack.enter_context(runtime(settings))

        yield make


# Data the database refuses


def test_a_bad_command_in_the_middle_of_a_lane_in_the_middle_of_a_batch(
    application_engine: Engine, attempts: list[int]
) -> None:
    lanes, depth = 64, 8
    batch = [
        level_up(user, 1) if n < 4 else level_up(user, 0, sessions_completed=n)
        for n in range(depth)
        for user in range(1, lanes + 1)
    ]
    bad = batch[3 * lanes + 29] = level_up(30, 663)
    outcomes = apply(application_engine, batch)
    assert [o.command_id for o in outcomes] == [c.command_id for c in batch]
    (refused,) = [o for o in outcomes if o.status == "rejected"]
    assert (refused.command_id, refused.error) == (bad.command_id, "database_error")
    assert 'violates check constraint "ck_not_the_beast"' in refused.message
    assert experience(application_engine) == {user: 3 if user == 30 else 4 for user in range(1, lanes + 1)}
    assert [o.after and o.after.completed_sessions for o in outcomes if o.user_id == 30][4:] == [4, 9, 15, 22]
    with application_engine.connect() as connection:
        order = [row["command_id"] for row in ledger(connection) if row["user_id"] == 30]
    assert order == [c.command_id for c in batch if c.user_id == 30]
    assert len(attempts) - 1 <= 2 * math.log2(lanes * depth) + 1  # and one attempt more to write the refusal


def test_every_lane_may_hold_a_bad_command(application_engine: Engine) -> None:
    batch = [level_up(user, xp, sessions_completed=1) for user in range(1, 21) for xp in (6, 660, 0)]
    outcomes = apply(application_engine, batch)
    assert [o.error for o in outcomes] == [None, "database_error", None] * 20
    assert experience(application_engine) == dict.fromkeys(range(1, 21), 6)


def test_a_missing_user_refuses_the_whole_lane_at_once(application_engine: Engine, attempts: list[int]) -> None:
    batch = [level_up(user) for _ in range(5) for user in (1, MISSING, 2)]
    outcomes = apply(application_engine, batch)
    assert [o.error for o in outcomes] == [None, "database_error", None] * 5
    assert {o.message for o in outcomes if o.error} == {
        f"user {MISSING} is not in users: insert into specialization_progress violates foreign key constraint "
        "specialization_progress_student_id_fkey"
    }
    assert experience(application_engine) == {1: 50, 2: 50}
    assert attempts == [3]


def test_a_refused_lane_is_refused_again_when_sent_again(application_engine: Engine) -> None:
    command = level_up(MISSING)
    (first,) = apply(application_engine, [command])
    with application_engine.begin() as connection:
        connection.execute(text(f"INSERT INTO users (id) VALUES ({MISSING})"))
    (again,) = apply(application_engine, [command])
    (anew,) = apply(application_engine, [level_up(MISSING)])
    assert (again.error, again.message, again.duplicate) == ("database_error", first.message, True)
    assert anew.status == "applied"


def test_an_author_who_does_not_exist(application_engine: Engine) -> None:
    batch: list[Command] = [
        level_up(1, 1000),
        level_up(1, 1500, advanced_by=MISSING),
        level_up(1, 20),
        level_up(2, 1000, advanced_by=2),
    ]
    outcomes = apply(application_engine, batch)
    assert [o.error for o in outcomes] == [None, "database_error", None, None]
    assert "license_progressions_advanced_by_fkey" in outcomes[1].message
    assert experience(application_engine) == {1: 1020, 2: 1000}


DEFER = "ALTER TABLE license_progressions ALTER CONSTRAINT license_progressions_advanced_by_fkey {}"


def test_an_author_who_does_not_exist_and_a_constraint_that_waits_for_commit(
    application_engine: Engine, application_database_url: str, worker_of: Callable[..., Runtime]
) -> None:
    """Applications made with Django have every foreign key DEFERRABLE INITIALLY DEFERRED."""
    with application_engine.begin() as connection:
        connection.execute(text(DEFER.format("DEFERRABLE INITIALLY DEFERRED")))
    worker = worker_of(application_database_url, slice_seconds=0.5)
    push(worker, [level_up(1, 1000, advanced_by=MISSING), level_up(1, 20), level_up(2, 30)])
    Drain(worker, PLAYER).run()
    assert decided(application_engine) == {
        1: [("rejected", "database_error"), ("applied", None)],
        2: [("applied", None)],
    }


@pytest.mark.parametrize("kind", ["own", "application"])
def test_a_trigger_that_objects(request: pytest.FixtureRequest, kind: str) -> None:
    engine: Engine = request.getfixturevalue(f"{kind}_engine")
    with engine.begin() as connection:
        connection.execute(
            text("""
                CREATE FUNCTION object() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                    RAISE EXCEPTION 'not
                    today' USING ERRCODE = '23514', CONSTRAINT = 'no_tuesdays';
                END $$;
                CREATE TRIGGER object BEFORE UPDATE ON specialization_progress FOR EACH ROW
                    WHEN (NEW.total_xp = 77) EXECUTE FUNCTION object();
            """)
        )
    outcomes = apply(engine, [level_up(1), level_up(2, 77), level_up(3)])
    assert [o.error for o in outcomes] == [None, "database_error", None]
    assert "no_tuesdays" in outcomes[1].message
    assert "\n" not in outcomes[1].message
    assert experience(engine) == {1: 10, 3: 10}


def test_a_unique_constraint_of_the_applications_own_is_data(application_engine: Engine) -> None:
    with application_engine.begin() as connection:
        connection.execute(
            text("CREATE UNIQUE INDEX one_each ON specialization_progress (total_xp) WHERE total_xp > 0")
        )
    outcomes = apply(application_engine, [level_up(1, 5), level_up(2, 6), level_up(3, 5), level_up(4, 7)])
    assert [o.error for o in outcomes] == [None, None, "database_error", None]
    assert "one_each" in outcomes[2].message


def test_what_the_columns_cannot_hold(application_engine: Engine) -> None:
    most = 2**31 - 1
    outcomes = apply(
        application_engine,
        [
            level_up(1, most),
            level_up(1, 1),
            level_up(2, 1, reason="r" * 255),
            level_up(2, 1, reason="r" * 256),
            level_up(3, 1, advanced_by=2**31),
            level_up(2**31, 1),
            level_up(4, 1),
        ],
    )
    assert [o.error for o in outcomes] == [None, *["validation_error"] * 1, None, *["validation_error"] * 3, None]
    assert [o.message for o in outcomes if o.error] == [
        f"total_xp: {most} +1 would overflow its column (at most {most})",
        "reason: expected at most 255 characters, as the column holds, got 256",
        f"advanced_by: expected at most {most}, as the column holds, got {2**31}",
        f"user_id: expected at most {most}, as the column holds, got {2**31}",
    ]
    assert experience(application_engine) == {1: most, 2: 1, 4: 1}


def test_a_name_that_its_column_cannot_hold(application_engine: Engine) -> None:
    name = "ABCDEFGHIJKLMNOPQRSTUVWXY"
    catalog = Catalog.parse({name: {"levels": [0, 10]}, "PLAYER": {"levels": [0, 10]}})
    commands: list[Command] = [LevelUp(user_id=1, specialization=name, xp_gained=1), level_up(1)]
    with application_engine.begin() as connection:
        outcomes = apply_commands(connection, commands, catalog=catalog)
    assert [o.error for o in outcomes] == ["validation_error", None]
    assert outcomes[0].message == f"specialization: expected at most 20 characters, got {name!r}"


def test_a_total_at_the_top_of_bigint(own_engine: Engine) -> None:
    most = 2**63 - 1
    with own_engine.begin() as connection:
        put_progress(connection, (1, "PLAYER"), 8, total_xp=most)
        put_license(connection, (1, "PLAYER"), 8, 8)
    outcomes = apply(
        own_engine, [level_up(1, 1), SetLevel(user_id=1, specialization="PLAYER", new_level=8, xp_change=-1)]
    )
    assert outcomes[0].message == f"total_xp: {most} +1 would overflow its column (at most {most})"
    assert experience(own_engine) == {1: most - 1}


# Rows held by others


def test_a_lane_whose_row_is_locked_waits_and_the_others_do_not(
    own_engine: Engine, own_database_url: str, worker_of: Callable[..., Runtime], attempts: list[int]
) -> None:
    worker = worker_of(own_database_url)
    users = range(1, 51)
    apply(own_engine, [level_up(user) for user in users])
    attempts.clear()
    push(worker, [level_up(user) for user in users for _ in range(2)])
    with session(own_database_url) as holder:
        holder.execute("SELECT FROM user_licenses WHERE user_id = 25 FOR UPDATE")
        Drain(worker, PLAYER).run()
        assert experience(own_engine) == {user: 10 if user == 25 else 30 for user in users}
        assert attempts[:2] == [50, 49]  # one lock timeout, then all the others in one go
        status = worker.lanes.status(PLAYER)
        assert (status.waiting, status.ready + status.parked, status.claimed) == (2, 1, 0)
    drain_all(worker, "PLAYER")
    assert experience(own_engine)[25] == 30
    assert worker.lanes.status(PLAYER).waiting == 0


@pytest.mark.parametrize("kind", ["own", "application"])
def test_a_row_inserted_but_not_yet_committed(
    request: pytest.FixtureRequest, kind: str, worker_of: Callable[..., Runtime]
) -> None:
    """Nobody sees the row, yet making it would have to wait: the lane is found by halves."""
    engine: Engine = request.getfixturevalue(f"{kind}_engine")
    url: str = request.getfixturevalue(f"{kind}_database_url")
    worker = worker_of(url)
    users = range(1, 17)
    push(worker, [level_up(user) for user in users])
    with session(url) as holder:
        holder.execute(
            "INSERT INTO specialization_progress (student_id, specialization_id, current_level, total_xp, created_at)"
            " VALUES (5, 'PLAYER', 1, 500, now())"
        )
        others = {user: 10 for user in users if user != 5}
        until(lambda: after_a_drain(worker, engine) == others, what="the others to be applied")
        assert 5 not in decided(engine)
        holder.commit()
    drain_all(worker, "PLAYER")
    assert experience(engine) == others | {5: 510}


def test_a_user_row_held_by_the_application(
    application_engine: Engine, application_database_url: str, worker_of: Callable[..., Runtime]
) -> None:
    worker = worker_of(application_database_url)
    push(worker, [level_up(user) for user in (1, 2, 3, 4)])
    with session(application_database_url) as holder:
        holder.execute("SELECT FROM users WHERE id = 2 FOR UPDATE")
        others = dict.fromkeys((1, 3, 4), 10)
        until(lambda: after_a_drain(worker, application_engine) == others, what="the others to be applied")
        assert worker.lanes.status(PLAYER).waiting == 1
    drain_all(worker, "PLAYER")
    assert experience(application_engine) == others | {2: 10}


def test_a_locked_lane_with_a_bad_command_keeps_its_order(
    application_engine: Engine, application_database_url: str, worker_of: Callable[..., Runtime]
) -> None:
    worker = worker_of(application_database_url)
    apply(application_engine, [level_up(user, 6) for user in (1, 2, 3)])
    push(worker, [level_up(2, 1000), level_up(2, 20), level_up(1, 660), level_up(1, 0), level_up(3)])
    with session(application_database_url) as holder:
        holder.execute("SELECT FROM specialization_progress WHERE student_id = 2 FOR UPDATE")
        Drain(worker, PLAYER).run()
        assert experience(application_engine) == {1: 6, 2: 6, 3: 16}
    drain_all(worker, "PLAYER")
    assert experience(application_engine) == {1: 6, 2: 1026, 3: 16}
    assert decided(application_engine)[1][1:] == [("rejected", "database_error"), ("applied", None)]


def test_the_longer_a_row_stays_locked_the_rarer_its_lane_is_tried(
    own_engine: Engine, own_database_url: str, worker_of: Callable[..., Runtime], delays: list[int]
) -> None:
    """Two workers in turn, neither of which knows how often the other had the lane."""
    workers = [worker_of(own_database_url) for _ in range(2)]
    lock_ms = workers[0].settings.lock_ms
    apply(own_engine, [level_up(1)])
    push(workers[0], [level_up(1, xp) for xp in (1000, 0, 1500)])
    with session(own_database_url) as holder:
        holder.execute("SELECT FROM specialization_progress WHERE student_id = 1 FOR UPDATE")

        def tried_rarely() -> bool:
            for worker in workers:
                Drain(worker, PLAYER).run()
            return len(delays) > 2 and delays[-1] > 2 * lock_ms  # more than when it is put aside for the first time

        until(tried_rarely, what="the delay to grow")
        assert max(delays) <= LONGEST_ASIDE * lock_ms
        assert experience(own_engine) == {1: 10}
    drain_all(workers[1], "PLAYER")
    assert experience(own_engine) == {1: 2510}
    with own_engine.connect() as connection:
        assert [row["xp"] for row in ledger(connection)] == [10, 1000, 0, 1500]


# At the size of a burst: thousands of commands over 500 lanes, in one claim and one transaction

USERS = range(1, 501)
DEPTH = 10


def burst(depth: int, bad: Collection[tuple[int, int]] = ()) -> list[LevelUp]:
    """Round by round one command for every user; the bad ones (user, round) have an author who does not exist."""
    return [
        level_up(user, 1000, advanced_by=MISSING) if (user, n) in bad else level_up(user, 1)
        for n in range(depth)
        for user in USERS
    ]


def push_at_once(worker: Runtime, commands: Sequence[Command]) -> None:
    lanes: dict[int, list[bytes]] = {}
    for command in commands:
        lanes.setdefault(command.user_id, []).append(encode(command))
    (answer,) = worker.lanes.push([(PLAYER, list(lanes.items()))])
    assert not isinstance(answer, Exception) and {why for _, why in answer.lanes} == {""}


def batches(worker: Runtime) -> list[Seen]:
    assert isinstance(worker.transaction, Observed)
    return worker.transaction.seen


def order(engine: Engine) -> dict[int, list[UUID]]:
    """Per user, the commands in the order of effect."""
    found: dict[int, list[UUID]] = {}
    with engine.connect() as connection:
        for row in ledger(connection):
            found.setdefault(row["user_id"], []).append(row["command_id"])
    return found


def sent(commands: Sequence[Command]) -> dict[int, list[UUID]]:
    found: dict[int, list[UUID]] = {}
    for command in commands:
        found.setdefault(command.user_id, []).append(command.command_id)
    return found


_chance = random.Random(3)
BAD_ONES = {
    "the first": {(1, 0)},  # of all the one that is looked for longest
    "one in the middle": {(250, 5)},
    # In one lane, in neighbours, at both ends, and anywhere.
    "many": {(1, 0), (1, 9), (2, 0), (500, 9)} | {(_chance.choice(USERS), _chance.randrange(DEPTH)) for _ in range(8)},
}


@pytest.mark.parametrize("bad", BAD_ONES.values(), ids=BAD_ONES)
def test_bad_commands_among_5000_cost_themselves_alone(
    application_engine: Engine,
    application_database_url: str,
    worker_of: Callable[..., Runtime],
    attempts: list[int],
    bad: set[tuple[int, int]],
) -> None:
    worker = worker_of(application_database_url, claim_seconds=60)
    commands = burst(DEPTH, bad)
    push_at_once(worker, commands)
    Drain(worker, PLAYER).run()
    (batch,) = batches(worker)
    assert sum(len(work.records) for work in batch.works) == len(commands) == 5000
    assert len(attempts) - 1 <= len(bad) * 2 * math.log2(5000)
    expected = {
        user: [("rejected", "database_error") if (user, n) in bad else ("applied", None) for n in range(DEPTH)]
        for user in USERS
    }
    assert decided(application_engine) == expected
    assert experience(application_engine) == {user: expected[user].count(("applied", None)) for user in USERS}
    assert order(application_engine) == sent(commands)
    assert worker.lanes.status(PLAYER).waiting == 0


# How foreign code holds something of user 137, whose rows may be there or not.
HOLDS = {
    "a row": (True, "SELECT FROM user_licenses WHERE user_id = 137 FOR UPDATE"),
    "an insert": (
        False,
        "INSERT INTO specialization_progress (student_id, specialization_id, current_level, total_xp, created_at)"
        " VALUES (137, 'PLAYER', 1, 0, now())",
    ),
    "a user": (False, "SELECT FROM users WHERE id = 137 FOR UPDATE"),
}


@pytest.mark.parametrize("how", HOLDS)
def test_of_500_lanes_the_others_wait_for_one_lock_timeout(
    application_engine: Engine,
    application_database_url: str,
    worker_of: Callable[..., Runtime],
    redis: Redis,
    lock_waits: list[int],
    how: str,
) -> None:
    there, held = HOLDS[how]
    if there:
        apply(application_engine, [level_up(user, 0) for user in USERS])
    worker = worker_of(application_database_url, claim_seconds=60)
    lock_ms = 500  # that limit alone is short: on a busy machine the others must not come first
    worker.transaction._limits = (str(lock_ms), *worker.transaction._limits[1:])
    commands = burst(2)
    push_at_once(worker, commands)
    with session(application_database_url) as holder:
        holder.execute(held)
        Drain(worker, PLAYER).run()
        (batch,) = batches(worker)
        assert [work.lane.user_id for work in batch.aside] == [137]
        assert lock_waits[0] == lock_ms
        assert sum(lock_waits[1:]) <= lock_ms / 2  # to find it, where it cannot be seen
        assert experience(application_engine) | {137: 0} == dict.fromkeys(USERS, 2) | {137: 0}
        status = worker.lanes.status(PLAYER)
        assert (status.waiting, status.ready + status.parked, status.claimed) == (2, 1, 0)
    redis.zadd(PLAYER.key("ready"), {"137": 0})  # as if its delay had passed
    Drain(worker, PLAYER).run()
    assert experience(application_engine)[137] == 2
    assert {user: ids[-2:] for user, ids in order(application_engine).items()} == sent(commands)


# Batches that take too long


# Which statements a trigger slows by 20 ms a row, for how many users. The limits are 800 ms a statement and
# 1,200 a transaction: a batch passes one 400 ms before it could pass the other, however busy the machine.
SLOWED = {
    "statement": (["INSERT ON specialization_progress"], 60),
    "transaction": (
        [
            f"INSERT OR UPDATE ON {table}"
            for table in ("specialization_progress", "user_licenses", "license_progressions")
        ],
        16,
    ),
}


@pytest.mark.parametrize("limit", SLOWED)
def test_a_batch_that_takes_too_long_is_halved(
    own_engine: Engine,
    own_database_url: str,
    worker_of: Callable[..., Runtime],
    caplog: pytest.LogCaptureFixture,
    limit: str,
) -> None:
    slowed, users = SLOWED[limit]
    with own_engine.begin() as connection:
        connection.execute(
            text(
                "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS"
                " $$ BEGIN PERFORM pg_sleep(0.02); RETURN NEW; END $$"
            )
        )
        for event in slowed:
            connection.execute(text(f"CREATE TRIGGER slow BEFORE {event} FOR EACH ROW EXECUTE FUNCTION slow()"))
    worker = worker_of(own_database_url, claim_seconds=2)
    push(worker, [level_up(user, 1000) for user in range(1, users + 1)])
    with caplog.at_level(logging.WARNING, "levelq"):
        drain_all(worker, "PLAYER")
    assert f"batch of {users} halved: " in caplog.text
    assert f"due to {limit} timeout" in caplog.text
    assert "waiting: " not in caplog.text
    assert experience(own_engine) == dict.fromkeys(range(1, users + 1), 1000)
    assert decided(own_engine) == {user: [("applied", None)] for user in range(1, users + 1)}


def test_an_error_does_not_turn_the_limit_of_a_transaction_off(
    application_database_url: str, worker_of: Callable[..., Runtime]
) -> None:
    """The server does, even if a savepoint caught it: a batch with bad commands could outlive its claims."""
    worker = worker_of(application_database_url, claim_seconds=4)

    def wait() -> None:
        """Between two attempts, until the server has ended the transaction and its session."""
        with session(application_database_url) as observer:
            query = (
                "SELECT FROM pg_stat_activity WHERE application_name = 'levelq worker' AND datname = current_database()"
            )
            until(lambda: observer.execute(query).fetchone() is None, what="the server to end the transaction")

    works = gather([level_up(1, 1000), level_up(2, 1000, advanced_by=MISSING)])
    with pytest.raises(DBAPIError) as ended:
        worker.transaction.apply(works, [], wait)
    assert isinstance(ended.value.orig, errors.TransactionTimeout)


# Rubbish in a lane


def entry(
    user_id: int,
    kind: int = 1,
    *,
    by: int = 0,
    level: int = 0,
    numbers: Sequence[int] = (1, 0, 0, 0, 0),
    reason: bytes = b"",
    version: int = 1,
) -> bytes:
    """An encoded command, made by hand so that anything can be wrong with it; its digest is right."""
    body = struct.pack("<Bq6i", kind, by, level, *numbers) + reason
    digest = blake2b(Lane("PLAYER", user_id).salt + body, digest_size=16).digest()
    return struct.pack("<2sBB16s16s", b"LQ", version, 0, bytes(15) + b"\7", digest) + body


GOOD = encode(level_up(1))
RUBBISH: list[tuple[str, bytes, str]] = [
    ("text", b"give me a level", "not a levelq entry"),
    ("JSON", b'{"user_id": 1, "xp_gained": 5}', "not a levelq entry"),
    ("nothing", b"", "not a levelq entry"),
    ("cut short", GOOD[:40], "53 bytes, expected at least 82"),
    ("damaged", GOOD[:-1] + b"\x01", "the digest does not match: damaged, or another lane's entry"),
    ("another lane's", encode(level_up(2)), "the digest does not match: damaged, or another lane's entry"),
    ("unknown kind", entry(1, kind=9), "unknown kind 9"),
    ("negative gain", entry(1, numbers=(-5, 0, 0, 0, 0)), "a level_up with a negative gain or a level"),
    (
        "unknown source",
        entry(1, kind=3, level=2, numbers=(0,) * 5),
        "a sync_levels with an unknown source or with changes",
    ),
    ("nobody", entry(1, by=-1), "advanced_by below 0"),
    ("no UTF-8", entry(1, reason=b"\xff\xfe"), "the reason is not UTF-8"),
    ("NUL", entry(1, reason=b"a\0b"), "the reason is too long or contains NUL"),
    ("long reason", entry(1, reason=b"r" * 501), "the reason is too long or contains NUL"),
    ("version 0", entry(1, version=0), "encoding version 0, which never existed"),
]


@pytest.mark.parametrize(("payload", "reason"), [r[1:] for r in RUBBISH], ids=[r[0] for r in RUBBISH])
def test_rubbish_is_quarantined_and_its_neighbours_are_applied(
    own_engine: Engine, own_database_url: str, worker_of: Callable[..., Runtime], payload: bytes, reason: str
) -> None:
    worker = worker_of(own_database_url)
    push(worker, [level_up(1, 100), level_up(2, 7)])
    push_raw(worker, "PLAYER", 1, payload)
    push(worker, [level_up(1, 1000), level_up(3, 7)])
    drain_all(worker, "PLAYER")
    assert experience(own_engine) == {1: 1100, 2: 7, 3: 7}
    (row,) = quarantine(own_engine)
    assert (row["specialization"], row["user_id"], row["reason"]) == ("PLAYER", 1, reason)
    assert bytes(row["raw"])[13:] == payload
    assert row["length"] == len(payload) + 13
    assert bytes(row["sha256"]) == sha256(bytes(row["raw"])).digest()
    assert worker.lanes.status(PLAYER).waiting == 0


def quarantine(engine: Engine) -> list[dict[str, Any]]:
    with engine.connect() as connection:
        return [dict(row) for row in connection.execute(text("SELECT * FROM levelq_quarantine ORDER BY id")).mappings()]


def test_an_entry_of_a_megabyte_is_quarantined_by_its_head(
    own_engine: Engine, own_database_url: str, worker_of: Callable[..., Runtime], redis: Redis
) -> None:
    worker = worker_of(own_database_url)
    push_bare(redis, "PLAYER", 1, b"x" * 2**20)
    push(worker, [level_up(1, 100)])
    drain_all(worker, "PLAYER")
    (row,) = quarantine(own_engine)
    assert (row["length"], bytes(row["raw"])) == (2**20, b"x" * 4096)
    assert row["reason"].startswith("over the payload limit; sha1 of the whole: ")
    assert experience(own_engine) == {1: 100}


def test_two_large_entries_that_begin_alike_are_both_kept(
    own_engine: Engine, own_database_url: str, worker_of: Callable[..., Runtime], redis: Redis
) -> None:
    worker = worker_of(own_database_url)
    for end in (b"a", b"b"):
        push_bare(redis, "PLAYER", 1, b"x" * 5000 + end)
    push(worker, [level_up(1, 100)])
    drain_all(worker, "PLAYER")
    assert len({row["reason"] for row in quarantine(own_engine)}) == 2


def test_entries_put_there_by_hand_do_not_upset_the_count(
    own_engine: Engine, own_database_url: str, worker_of: Callable[..., Runtime], redis: Redis
) -> None:
    """The count guards the partition's limit: below zero it would guard nothing."""
    worker = worker_of(own_database_url)
    for raw in (b"", b"not JSON", b"13 digits are a stamp"):
        push_bare(redis, "PLAYER", 1, raw)
    push(worker, [level_up(1, 100), level_up(2, 100)])
    drain_all(worker, "PLAYER")
    assert experience(own_engine) == {1: 100, 2: 100}
    assert [row["length"] for row in quarantine(own_engine)] == [0, 8, 21]
    assert worker.lanes.status(PLAYER).waiting == 0


def test_a_lane_that_is_no_users(
    own_engine: Engine, own_database_url: str, worker_of: Callable[..., Runtime], redis: Redis
) -> None:
    worker = worker_of(own_database_url)
    push_bare(redis, "PLAYER", "007", b"13 digits 123" + GOOD)
    redis.zadd(PLAYER.key("ready"), {"007": 0})
    push(worker, [level_up(7)])
    drain_all(worker, "PLAYER")
    (row,) = quarantine(own_engine)
    assert (row["user_id"], row["reason"]) == (None, "lane of b'007', which is no user id")
    assert experience(own_engine) == {7: 10}


def test_rubbish_delivered_twice_is_quarantined_once(
    own_engine: Engine, own_database_url: str, worker_of: Callable[..., Runtime], redis: Redis
) -> None:
    """The worker dies between COMMIT and the acknowledgement; its claim runs out and another takes the lane."""
    dying, second = worker_of(own_database_url), worker_of(own_database_url)
    push_raw(dying, "PLAYER", 1, b"rubbish")
    push(dying, [level_up(1, 100)])
    batch = redis.lrange(PLAYER.lane_key(1), 0, -1)
    Drain(dying, PLAYER).run()
    redis.rpush(PLAYER.lane_key(1), *batch)
    redis.incrby(PLAYER.key("count"), 2)
    redis.zadd(PLAYER.key("ready"), {"1": 0})
    drain_all(second, "PLAYER")
    assert [row["reason"] for row in quarantine(own_engine)] == ["not a levelq entry"]
    assert experience(own_engine) == {1: 100}


def test_a_newer_version_keeps_its_place_in_the_lane(
    own_engine: Engine, own_database_url: str, worker_of: Callable[..., Runtime], redis: Redis
) -> None:
    worker = worker_of(own_database_url)
    push(worker, [level_up(1, 100)])
    push_raw(worker, "PLAYER", 1, entry(1, version=2))
    push(worker, [level_up(1, 1000), level_up(2, 7)])
    Drain(worker, PLAYER).run()
    assert experience(own_engine) == {1: 100, 2: 7}
    assert quarantine(own_engine) == []
    left = redis.lrange(PLAYER.lane_key(1), 0, -1)
    assert [e[15] for e in left] == [2, 1]
    status = worker.lanes.status(PLAYER)
    assert (status.waiting, status.ready, status.parked, status.claimed) == (2, 0, 1, 0)


def test_a_lane_key_of_the_wrong_type_strands_nobody(
    own_engine: Engine, own_database_url: str, worker_of: Callable[..., Runtime], redis: Redis
) -> None:
    worker = worker_of(own_database_url)
    redis.set(PLAYER.lane_key(1), "no list")
    redis.zadd(PLAYER.key("ready"), {"1": 0})
    push(worker, [level_up(2), level_up(3)])
    Drain(worker, PLAYER).run()
    assert experience(own_engine) == {2: 10, 3: 10}
    assert worker.lanes.status(PLAYER).parked == 1
