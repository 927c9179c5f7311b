"""Rows that other code holds: their lane is parked, and the others wait for one lock timeout at most."""

from collections.abc import Callable
from contextlib import closing

import psycopg
import pytest
from psycopg.errors import AdminShutdown
from redis import Redis
from sqlalchemy import Engine

from levelq_worker.draining.batch import PARKED_LOCK_TIMEOUTS
from levelq_worker.draining.context import Runtime
from levelq_worker.draining.drain import Drain
from tests.support.coupler import drain_all, ledger, push, session
from tests.support.fixtures.keys import KEYS
from tests.support.fixtures.waiting import until
from tests.support.isolation import (
    PLAYER,
    USERS,
    after_a_drain,
    apply,
    batches,
    burst,
    decided,
    experience,
    level_up,
    order,
    push_at_once,
    sent,
)


@pytest.fixture
def worker(own_engine: Engine, own_database_url: str, worker_of: Callable[..., Runtime]) -> Runtime:
    return worker_of(own_database_url)


def left(worker: Runtime) -> tuple[int, int, int]:
    """Waiting commands, unclaimed lanes, claimed lanes."""
    status = worker.lanes.status(PLAYER)
    return status.waiting, status.ready + status.parked, status.claimed


def test_lane_whose_row_is_locked_waits_and_the_others_do_not(
    worker: Runtime, own_engine: Engine, own_database_url: str, attempts: list[int]
) -> None:
    users = range(1, 51)
    apply(own_engine, [level_up(user) for user in users])
    attempts.clear()
    push(worker, [level_up(user) for user in users for _ in range(2)])
    with session(own_database_url) as holder:
        holder.execute("SELECT FROM user_licenses WHERE user_id = 25 FOR UPDATE")
        Drain(worker, PLAYER).run()
        assert experience(own_engine) == {user: 10 if user == 25 else 30 for user in users}
        assert attempts[:2] == [50, 49]  # one lock timeout, then all the others in one go
        assert left(worker) == (2, 1, 0)
    drain_all(worker, "PLAYER")
    assert experience(own_engine)[25] == 30
    assert worker.lanes.status(PLAYER).waiting == 0


INSERT = (
    "INSERT INTO specialization_progress (student_id, specialization_id, current_level, total_xp, created_at)"
    " VALUES ({}, 'PLAYER', 1, {}, now())"
)
UNSEEN = [
    ("own", INSERT, 510),
    ("application", INSERT, 510),
    ("application", "SELECT FROM users WHERE id = {} FOR UPDATE", 10),
]


@pytest.mark.parametrize(("kind", "held", "total"), UNSEEN, ids=["insert", "insert of the application", "user row"])
def test_lane_of_a_lock_that_cannot_be_seen_is_found_by_halves(
    request: pytest.FixtureRequest, worker_of: Callable[..., Runtime], kind: str, held: str, total: int
) -> None:
    engine: Engine = request.getfixturevalue(f"{kind}_engine")
    url: str = request.getfixturevalue(f"{kind}_database_url")
    worker = worker_of(url)
    users = range(1, 17)
    push(worker, [level_up(user) for user in users])
    with session(url) as holder:
        holder.execute(held.format(5, 500))
        others = {user: 10 for user in users if user != 5}
        until(lambda: after_a_drain(worker, engine) == others, what="the others to be applied")
        assert 5 not in decided(engine)
        assert worker.lanes.status(PLAYER).waiting == 1
        holder.commit()
    drain_all(worker, "PLAYER")
    assert experience(engine) == others | {5: total}


def test_locked_lane_with_a_bad_command_keeps_its_order(
    application_engine: Engine, application_database_url: str, worker_of: Callable[..., Runtime]
) -> None:
    worker = worker_of(application_database_url)
    apply(application_engine, [level_up(user, 6) for user in (1, 2, 3)])
    push(worker, [level_up(2, 1000), level_up(2, 20), level_up(1, 666_000_660), level_up(1, 0), level_up(3)])
    with session(application_database_url) as holder:
        holder.execute("SELECT FROM specialization_progress WHERE student_id = 2 FOR UPDATE")
        Drain(worker, PLAYER).run()
        assert experience(application_engine) == {1: 6, 2: 6, 3: 16}
    drain_all(worker, "PLAYER")
    assert experience(application_engine) == {1: 6, 2: 1026, 3: 16}
    assert decided(application_engine)[1][1:] == [("rejected", "database_error"), ("applied", None)]


