"""Threads and connections at once: no deadlock, exact sums, no level seen out of step."""

import logging
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from operator import itemgetter
from threading import Barrier, Event
from typing import Any

import psycopg
import pytest
from redis import Redis
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from levelq.embedded import Servers
from levelq_core import LevelUp, ProgressLicenseCoupler, Settings, level_up_atomic
from levelq_core.keys import Partition
from levelq_core.operations.queries import out_of_step
from levelq_worker.draining.context import Runtime
from levelq_worker.draining.drain import Drain
from tests.support.coupler import drain_all, push, runtime, session, tables, wait_until_blocked_by
from tests.support.fixtures.waiting import until
from tests.support.isolation import apply, execute, level_up
from tests.support.orm import ID, recorded

THREADS = 24
first = itemgetter(0)

Engines = Callable[..., Engine]


def at_once(*workers: Callable[[], Any]) -> list[Any]:
    """Run them all, started at the same moment; their results, or the first failure."""
    barrier = Barrier(len(workers))

    def run(worker: Callable[[], Any]) -> Any:
        barrier.wait(30)
        return worker()

    with ThreadPoolExecutor(len(workers)) as pool:
        return [future.result(90) for future in [pool.submit(run, worker) for worker in workers]]


def deadlocks(url: str) -> int:
    """How many deadlocks this database has seen; each backend reports them when it ends, so end them first."""
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()").fetchone()
    assert row is not None
    return int(row[0])


def assert_sums(engine: Engine, xp: dict[int, int]) -> None:
    """Experience per user, both levels equal everywhere, an unbroken chain of levels, one step per change."""
    with engine.connect() as connection:
        found = tables(connection)
        assert {user: row["total_xp"] for (user, _), row in found.progress.items()} == xp
        assert list(out_of_step(connection)) == []
    for lane, license_ in found.licenses.items():
        chain = found.progressions.get(lane, [])
        assert [row["from"] for row in chain] == [1, *(row["to"] for row in chain)][: len(chain)]
        assert license_["level"] == (chain[-1]["to"] if chain else 1)


@pytest.fixture
def worker_of(servers: Servers, redis: Redis, database_url: str) -> Iterator[Callable[..., Runtime]]:
    """Make workers on this test's database."""
    with ExitStack() as stack:
        load = partial(Settings.load, redis_url=servers.valkey.url, database_url=database_url)
        yield lambda **given: stack.enter_context(runtime(load(**given)))


def test_24_threads_insert_and_level_the_same_three_users(database_url: str, engines: Engines) -> None:
    engine = engines(database_url, THREADS)
    rounds, users = 6, (1, 2, 3)

    def worker(number: int) -> Callable[[], int]:
        def run() -> int:
            with Session(engine) as orm:
                order = random.Random(number).sample(users, k=3)
                results = [level_up_atomic(orm, user, "PLAYER", 700 + number) for _ in range(rounds) for user in order]
            assert [r for r in results if not r["success"]] == []
            return sum(r["progression_created"] for r in results if r["success"])

        return run

    written = sum(at_once(*(worker(n) for n in range(THREADS))))
    total = rounds * sum(700 + n for n in range(THREADS))
    assert_sums(engine, dict.fromkeys(users, total))
    assert written == sum(len(rows) for rows in tables(engine).progressions.values())
    engine.dispose()
    assert deadlocks(database_url) == 0


def test_overlapping_batches_in_opposite_order_do_not_deadlock(database_url: str, engines: Engines) -> None:
    engine = engines(database_url, 4)
    rounds, width = 40, 30

    def worker(first: int, step: int) -> Callable[[], None]:
        def run() -> None:
            for turn in range(rounds):
                users = range(10 * turn + 1, 10 * turn + 1 + width)[::step]
                assert {o.status for o in apply(engine, [level_up(user, first) for user in users])} == {"applied"}

        return run

    at_once(worker(600, 1), worker(700, -1), worker(800, 1), worker(900, -1))
    visits = {user: sum(10 * t < user <= 10 * t + width for t in range(rounds)) for user in range(1, 421)}
    assert_sums(engine, {user: 3000 * n for user, n in visits.items() if n})
    engine.dispose()
    assert deadlocks(database_url) == 0


GATE = 4711  # an advisory lock
HOLD = f"""
    CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN PERFORM pg_advisory_xact_lock_shared({GATE}); RETURN NEW; END $$;
    CREATE TRIGGER hold BEFORE UPDATE ON user_licenses FOR EACH ROW WHEN (NEW.current_level = 2)
        EXECUTE FUNCTION hold();
"""


