"""The checker: silent on what is right, at rest and under traffic; and each invariant broken by hand."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from sqlalchemy import Engine

from levelq_core import (
    Adjust,
    Command,
    ConfigurationError,
    LevelUp,
    QueueUnavailable,
    Reset,
    SendUnknown,
    SetLevel,
    Settings,
    SyncLevels,
)
from levelq_core.coupler.apply import apply_commands
from levelq_core.domain.commands import new_command_id
from levelq_core.lanes.client import Lanes
from levelq_core.operations.queries import out_of_step
from levelq_core.operations.verify import STEPS, Options, verify
from levelq_worker.draining.drain import Drain
from tests.support.coupler import push, push_bare, push_raw
from tests.support.db_check import query
from tests.support.fixtures.keys import KEYS
from tests.support.verify import PLAYER, World, assert_clean, up, verify_command, violations_of, world_on


@pytest.fixture
def settings(servers: Any, redis: Redis, database_url: str) -> Settings:
    return Settings.load(redis_url=servers.valkey.url, database_url=database_url)


@pytest.fixture
def world(settings: Settings, redis: Redis, engine: Engine, tmp_path: Path) -> Iterator[World]:
    with world_on(settings, redis, engine, tmp_path) as made:
        yield made


@pytest.fixture
def three(world: World) -> list[LevelUp]:
    """Three commands of user 7, each applied in a transaction of its own, the second one level up."""
    commands = [up(7, 10), up(7, 1500, sessions_completed=2), up(7, 30)]
    for command in commands:
        world.apply(command)
    assert_clean(world.verify(at_rest=True))
    return commands


# What is done to the rows of the three commands, and what is found: the invariant, the verdict, the command by index.
TAMPERED: dict[str, tuple[list[str], tuple[str, str, int]]] = {
    "other content than was sent": (
        ["UPDATE levelq_ledger SET digest = '\\x00' WHERE command_id = :first"], ("I1", "unexpected", 0)),
    "a total that counted a command twice": (
        ["UPDATE specialization_progress SET total_xp = total_xp + 1500, completed_sessions = 4"],
        ("I2", "duplicated", 1)),
    "a total that lacks a command": (
        ["UPDATE specialization_progress SET total_xp = total_xp - 10"], ("I2", "lost", 0)),
    "a command that left the levels apart": (
        ["UPDATE levelq_ledger SET after[1] = 7 WHERE command_id = :second",
         "UPDATE levelq_ledger SET before[1] = 7 WHERE command_id = :third"], ("I3", "out of step", 1)),
    "a highest level that fell": (
        ["UPDATE levelq_ledger SET after[3] = 8 WHERE command_id = :first",
         "UPDATE levelq_ledger SET before[3] = 8 WHERE command_id = :second"], ("I3", "out of step", 1)),
    "a progression that is missing": (["DELETE FROM license_progressions"], ("I4", "broken chain", 1)),
    "a row that is not where the last command left it": (
        ["UPDATE user_licenses SET max_achieved_level = 5"], ("I6", "unexplained", 2)),
    "transactions that overlap": (
        ["UPDATE levelq_ledger SET (batch, xid) = (SELECT batch, xid FROM levelq_ledger WHERE command_id = :third) "
         "WHERE command_id = :first"], ("I6", "interleaved", 2)),
}  # fmt: skip


@pytest.mark.parametrize("how", TAMPERED)
def test_tampered_rows_are_found_with_the_command(world: World, three: list[LevelUp], how: str) -> None:
    statements, (invariant, verdict, command) = TAMPERED[how]
    ids = {name: sent.command_id for name, sent in zip(("first", "second", "third"), three, strict=True)}
    for statement in statements:
        world.sql(statement, **{name: value for name, value in ids.items() if f":{name}" in statement})
    assert violations_of(world.verify()) == [(invariant, verdict, 7, "PLAYER", three[command].command_id)]


# What is right


def test_all_kinds_of_commands_and_ends_verify_at_rest(world: World) -> None:
    again = up(1, 2600)
    world.send(
        again,
        SetLevel(user_id=1, specialization="PLAYER", new_level=2, xp_change=-600),
        again,
        SyncLevels(user_id=1, specialization="PLAYER"),
        SyncLevels(user_id=2, specialization="PLAYER"),
        SetLevel(user_id=3, specialization="PLAYER", new_level=1, xp_change=-1),
        again.model_copy(update={"xp_gained": 5}),
        *(up(4, 900) for _ in range(7)),
        Adjust(user_id=4, specialization="PLAYER", xp_change=-4000, level="earned"),
        Reset(user_id=4, specialization="PLAYER", total_xp=300, completed_sessions=2, level=3),
        up(4, 5),
        Adjust(user_id=3, specialization="PLAYER", xp_change=-1),
        Reset(user_id=5, specialization="PLAYER", total_xp=7),
    )
    push_raw(world.worker, "PLAYER", 1, b"garbage")
    world.drain()
    report = world.verify(at_rest=True)
    assert_clean(report)
    assert {check.invariant for check in report.checks} == {f"I{n}" for n in range(1, 10)}
    cases = {check.what: check.checked for check in report.checks}
    assert cases["acknowledged commands are in the ledger, a lane or the outbox"] == 17
    assert cases["commands of a lane were decided in the order they were sent"] == 17
    assert cases["each applied command added exactly its changes"] == 14
    assert cases["one progression per level change, each from where the last one led"] == 7


def test_it_changes_nothing(world: World, three: list[LevelUp]) -> None:
    world.send(up(8, 1))
    rows = query(world.engine, "SELECT count(*) FROM levelq_ledger")
    keys = sorted(world.redis.keys("levelq:*"))
    world.verify()
    assert sorted(world.redis.keys("levelq:*")) == keys
    assert query(world.engine, "SELECT count(*) FROM levelq_ledger") == rows
    assert query(world.engine, "SELECT relname FROM pg_class WHERE starts_with(relname, 'levelq_verify')") == []


def test_no_false_alarm_while_a_burst_is_drained(world: World) -> None:
    """Two workers, duplicates, refused and rejected commands, claims that run out; verified over and over."""
    sending, once, failures = threading.Event(), threading.Event(), list[BaseException]()

    def send() -> None:
        try:
            for n in range(60):
                if n == 30:  # so that the next verification meets traffic, too
                    once.wait()
                window = [up(user, user * 50) for user in range(1, 41) for _ in range(3)]
                bad = [SetLevel(user_id=1, specialization="PLAYER", new_level=1, xp_change=-(10**9))]
                world.send(*window, *bad, *window[:10])
                world.expire(*range(1, 41))
        except BaseException as error:
            failures.append(error)
        finally:
            sending.set()

    def work() -> None:
        try:
            with world.another_worker() as worker:
                while not sending.is_set():
                    Drain(worker, PLAYER).run()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=target) for target in (send, work, work)]
    for thread in threads:
        thread.start()
    try:
        assert_clean(world.verify())
        once.set()
        while not sending.is_set():
            assert_clean(world.verify(range_rows=500))
    finally:
        once.set()
        for thread in threads:
            thread.join()
    assert failures == []
    world.drain()
    report = world.verify(at_rest=True)
    assert_clean(report)
    assert max(check.checked for check in report.checks if check.invariant == "I5") == 60 * 121


def test_without_history_and_on_an_empty_database(world: World) -> None:
    report = verify(world.engine, world.redis, world.settings, Options(at_rest=True))
    assert_clean(report)
    assert {check.invariant for check in report.checks} == {"I1", "I2", "I3", "I4", "I6", "I7", "I8"}


def test_long_lanes_and_many_lanes_are_read_to_their_ends(world: World) -> None:
    world.send(*(up(1, 1) for _ in range(1001)), *(up(user, 1) for user in range(2, 302)))
    report = world.verify()
    assert_clean(report)
    assert report.checks[0].checked == 1301
    assert {
        check.checked for check in report.checks if check.what == "a lane with commands is either ready or claimed"
    } == {301}


def test_rows_from_before_levelq_and_a_pruned_ledger(world: World) -> None:
    world.apply(up(7, 2600), SetLevel(user_id=7, specialization="PLAYER", new_level=1))
    world.sql("DELETE FROM levelq_ledger")
    world.apply(up(7, 30), SetLevel(user_id=7, specialization="PLAYER", new_level=4))
    world.path.write_text("")
    assert_clean(world.verify(at_rest=True, partial_history=True))


# I1


def test_lost_never_arrived(world: World, three: list[LevelUp]) -> None:
    command = up(9, 5)
    world.recorder.sent([command], [None])
    report = world.verify()
    assert violations_of(report) == [("I1", "lost", 9, "PLAYER", command.command_id)]


def test_lost_from_its_lane(world: World) -> None:
    first, second = up(7, 1), up(7, 2)
    world.send(first, second)
    world.redis.lpop(world.lane(7))
    assert violations_of(world.verify()) == [("I1", "lost", 7, "PLAYER", first.command_id)]


def test_lost_with_all_of_redis_unless_it_is_in_the_outbox(world: World) -> None:
    first, second = up(7, 1), up(8, 2)
    world.send(first, second)
    world.redis.flushall()
    world.sql(
        "INSERT INTO levelq_outbox (command_id, user_id, specialization, payload) VALUES (:id, 8, 'PLAYER', '')",
        id=second.command_id,
    )
    assert violations_of(world.verify()) == [("I1", "lost", 7, "PLAYER", first.command_id)]
    assert set(violations_of(world.verify(at_rest=True))) == {
        ("I1", "lost", 7, "PLAYER", first.command_id),
        ("I1", "waiting", 8, "PLAYER", second.command_id),
    }


def test_sends_beyond_the_horizon_are_not_looked_for(world: World) -> None:
    world.recorder.sent([up(9, 5)], [None])
    assert_clean(world.verify(horizon=datetime.now(UTC) + timedelta(minutes=1)))


def test_unexpected_never_sent(world: World, three: list[LevelUp]) -> None:
    command = up(8, 5)
    push(world.worker, [command])
    world.drain()
    assert violations_of(world.verify()) == [("I1", "unexpected", 8, "PLAYER", command.command_id)]
    assert_clean(world.verify(partial_history=True))


def test_unexpected_was_refused(world: World) -> None:
    command = up(8, 5)
    world.recorder.intend([command])
    world.recorder.sent([command], [QueueUnavailable("no")])
    push(world.worker, [command])
    world.drain()
    assert violations_of(world.verify()) == [("I1", "unexpected", 8, "PLAYER", command.command_id)]


def test_recovered_is_allowed_and_direct_calls_need_no_record(world: World, three: list[LevelUp]) -> None:
    unknown, refused_then_sent = up(8, 5), up(8, 6)
    world.recorder.sent([unknown, refused_then_sent], [SendUnknown("cut"), QueueUnavailable("no")])
    push(world.worker, [unknown])
    world.apply(refused_then_sent)
    with world.engine.begin() as connection:
        apply_commands(connection, [up(9, 1)])
    report = world.verify(at_rest=True)
    assert_clean(report)
    (note,) = report.notes
    assert [(e.verdict, e.command_id) for e in note.examples] == [("recovered", unknown.command_id)]


def test_at_rest_nothing_waits(world: World) -> None:
    command = up(7, 1)
    world.send(command)
    assert_clean(world.verify())
    assert violations_of(world.verify(at_rest=True)) == [("I1", "waiting", 7, "PLAYER", command.command_id)]


# I2


def test_twice_in_the_ledger(world: World) -> None:
    command = SyncLevels(user_id=7, specialization="PLAYER")
    world.apply(up(7, 5), command)
    world.sql("ALTER TABLE levelq_ledger DROP CONSTRAINT levelq_ledger_command_id_key")
    columns = (
        "command_id, user_id, specialization, kind, status, digest, xp, sessions, projects, theory_hours, "
        "practice_hours, from_level, to_level, before, after, batch, xid, source, applied_at"
    )
    world.sql(
        f"INSERT INTO levelq_ledger ({columns}) SELECT {columns} FROM levelq_ledger WHERE command_id = :id",
        id=command.command_id,
    )
    assert violations_of(world.verify()) == [("I2", "duplicated", 7, "PLAYER", command.command_id)]


def test_a_total_that_nothing_explains(world: World, three: list[LevelUp]) -> None:
    world.sql("UPDATE specialization_progress SET completed_projects = 4")
    report = world.verify()
    assert violations_of(report) == [("I2", "miscounted", 7, "PLAYER", three[2].command_id)]
    assert report.examples[0].detail.startswith("completed_projects grew by 4 (0 to 4) between ")
    noted = world.verify(foreign_writes=True)
    assert_clean(noted)
    assert [note.found for note in noted.notes] == [1]


@pytest.fixture
def season(world: World) -> list[Command]:
    """Two seasons of user 7, each command in a transaction of its own."""
    commands: list[Command] = [
        up(7, 10), up(7, 1500), Reset(user_id=7, specialization="PLAYER", total_xp=200, completed_sessions=1),
        up(7, 30), Adjust(user_id=7, specialization="PLAYER", xp_change=-100),
    ]  # fmt: skip
    for command in commands:
        world.apply(command)
    assert_clean(world.verify(at_rest=True))
    return commands


def test_a_reset_that_set_something_else(world: World, season: list[Command]) -> None:
    reset = season[2].command_id
    world.sql("UPDATE levelq_ledger SET xp = 0 WHERE command_id = :id", id=reset)
    report = world.verify()
    assert report.broken == {"I2"}
    assert ("I2", "miscounted", 7, "PLAYER", reset) in violations_of(report)


def test_a_reset_that_took_effect_as_an_addition(world: World, season: list[Command]) -> None:
    world.sql("UPDATE specialization_progress SET total_xp = total_xp + 1510")
    assert violations_of(world.verify()) == [("I2", "miscounted", 7, "PLAYER", season[4].command_id)]


def test_totals_after_a_reset_that_counted_a_command_twice_or_not_at_all(world: World, season: list[Command]) -> None:
    world.sql("UPDATE specialization_progress SET total_xp = total_xp + 30")
    assert violations_of(world.verify()) == [("I2", "duplicated", 7, "PLAYER", season[3].command_id)]
    world.sql("UPDATE specialization_progress SET total_xp = total_xp - 60")
    assert violations_of(world.verify()) == [("I2", "lost", 7, "PLAYER", season[3].command_id)]


def test_a_command_counted_twice_before_a_reset_is_still_found(world: World) -> None:
    """The Reset sets the totals all the same; the piece before it does not add up."""
    first = up(7, 40)
    world.apply(first)
    world.sql("UPDATE specialization_progress SET total_xp = 80")
    world.apply(Reset(user_id=7, specialization="PLAYER", total_xp=5), up(7, 1))
    assert ("I2", "duplicated", 7, "PLAYER", first.command_id) in violations_of(world.verify(at_rest=True))


def test_a_command_that_added_something_else(world: World, three: list[LevelUp]) -> None:
    world.sql("UPDATE levelq_ledger SET xp = 11 WHERE command_id = :id", id=three[0].command_id)
    report = world.verify()
    assert report.broken == {"I2"}
    assert ("I2", "miscounted", 7, "PLAYER", three[0].command_id) in violations_of(report)


# I3


def test_rows_that_are_apart(world: World, three: list[LevelUp]) -> None:
    world.sql("UPDATE specialization_progress SET current_level = 3")
    report = world.verify()
    assert report.broken == {"I3", "I6"}
    assert ("I3", "out of step", 7, "PLAYER", three[2].command_id) in violations_of(report)


@pytest.mark.parametrize("foreign_writes", [False, True])
def test_pairs_out_of_step_that_the_ledger_does_not_know_are_violations(world: World, foreign_writes: bool) -> None:
    world.sql(
        "INSERT INTO specialization_progress (student_id, specialization_id, current_level, created_at, updated_at) "
        "SELECT n, 'PLAYER', 3, now(), now() FROM generate_series(1, 50) n"
    )
    world.sql(
        "INSERT INTO user_licenses (user_id, specialization_type, current_level, max_achieved_level, started_at) "
        "SELECT n, 'PLAYER', 2, 3, now() FROM generate_series(2, 51) n"
    )
    report = world.verify(foreign_writes=foreign_writes, range_rows=7)
    assert (report.violations, report.broken) == (51, {"I3"})
    assert violations_of(report) == [("I3", "out of step", user, "PLAYER", None) for user in range(1, 52)]
    with world.engine.connect() as connection:
        assert [pair.user_id for pair in out_of_step(connection)] == list(range(1, 52))
    assert verify_command(world, *["--foreign-writes"] * foreign_writes)[0] == 1


# I4


def test_a_progression_too_many(world: World, three: list[LevelUp]) -> None:
    copied = "user_license_id, from_level, to_level, advancement_reason, requirements_met, advanced_at"
    world.sql(f"INSERT INTO license_progressions ({copied}) SELECT {copied} FROM license_progressions")
    report = world.verify()
    assert report.broken == {"I4"}
    assert violations_of(report)[0][2:4] == (7, "PLAYER")


def test_a_progression_with_other_levels(world: World) -> None:
    commands = [up(7, 1500), up(7, 1500), up(7, 3000)]
    world.apply(*commands)
    world.sql("UPDATE license_progressions SET to_level = 7 WHERE from_level = 2")
    assert violations_of(world.verify()) == [("I4", "broken chain", 7, "PLAYER", commands[1].command_id)]
    world.sql("UPDATE license_progressions SET to_level = 3, from_level = 1 WHERE from_level = 2")
    assert violations_of(world.verify()) == [("I4", "broken chain", 7, "PLAYER", commands[1].command_id)]


# I5


def test_decided_in_another_order(world: World) -> None:
    first, second, third = up(7, 1), up(7, 2), up(7, 3)
    push(world.worker, [first, third, second])
    world.drain()
    world.recorder.sent([first, second, third], [None] * 3)
    assert violations_of(world.verify()) == [("I5", "reordered", 7, "PLAYER", third.command_id)]


def test_decided_before_one_that_still_waits(world: World) -> None:
    first, second = up(7, 1), up(7, 2)
    world.send(first)
    with world.engine.begin() as connection:
        apply_commands(connection, [second])
    world.recorder.sent([second], [None])
    assert violations_of(world.verify()) == [("I5", "reordered", 7, "PLAYER", second.command_id)]


def test_the_order_of_sends_without_an_answer_is_not_known(world: World) -> None:
    first, second = up(7, 1), up(7, 2)
    world.recorder.sent([first], [SendUnknown("cut")])
    world.send(second)
    world.apply(first)
    assert_clean(world.verify(at_rest=True))


# I6


def test_a_change_that_the_ledger_does_not_explain(world: World, three: list[LevelUp]) -> None:
    world.sql("UPDATE levelq_ledger SET before[4] = 15, after[4] = 1515 WHERE command_id = :id", id=three[1].command_id)
    grew, fell = (
        ("I2", "miscounted", 7, "PLAYER", three[1].command_id),
        ("I2", "lost", 7, "PLAYER", three[1].command_id),
    )
    assert violations_of(world.verify()) == [fell, grew]
    assert violations_of(world.verify(foreign_writes=True)) == [fell]


def test_levels_that_changed_between_two_commands(world: World, three: list[LevelUp]) -> None:
    world.sql(
        "UPDATE levelq_ledger SET before[1] = 3, before[2] = 3, before[3] = 3 WHERE command_id = :id",
        id=three[2].command_id,
    )
    world.sql("UPDATE levelq_ledger SET after[3] = 3 WHERE command_id = :id", id=three[2].command_id)
    world.sql("UPDATE user_licenses SET max_achieved_level = 3")
    assert violations_of(world.verify()) == [("I6", "unexplained", 7, "PLAYER", three[2].command_id)]
    assert_clean(world.verify(foreign_writes=True))


def test_a_batch_of_two_transactions(world: World) -> None:
    commands = [up(7, 1), up(7, 2)]
    world.apply(*commands)
    world.sql("UPDATE levelq_ledger SET xid = xid + 1 WHERE command_id = :id", id=commands[0].command_id)
    assert violations_of(world.verify()) == [("I6", "interleaved", 7, "PLAYER", commands[1].command_id)]


# I7


@pytest.mark.parametrize("where", ["neither set", "both sets"])
def test_lane_in_neither_or_both_sets_is_stranded(world: World, where: str) -> None:
    command = up(7, 1)
    world.send(command)
    if where == "neither set":
        world.redis.zrem(KEYS.of(PLAYER, "ready"), 7)
    else:
        world.redis.zadd(KEYS.of(PLAYER, "claimed"), {"7": 1})
        world.redis.hset(KEYS.of(PLAYER, "tokens"), "7", "token")
    assert violations_of(world.verify()) == [("I7", "stranded", 7, "PLAYER", command.command_id)]


def test_a_claim_without_end(world: World) -> None:
    command = up(7, 1)
    world.send(command)
    world.worker.lanes.claim(PLAYER, "drain", "token", 10)
    assert_clean(world.verify())
    world.redis.zincrby(KEYS.of(PLAYER, "claimed"), 60_000, "7")
    assert violations_of(world.verify()) == [("I7", "stranded", 7, "PLAYER", command.command_id)]


def test_lanes_of_unregistered_partitions_and_names_that_are_no_users(world: World) -> None:
    push_bare(world.redis, "OTHER", 7, b"x")
    push_bare(world.redis, "PLAYER", "caf\xe9", b"y" * 9000)
    report = world.verify()
    assert sorted(violations_of(report), key=str) == [
        ("I7", "stranded", 7, "OTHER", None),
        ("I7", "stranded", None, "PLAYER", None),
    ]


def test_a_key_that_is_no_lane_is_noted(world: World) -> None:
    world.redis.set(world.lane(7), "x")
    report = world.verify()
    assert_clean(report)
    assert [(note.invariant, note.found) for note in report.notes] == [("I7", 1)]


# I8


@pytest.mark.parametrize("missing", ["claimed", "tokens"])
def test_claims_and_tokens_that_disagree(world: World, missing: str) -> None:
    command = up(7, 1)
    world.send(command)
    world.worker.lanes.claim(PLAYER, "drain", "token", 10)
    if missing == "claimed":
        world.redis.zrem(KEYS.of(PLAYER, "claimed"), "7")
        world.redis.zadd(KEYS.of(PLAYER, "ready"), {"7": 1})
    else:
        world.redis.hdel(KEYS.of(PLAYER, "tokens"), "7")
    assert violations_of(world.verify()) == [("I8", "unfenced", 7, "PLAYER", command.command_id)]


def test_an_entry_that_is_removed_undecided_meanwhile(world: World) -> None:
    first, second = up(7, 1), up(7, 2)
    world.send(first, second)
    push_raw(world.worker, "PLAYER", 8, b"garbage")
    seen = []

    def step(name: str) -> None:
        seen.append(name)
        if name == "snapshot":
            world.redis.lpop(world.lane(7))

    assert violations_of(world.verify(step=step)) == [("I8", "lost", 7, "PLAYER", first.command_id)]
    assert tuple(seen) == STEPS


def test_entries_decided_or_quarantined_meanwhile_are_no_loss(world: World) -> None:
    world.send(up(7, 1), up(8, 2))
    push_raw(world.worker, "PLAYER", 7, b"garbage")
    push_raw(world.worker, "PLAYER", 9, b"z" * 10_000)
    report = world.verify(step=lambda name: world.drain() if name == "lanes again" else None)
    assert_clean(report)
    assert {check.checked for check in report.checks if check.what.startswith("entries that left")} == {4}


def test_a_stale_acknowledgement_in_the_trace(world: World) -> None:
    world.recorder.claimed(PLAYER, "one", [b"7", b"8"])
    world.recorder.acknowledged(PLAYER, "one", [b"8"], [1])
    world.recorder.claimed(PLAYER, "two", [b"7"])
    world.recorder.acknowledged(PLAYER, "one", [b"7"], [-1])
    world.recorder.acknowledged(PLAYER, "two", [b"7"], [1])
    assert_clean(world.verify())
    world.recorder.acknowledged(PLAYER, "one", [b"7"], [0])
    world.recorder.acknowledged(PLAYER, "one", [b"8"], [0])
    assert sorted(violations_of(world.verify()), key=str) == [("I8", "stale", u, "PLAYER", None) for u in (7, 8)]


# I9


def test_recoveries_within_and_beyond_the_bound(world: World) -> None:
    world.recorder.recovered("worker killed", 100.0, 111.9, work_seconds=0.5)
    assert_clean(world.verify())
    world.recorder.recovered("worker stopped", 100.0, 113.0, work_seconds=0.5)
    world.recorder.recovered("PostgreSQL killed", 100.0, None, work_seconds=0.5)
    report = world.verify()
    assert [(v.invariant, v.verdict, v.detail) for v in report.examples] == [
        ("I9", "late", "after worker stopped: the backlog took 13.0 s, expected at most 12.5 s"),
        ("I9", "late", "after PostgreSQL killed: the backlog never drained, expected at most 12.5 s"),
    ]


# History files, limits and the command line


def test_more_violations_than_are_listed_are_counted(world: World) -> None:
    world.recorder.sent([up(7, n) for n in range(5)], [None] * 5)
    report = world.verify(limit=2)
    assert (report.violations, len(report.examples)) == (5, 2)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line: Invalid JSON"),
        ('{"x": 1}', "line: Unable to extract tag"),
        ('{"command_id": "7"}', "command_id: Input should be a valid UUID"),
        (
            '{"ack": "t", "partition": "PLAYER:1:0", "lane": "7", "removed": "1"}',
            "removed: Input should be a valid int",
        ),
    ],
)
def test_a_line_that_is_none_is_named(world: World, line: str, message: str) -> None:
    world.recorder.sent([up(7, 1)], [None])
    with world.path.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(ConfigurationError, match=rf"--history: .*history.jsonl, line 2: {message}"):
        world.verify()


def test_a_line_not_yet_complete_is_left_for_later(world: World, three: list[LevelUp]) -> None:
    with world.path.open("a") as file:
        file.write('{"command_id": "')
    assert_clean(world.verify())


def test_a_file_that_is_not_there_is_named(world: World, tmp_path: Path) -> None:
    world.path = tmp_path / "none.jsonl"
    with pytest.raises(ConfigurationError, match=r"--history: .*none\.jsonl: No such file"):
        world.verify()


def test_the_command_line_on_a_clean_run(world: World, three: list[LevelUp]) -> None:
    code, _ = verify_command(world, "--history", str(world.path), "--at-rest", "--retention", "30d")
    assert code == 0
    code, output = verify_command(world, "--json")
    found = json.loads(output)
    assert (code, found["violations"], found["notes"]) == (0, 0, [])
    assert {check["invariant"] for check in found["checks"]} == {"I2", "I3", "I4", "I6", "I7", "I8"}


def test_the_command_line_names_what_is_wrong(world: World) -> None:
    command = up(7, 1, command_id=new_command_id())
    world.recorder.sent([command], [None])
    code, output = verify_command(world, "--history", str(world.path), "--json")
    (broken,) = [check for check in json.loads(output)["checks"] if check["found"]]
    assert code == 1
    assert broken["examples"] == [
        {
            "invariant": "I1",
            "verdict": "lost",
            "user_id": 7,
            "specialization": "PLAYER",
            "command_id": str(command.command_id),
            "detail": "acknowledged, yet neither in the ledger nor waiting",
        }
    ]


def test_count_that_is_too_high_is_named_until_a_sweep_mends_it(world: World, three: list[LevelUp]) -> None:
    assert world.verify().broken == set()
    world.send(up(8, 1), up(9, 1))
    assert not world.verify().notes
    for wrong in ("99999999", "no number"):
        world.redis.set(KEYS.of(PLAYER, "count"), wrong)
        (example,) = world.verify().examples
        assert (example.invariant, example.verdict) == ("I7", "miscounted")
        assert example.detail.startswith(f"levelq:{{PLAYER:1:0}}:count is {wrong}, and 2 entries stand in the lanes")
        Lanes(world.redis, world.settings).sweep(PLAYER)
        assert world.verify().broken == set()
    world.redis.incr(KEYS.of(PLAYER, "count"))  # refuses nothing yet
    report = world.verify()
    assert report.broken == set() and [note.found for note in report.notes] == [1]
    world.redis.delete(KEYS.lane(PLAYER, 8))
    assert {"I1"} == world.verify().broken
