"""LevelEvents on a real database: which events a consumer gets, in which order, and how often."""

import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
from redis import Redis
from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import Session

from levelq_core import (
    Adjust,
    Command,
    InvalidArgument,
    LevelEvent,
    LevelEvents,
    LevelUp,
    ProgressLicenseCoupler,
    Reset,
    SetLevel,
    Settings,
    SyncLevels,
    apply_commands,
    level_up_atomic,
)
from levelq_core.operations import events as module
from levelq_core.operations.erasing import erase
from levelq_core.operations.prune import Pruned, prune
from tests.support.db_check import execute, query
from tests.support.fixtures.waiting import until
from tests.support.isolation import apply

LANE: dict[str, Any] = {"user_id": 1, "specialization": "PLAYER"}


def level(user_id: int, new_level: int, **fields: Any) -> SetLevel:
    return SetLevel(user_id=user_id, specialization="PLAYER", new_level=new_level, **fields)


def commit(engine: Engine, *commands: Command) -> None:
    assert {outcome.status for outcome in apply(engine, commands)} == {"applied"}


def opened(engine: Engine, *commands: Command) -> Connection:
    """A transaction that has applied these commands, and is not committed."""
    connection = engine.connect()
    apply_commands(connection, commands)
    return connection


def ended(connection: Connection, *, commits: bool = True) -> None:
    if commits:
        connection.commit()
    else:
        connection.rollback()
    connection.close()


def changes(events: Sequence[LevelEvent]) -> list[tuple[int, int, int]]:
    return [(event.user_id, event.from_level, event.to_level) for event in events]


def read(engine: Engine, consumer: str = "c") -> list[tuple[int, int, int]]:
    return changes(list(LevelEvents(engine, consumer)))


# None is skipped, and the order is kept


def test_transactions_that_commit_in_reverse_order_lose_no_event(own_engine: Engine) -> None:
    first, second, third = (opened(own_engine, level(user, 2)) for user in (1, 2, 3))
    found = []
    for connection in (third, second, first):
        ended(connection)
        found += read(own_engine)
    assert found == [(3, 1, 2), (2, 1, 2), (1, 1, 2)]  # each as soon as it is committed
    assert read(own_engine) == []


def test_transaction_with_the_lower_number_that_changes_a_lane_last_comes_last(own_engine: Engine) -> None:
    """And a transaction that runs for long, here one with a number in between, delays only events of its own."""
    with own_engine.connect() as earlier, own_engine.connect() as foreign:
        for connection in (earlier, foreign):
            connection.execute(text("SELECT pg_current_xact_id()"))
        commit(own_engine, level(1, 2))
        assert read(own_engine) == [(1, 1, 2)]
        apply_commands(earlier, [level(1, 3)])
        commit(own_engine, level(2, 2))
        earlier.commit()
        assert read(own_engine) == [(1, 2, 3), (2, 1, 2)]