@contextmanager
def stopped_drain(url: str, engine: Engine, worker: Runtime) -> Iterator[None]:
    """While a trigger stops a drain that has locked both rows of user 1 and written one of them."""
    execute(engine, HOLD)
    push(worker, [level_up(1, 1500)])
    with ThreadPoolExecutor(1) as pool, session(url) as gate:
        gate.execute("SELECT pg_advisory_xact_lock(%s)", (GATE,))
        drained = pool.submit(drain_all, worker, "PLAYER")
        wait_until_blocked_by(url, gate)
        yield
        gate.rollback()
        drained.result(30)


def test_direct_call_waits_for_a_drain_that_holds_the_lane(
    database_url: str, engine: Engine, worker_of: Callable[..., Runtime]
) -> None:
    worker = worker_of(claim_seconds=120)
    with ThreadPoolExecutor(1) as pool, Session(engine) as orm:
        with stopped_drain(database_url, engine, worker):
            direct = pool.submit(level_up_atomic, orm, 1, "PLAYER", 1200)
            waiting = "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
            with psycopg.connect(database_url, autocommit=True) as observer:
                until(lambda: observer.execute(waiting).rowcount == 2, what="the direct call to wait for the drain")
            assert not direct.done()
        result = direct.result(30)
    assert result["success"] is True
    assert (result["progress"]["old_level"], result["progress"]["new_level"]) == (2, 3)
    assert result["progress"]["total_xp"] == 2700
    assert_sums(engine, {1: 2700})


def test_direct_calls_beside_two_drains_of_the_same_users_lose_nothing(
    database_url: str, engines: Engines, worker_of: Callable[..., Runtime], caplog: pytest.LogCaptureFixture
) -> None:
    engine = engines(database_url, 5)
    users, queued, called = range(1, 41), 60, 40
    workers = [worker_of(batch_lanes=15, lane_commands=7) for _ in range(2)]
    commands = [level_up(user, 11) for _ in range(queued) for user in users]
    push(workers[0], commands)

    def direct(number: int) -> Callable[[], None]:
        def run() -> None:
            chooser = random.Random(number)
            with Session(engine) as orm:
                for _ in range(called):
                    assert level_up_atomic(orm, chooser.choice(users), "PLAYER", 7)["success"]

        return run

    with caplog.at_level(logging.WARNING, "levelq"):
        drains = [lambda w=w: drain_all(w, "PLAYER") for w in workers]
        at_once(*drains, *(direct(n) for n in range(4)))
    assert caplog.messages == []
    expected = dict.fromkeys(users, 11 * queued)
    for chooser in [random.Random(n) for n in range(4)]:
        for _ in range(called):
            expected[chooser.choice(users)] += 7
    assert_sums(engine, expected)
    from_queue = [row[:2] for row in recorded(engine, "user_id", "command_id", "source") if row[2] == "queue"]
    # Per user, each in the order of effect.
    assert sorted(from_queue, key=first) == sorted(((c.user_id, c.command_id) for c in commands), key=first)
    for worker in workers:
        worker.engine.dispose()
    engine.dispose()
    assert deadlocks(database_url) == 0


BOTH = """
    SELECT p.student_id, p.current_level, l.current_level FROM specialization_progress p
    FULL JOIN user_licenses l ON l.user_id = p.student_id AND l.specialization_type = p.specialization_id
"""


def test_reader_never_sees_two_levels_differ(
    database_url: str, engine: Engine, worker_of: Callable[..., Runtime]
) -> None:
    worker = worker_of(batch_commands=40, lane_commands=2)
    push(worker, [level_up(user, 900) for _ in range(60) for user in range(1, 31)])
    done = Event()

    def burst() -> None:
        drain_all(worker, "PLAYER")
        with Session(engine) as orm:
            for user in range(1, 31):
                assert ProgressLicenseCoupler(orm).update_level_atomic(user, "PLAYER", 3)["success"]
        done.set()

    def read() -> set[tuple[int, int]]:
        seen: set[tuple[int, int]] = set()
        with psycopg.connect(database_url, autocommit=True) as connection:
            while not done.is_set():
                for user, progress, license_ in connection.execute(BOTH).fetchall():
                    assert progress == license_, f"user {user}: progress {progress}, license {license_}"
                    seen.add((user, progress))
        return seen

    _, *readers = at_once(burst, read, read)
    assert all(len(seen) > 60 for seen in readers), "the readers saw the burst under way"