def test_lane_is_tried_more_rarely_the_longer_its_row_is_locked(
    own_engine: Engine, own_database_url: str, worker_of: Callable[..., Runtime], delays: list[int]
) -> None:
    """By two workers in turn, neither of which knows how often the other claimed the lane."""
    workers = [worker_of(own_database_url) for _ in range(2)]
    lock_ms = workers[0].settings.lock_ms
    apply(own_engine, [level_up(1)])
    push(workers[0], [level_up(1, xp) for xp in (1000, 0, 1500)])
    with session(own_database_url) as holder:
        holder.execute("SELECT FROM specialization_progress WHERE student_id = 1 FOR UPDATE")

        def tried_rarely() -> bool:
            for worker in workers:
                Drain(worker, PLAYER).run()
            return len(delays) > 2 and delays[-1] > 2 * lock_ms  # more than when it is parked for the first time

        until(tried_rarely, what="the delay to grow")
        assert max(delays) <= PARKED_LOCK_TIMEOUTS[1] * lock_ms
        assert experience(own_engine) == {1: 10}
    drain_all(workers[1], "PLAYER")
    assert experience(own_engine) == {1: 2510}
    assert [row["xp"] for row in ledger(own_engine)] == [10, 1000, 0, 1500]


# How other code locks something of user 137, whose rows may be there or not.
HOLDS = {
    "a row": (True, "SELECT FROM user_licenses WHERE user_id = 137 FOR UPDATE"),
    "an insert": (False, INSERT.format(137, 0)),
    "a user": (False, "SELECT FROM users WHERE id = 137 FOR UPDATE"),
}


@pytest.mark.parametrize("how", HOLDS)
def test_499_lanes_wait_for_one_lock_timeout_beside_a_locked_one(
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
    worker.transactions._limits = (str(lock_ms), *worker.transactions._limits[1:])
    commands = burst(2)
    push_at_once(worker, commands)
    with session(application_database_url) as holder:
        holder.execute(held)
        Drain(worker, PLAYER).run()
        (batch,) = batches(worker)
        assert [(lane.work.lane.user_id, lane.locked) for lane in batch.parked] == [(137, True)]
        assert lock_waits[0] == lock_ms
        assert sum(lock_waits[1:]) <= lock_ms / 2  # to find it, where it cannot be seen
        assert experience(application_engine) | {137: 0} == dict.fromkeys(USERS, 2) | {137: 0}
        assert left(worker) == (2, 1, 0)
    redis.zadd(KEYS.of(PLAYER, "ready"), {"137": 0})  # as if its delay had passed
    Drain(worker, PLAYER).run()
    assert experience(application_engine)[137] == 2
    assert {user: ids[-2:] for user, ids in order(application_engine).items()} == sent(commands)


def test_transaction_of_a_worker_stopped_within_its_copy_is_ended_by_another(
    worker: Runtime, own_engine: Engine, own_database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """While the server process waits for the rest of the rows, none of its limits apply."""
    apply(own_engine, [level_up(user) for user in (1, 2)])
    with closing(psycopg.connect(own_database_url, application_name="levelq worker")) as stopped:
        with session(own_database_url) as foreign:
            foreign.execute("SELECT FROM user_licenses WHERE user_id = 2 FOR UPDATE")
            stopped.execute("SET LOCAL transaction_timeout = 600")
            stopped.execute("SELECT FROM user_licenses WHERE user_id = 1 FOR UPDATE")
            copying = stopped.cursor().copy("COPY levelq_quarantine (reason) FROM STDIN")
            copying.__enter__()
            push(worker, [level_up(user) for user in (1, 2)])
            until(lambda: after_a_drain(worker, own_engine)[1] == 20, what="the stopped worker's lane")
            assert "1 transactions of stopped workers ended" in caplog.text
            assert experience(own_engine) == {1: 20, 2: 10}  # what other code holds is left alone
            assert foreign.execute("SELECT 1").fetchone() is not None
        with pytest.raises(AdminShutdown):
            copying.__exit__(None, None, None)
    drain_all(worker, "PLAYER")
    assert experience(own_engine) == {1: 20, 2: 20}