@pytest.mark.parametrize("loops", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_any_interleaving_gives_each_event_once_and_in_order(
    own_engine: Engine, seed: int, loops: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SPAN", 7)
    rng = random.Random(seed)
    levels, found = dict.fromkeys(range(1, 9), 1), list[LevelEvent]()
    running: list[tuple[Connection, list[int]]] = []
    events = LevelEvents(own_engine, "c")

    def write() -> None:
        users = rng.sample(sorted(levels.keys() - {user for _, users in running for user in users}), 2)
        commands = [level(user, 1 + (levels[user] + n) % 8) for user in users for n in range(rng.randint(1, 3))]
        running.append((opened(own_engine, *commands, SyncLevels(user_id=99, specialization="PLAYER")), users))
        for command in commands:
            levels[command.user_id] = command.new_level

    def end() -> None:
        connection, users = running.pop(rng.randrange(len(running)))
        commits = rng.random() < 0.8
        ended(connection, commits=commits)
        for user in () if commits else users:
            rows = query(own_engine, f"SELECT current_level FROM user_licenses WHERE user_id = {user}")
            levels[user] = rows[0][0] if rows else 1

    def consume() -> None:
        if not loops:
            with events.batch(limit=rng.randint(1, 5)) as (_, batch):
                found.extend(batch)
        else:
            for event in events:
                if rng.random() < 0.3:
                    break  # the event in hand comes again
                found.append(event)

    for _ in range(60):
        step = rng.choice((write, end, consume))
        if step is write and len(running) < 3:
            write()
        elif step is end and running:
            end()
        else:
            consume()
    while running:
        end()
    found += events
    if loops:  # of which an event may come again
        found = list({event.id: event for event in found}.values())
    expected = query(own_engine, "SELECT id FROM levelq_ledger WHERE from_level <> to_level ORDER BY id")
    assert sorted(event.id for event in found) == [id for (id,) in expected]
    for user in levels:
        own = [event for event in found if event.user_id == user]
        assert [event.id for event in own] == sorted(event.id for event in own)
        assert all(before.to_level == after.from_level for before, after in pairwise(own))


def test_database_restored_where_transaction_numbers_start_again_gives_each_event_once(own_engine: Engine) -> None:
    late = opened(own_engine, level(2, 2))
    commit(own_engine, level(1, 2))
    assert read(own_engine) == [(1, 1, 2)]
    ended(late)
    execute(
        own_engine,
        "UPDATE levelq_ledger SET xid = xid + 1000000000000",
        "UPDATE levelq_event_positions SET pending = ARRAY(SELECT x + 1000000000000 FROM unnest(pending) AS x)",
    )
    assert read(own_engine) == [(2, 1, 2)]
    commit(own_engine, level(1, 3))
    assert read(own_engine) == [(1, 2, 3)]
    assert read(own_engine) == []


def test_long_transaction_does_not_make_each_page_read_again_what_came_since(own_engine: Engine) -> None:
    long = opened(own_engine, level(1, 2))
    for _ in range(2):
        commit(own_engine, *(level(2, 2 + n % 7) for n in range(200)))
        assert len(read(own_engine)) == 200
    brief = opened(own_engine, level(3, 2))
    commit(own_engine, level(2, 2))
    assert read(own_engine) == [(2, 5, 2)]
    ended(brief)
    scanned = "SELECT idx_tup_fetch + seq_tup_read FROM pg_stat_xact_user_tables WHERE relname = 'levelq_ledger'"
    large = create_engine(own_engine.url, connect_args={"options": "-c enable_seqscan=off"})  # as of a large ledger
    with LevelEvents(large, "c").batch() as (connection, batch):
        assert changes(batch) == [(3, 1, 2)]
        assert connection.execute(text(scanned)).scalar_one() < 50
    large.dispose()
    ended(long)
    assert read(own_engine) == [(1, 1, 2)]


def test_transaction_prepared_for_two_phases_is_not_skipped(own_engine: Engine) -> None:
    with own_engine.connect() as connection:
        apply_commands(connection, [level(1, 2)])
        connection.exec_driver_sql("PREPARE TRANSACTION 'levelq events'")
    commit(own_engine, level(2, 2))
    assert read(own_engine) == [(2, 1, 2)]
    with own_engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("COMMIT PREPARED 'levelq events'")
    assert read(own_engine) == [(1, 1, 2)]


# Which changes are events


def test_every_change_of_a_license_level_is_one_event(engine: Engine) -> None:
    """The same as in license_progressions, whichever command or direct call made it."""
    commit(
        engine,
        LevelUp(**LANE, xp_gained=2500, reason="three at once", advanced_by=7),
        LevelUp(**LANE, xp_gained=1),
        SetLevel(**LANE, new_level=2, reason="back"),
        Adjust(**LANE, xp_change=-2501, level="earned"),
        Reset(**LANE, total_xp=10_000),
        Reset(**LANE, total_xp=0, level=6),
    )
    with Session(engine) as session:
        coupler = ProgressLicenseCoupler(session)
        assert level_up_atomic(session, 2, "COACH", 1000)["success"]
        assert coupler.update_level_atomic(2, "COACH", 1)["success"]
        assert not coupler.update_level_atomic(2, "COACH", 99)["success"]
    execute(engine, "UPDATE specialization_progress SET current_level = 5 WHERE student_id = 2")
    commit(engine, SyncLevels(user_id=2, specialization="COACH"))
    execute(engine, "UPDATE specialization_progress SET current_level = 1 WHERE student_id = 2")
    commit(engine, SyncLevels(user_id=2, specialization="COACH", source="license"))  # the license stays
    found = list(LevelEvents(engine))
    progressions = query(
        engine,
        "SELECT l.user_id, p.from_level, p.to_level, p.advancement_reason, p.advanced_by "
        "FROM license_progressions p JOIN user_licenses l ON l.id = p.user_license_id ORDER BY p.id",
    )
    assert [(*change, e.reason, e.advanced_by) for change, e in zip(changes(found), found, strict=True)] == progressions
    assert len(found) == 8
    ids = query(engine, "SELECT id, command_id, specialization, applied_at FROM levelq_ledger ORDER BY id")
    assert [(e.id, e.command_id, e.specialization, e.at) for e in found] == [
        row for row in ids if row[0] in {e.id for e in found}
    ]


@pytest.mark.parametrize(
    ("levels", "reached", "first"),
    [
        ([2, 5], [[2], [3, 4, 5]], [[2], [3, 4, 5]]),
        ([5, 3, 6], [[2, 3, 4, 5], [], [4, 5, 6]], [[2, 3, 4, 5], [], [6]]),
        ([3, 1, 2], [[2, 3], [], [2]], [[2, 3], [], []]),
    ],
)
def test_threshold_is_reached_once_for_each_crossing(
    own_engine: Engine, levels: list[int], reached: list[list[int]], first: list[list[int]]
) -> None:
    commit(own_engine, *(level(1, n) for n in levels))
    found = list(LevelEvents(own_engine, "c"))
    assert [list(event.reached) for event in found] == reached
    assert [list(event.first_reached) for event in found] == first


def test_forgotten_user_has_no_events(own_engine: Engine) -> None:
    commit(own_engine, level(1, 2), level(2, 2))
    erase(own_engine, 1, lock_ms=1000)
    assert read(own_engine) == [(2, 1, 2)]


# How often a consumer gets them


def achievements(engine: Engine) -> list[Any]:
    return query(engine, "SELECT user_id, level FROM achievements ORDER BY id")


@pytest.fixture
def table(own_engine: Engine) -> Engine:
    execute(own_engine, "CREATE TABLE achievements (id serial, user_id bigint, level int)")
    return own_engine


def award(connection: Connection, batch: Sequence[LevelEvent]) -> None:
    for event in batch:
        for reached in event.reached:
            values = {"user": event.user_id, "level": reached}
            connection.execute(text("INSERT INTO achievements (user_id, level) VALUES (:user, :level)"), values)


KILLED = """
import os, signal, sys
from levelq import LevelEvents
from sqlalchemy import create_engine, text
with LevelEvents(create_engine(sys.argv[1]), consumer="c").batch() as (connection, batch):
    connection.execute(text("INSERT INTO achievements (user_id, level) VALUES (1, 2)"))
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_consumer_that_dies_between_work_and_position_does_neither(table: Engine) -> None:
    commit(table, level(1, 2), level(2, 3))
    url = table.url.render_as_string(hide_password=False)
    assert subprocess.run([sys.executable, "-c", KILLED, url], check=False).returncode == -signal.SIGKILL
    events = LevelEvents(table, "c")
    with pytest.raises(ZeroDivisionError), events.batch() as (connection, batch):
        award(connection, batch)
        1 / 0  # noqa: B018
    with events.batch() as (connection, batch):
        award(connection, batch)
    with events.batch() as (connection, batch):
        assert batch == []
    assert achievements(table) == [(1, 2), (2, 2), (2, 3)]


def test_two_processes_with_one_name_handle_each_event_once(table: Engine) -> None:
    commit(table, *(level(user, 2) for user in range(1, 31)))

    def consume() -> None:
        handled = -1
        while handled:
            with LevelEvents(table, "c").batch(limit=3) as (connection, batch):
                award(connection, batch)
                handled = len(batch)

    with ThreadPoolExecutor(2) as pool:
        for future in [pool.submit(consume) for _ in range(2)]:
            future.result()
    assert achievements(table) == [(user, 2) for user in range(1, 31)]


def test_second_process_waits_for_the_first_and_another_name_does_not(table: Engine) -> None:
    commit(table, level(1, 2))
    waiting = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    seen: list[Any] = []
    with LevelEvents(table, "c").batch() as (_, batch):
        second = threading.Thread(target=lambda: seen.extend(LevelEvents(table, "c")))
        second.start()
        until(lambda: query(table, waiting))
        assert changes(batch) == read(table, "another") == [(1, 1, 2)]
    second.join()
    assert seen == []


def test_loop_that_ends_early_gets_only_the_event_in_hand_again(own_engine: Engine) -> None:
    commit(own_engine, *(level(1, n) for n in (2, 3, 4)))
    for event in LevelEvents(own_engine, "c"):
        if event.to_level == 3:
            break
    with pytest.raises(ZeroDivisionError):
        for event in LevelEvents(own_engine, "c"):
            event.to_level / (4 - event.to_level)
    assert read(own_engine) == [(1, 3, 4)]


def test_loop_ends_although_its_own_work_makes_events(own_engine: Engine) -> None:
    commit(own_engine, level(1, 2))
    for event in LevelEvents(own_engine, "c"):
        commit(own_engine, level(event.user_id + 1, 2))
    assert read(own_engine) == [(2, 1, 2)]


def test_consumer_without_a_name_writes_nothing_and_goes_on_where_it_was(own_engine: Engine) -> None:
    commit(own_engine, level(1, 2))
    events = LevelEvents(own_engine)
    assert changes(list(events)) == [(1, 1, 2)]
    commit(own_engine, level(1, 3))
    assert changes(list(events)) == [(1, 2, 3)]
    assert query(own_engine, "SELECT FROM levelq_event_positions") == []


@pytest.mark.parametrize("consumer", [None, "c"])
def test_batch_whose_commit_fails_comes_again(table: Engine, consumer: str | None) -> None:
    execute(table, "ALTER TABLE achievements ADD UNIQUE (user_id) DEFERRABLE INITIALLY DEFERRED")
    commit(table, level(1, 3))
    events = LevelEvents(table, consumer)
    with pytest.raises(IntegrityError), events.batch() as (connection, batch):
        award(connection, batch)
    assert changes(list(events)) == [(1, 1, 3)]
    assert list(events) == []


def test_batch_waits_for_the_next_event_and_no_longer_than_it_is_told(own_engine: Engine) -> None:
    commit(own_engine, level(1, 2))
    assert read(own_engine)
    with LevelEvents(own_engine, "c").batch(wait=0.01) as (_, batch):
        assert batch == []
    following = LevelEvents(own_engine, "c").follow()
    late = opened(own_engine, level(1, 3))
    commit(own_engine, LevelUp(**LANE | {"user_id": 2}, xp_gained=1))  # no event, but the ledger grows
    timer = threading.Timer(0.1, ended, [late])
    timer.start()
    assert changes([next(following)]) == [(1, 2, 3)]
    following.close()


@pytest.mark.parametrize("url_of", [lambda url: url, lambda url: url.set(drivername="postgresql+psycopg2")])
def test_application_engine_of_any_driver_and_isolation_level_serves(
    own_engine: Engine, url_of: Callable[[Any], Any]
) -> None:
    engine = create_engine(url_of(own_engine.url), isolation_level="AUTOCOMMIT")
    commit(own_engine, level(1, 2))
    with pytest.raises(ZeroDivisionError), LevelEvents(engine, "c").batch():
        1 / 0  # noqa: B018
    assert read(engine) == [(1, 1, 2)]
    engine.dispose()


@pytest.mark.parametrize("option", [{"stream_results": True}, {"yield_per": 10}, {"no_parameters": True}], ids=str)
@pytest.mark.parametrize("consumer", ["c", None])
def test_application_engine_with_options_for_its_own_statements_serves(
    own_engine: Engine, option: dict[str, Any], consumer: str | None
) -> None:
    commit(own_engine, level(1, 2))
    events = LevelEvents(own_engine.execution_options(**option), consumer)
    with events.batch() as (_, batch):
        assert changes(batch) == [(1, 1, 2)]
    assert list(events) == []


def test_unread_events_are_not_pruned(own_engine: Engine, redis: Redis, settings: Settings) -> None:
    commit(own_engine, level(1, 2), LevelUp(**LANE, xp_gained=1), level(1, 3))
    for event in LevelEvents(own_engine, "c"):
        if event.to_level == 3:
            break
    execute(own_engine, "UPDATE levelq_ledger SET applied_at = applied_at - interval '2 hours'")
    assert prune(own_engine, redis, timedelta(hours=1), settings=settings) == [Pruned("levelq_ledger", 2, 0, 1)]
    assert read(own_engine) == [(1, 2, 3)]
    assert prune(own_engine, redis, timedelta(hours=1), settings=settings) == [Pruned("levelq_ledger", 1, 0)]


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"consumer": ""}, InvalidArgument, "consumer: expected 1 to 100 printable characters, got ''"),
        ({"consumer": "a\n"}, InvalidArgument, r"got 'a\\n'"),
        ({"consumer": "x" * 101}, InvalidArgument, "expected 1 to 100"),
        (
            {"engine": create_async_engine("postgresql+psycopg://")},
            TypeError,
            "expected a SQLAlchemy Engine, got Async",
        ),
    ],
)
def test_wrong_argument_is_named(
    own_engine: Engine, given: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        LevelEvents(**{"engine": own_engine} | given)


def test_limit_below_one_is_refused(own_engine: Engine) -> None:
    with pytest.raises(InvalidArgument, match="limit: expected at least 1, got 0"), LevelEvents(own_engine).batch(0):
        pass


@pytest.mark.parametrize(
    "given", [{"limit": 1.5}, {"limit": True}, {"limit": "5"}, {"wait": None}, {"wait": "1"}], ids=str
)
def test_limit_and_wait_that_are_no_numbers_are_refused(own_engine: Engine, given: dict[str, Any]) -> None:
    ((name, value),) = given.items()
    with (
        pytest.raises(InvalidArgument, match=f"^{name}: expected .*, got ") as caught,
        LevelEvents(own_engine).batch(**given),
    ):
        pass
    assert (caught.value.field, caught.value.value) == (name, value)