def test_application_that_locks_users_progress_license_causes_no_deadlock(
    application_database_url: str, engines: Engines
) -> None:
    """The order of docs/explanation/the-transaction.md."""
    engine = engines(application_database_url, 4)
    users, rounds = range(1, 13), 50

    def application(number: int) -> Callable[[], None]:
        def run() -> None:
            chooser = random.Random(number)
            with psycopg.connect(application_database_url) as connection:
                for _ in range(rounds):
                    user = chooser.choice(users)
                    for rows in (
                        "users WHERE id",
                        "specialization_progress WHERE student_id",
                        "user_licenses WHERE user_id",
                    ):
                        connection.execute(f"SELECT FROM {rows} = %s ORDER BY id FOR UPDATE", (user,))
                    connection.commit()

        return run

    def batches(number: int) -> Callable[[], None]:
        def run() -> None:
            chooser = random.Random(number)
            for _ in range(rounds):
                chosen = chooser.sample(users, k=6)
                both = [
                    LevelUp(user_id=u, specialization=n, xp_gained=100) for u in chosen for n in ("PLAYER", "COACH")
                ]
                assert {o.status for o in apply(engine, both)} == {"applied"}

        return run

    at_once(*(application(n) for n in range(2)), *(batches(n) for n in range(3)))
    with engine.connect() as connection:
        assert sum(row["total_xp"] for row in tables(connection).progress.values()) == 3 * rounds * 12 * 100
        assert list(out_of_step(connection)) == []
    engine.dispose()
    assert deadlocks(application_database_url) == 0


def test_application_that_locks_the_author_of_a_level_up_causes_no_deadlock(
    application_database_url: str, application_engine: Engine
) -> None:
    """Users, progress: the application's order. The level-up names the same user as its author."""
    apply(application_engine, [level_up(1, 1)])
    with session(application_database_url) as application, ThreadPoolExecutor(1) as pool:
        application.execute("SELECT FROM users WHERE id = 1 FOR UPDATE")
        applied = pool.submit(apply, application_engine, [level_up(1, 1000, advanced_by=1)])
        wait_until_blocked_by(application_database_url, application)
        application.execute("SELECT FROM specialization_progress WHERE student_id = 1 FOR UPDATE")
        application.commit()
        assert [o.status for o in applied.result(30)] == ["applied"]


def test_same_command_from_many_threads_at_once_counts_once(database_url: str, engines: Engines) -> None:
    engine = engines(database_url, 8)

    def run() -> dict[str, Any]:
        with Session(engine) as orm:
            return dict(level_up_atomic(orm, 1, "PLAYER", 1000, command_id=ID))

    results = at_once(*[run] * 8)
    assert all(result == results[0] and result["success"] for result in results)
    assert_sums(engine, {1: 1000})


def test_same_refused_command_from_many_threads_at_once_has_one_answer(database_url: str, engines: Engines) -> None:
    engine = engines(database_url, 8)

    def run() -> dict[str, Any]:
        with Session(engine) as orm:
            coupler = ProgressLicenseCoupler(orm)
            return dict(coupler.update_level_atomic(1, "PLAYER", 2, xp_change=-5, command_id=ID))

    for _ in range(5):
        results = at_once(*[run] * 8)
        assert {result["error_type"] for result in results} == {"validation_error"}


def test_partition_is_drained_by_one_claim_per_lane(
    database_url: str, engine: Engine, worker_of: Callable[..., Runtime]
) -> None:
    """While one drain holds a lane, another gets other lanes of the partition, never this one."""
    one, other = (worker_of(claim_seconds=120) for _ in range(2))
    with stopped_drain(database_url, engine, one):
        push(other, [level_up(user, 9) for user in (1, 2, 1)])
        Drain(other, Partition("PLAYER")).run()
        assert set(recorded(engine, "user_id")) == {(2,)}
    assert_sums(engine, {1: 1518, 2: 9})


def test_first_drain_after_direct_calls_reports_no_loss(
    engine: Engine, worker_of: Callable[..., Runtime], caplog: pytest.LogCaptureFixture
) -> None:
    """Direct calls leave ledger rows but nothing in Redis: an empty partition is no loss then."""
    with Session(engine) as orm:
        assert level_up_atomic(orm, 1, "PLAYER", 5)["success"]
    worker = worker_of()
    push(worker, [level_up(1, 7)])
    with caplog.at_level(logging.WARNING, "levelq"):
        drain_all(worker, "PLAYER")
    assert caplog.messages == []
    assert_sums(engine, {1: 12})
