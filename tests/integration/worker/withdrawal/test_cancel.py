"""`levelq cancel` and `levelq purge`: what waits is rejected for good, also while a drain decides it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID, uuid4

import pytest
from redis import Redis
from sqlalchemy import Engine, text

from levelq import LevelUp, Outbox, Outcome, Producer, SetLevel, Settings
from levelq.cli.app import run
from levelq_core import failpoints as faults
from levelq_core.domain.codec import encode
from levelq_core.keys import Partition
from levelq_core.lanes.client import Lanes
from levelq_worker.draining.context import Runtime
from levelq_worker.draining.drain import Drain
from tests.support.coupler import drain_all, push, push_bare, push_raw, runtime, session
from tests.support.fixtures.keys import KEYS

PLAYER = Partition("PLAYER")
CommandLine = Callable[..., tuple[int, str, str]]


def up(user_id: int, xp: int = 1, specialization: str = "PLAYER", **fields: Any) -> LevelUp:
    return LevelUp(user_id=user_id, specialization=specialization, xp_gained=xp, **fields)


@pytest.fixture
def worker(settings: Settings) -> Iterator[Runtime]:
    with runtime(settings) as made:
        yield made


@pytest.fixture
def producer(settings: Settings) -> Iterator[Producer]:
    with Producer(settings) as made:
        yield made


@pytest.fixture
def levelq(settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    """Run a command with the test's settings: exit code, stdout, stderr."""
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)

    def call(*arguments: object) -> tuple[int, str, str]:
        code = run(list(map(str, arguments)))
        return (code, *capsys.readouterr())

    return call


def rows(engine: Engine, query: str, **values: Any) -> list[tuple[Any, ...]]:
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(text(query), values)]


def decisions(engine: Engine) -> dict[UUID, tuple[str, str | None]]:
    return {row[0]: (row[1], row[2]) for row in rows(engine, "SELECT command_id, status, error FROM levelq_ledger")}


def store(settings: Settings, engine: Engine, *commands: LevelUp) -> list[Any]:
    """Commit commands to the outbox, as an application does."""
    with engine.begin() as connection:
        return Outbox(connection, settings=settings).send_many(commands, reply=True)


def empty(redis: Redis) -> bool:
    """Whether nothing is left of any lane."""
    found: Any = redis.keys("levelq:{*")
    names = {key.decode().rpartition("}:")[2] for key in found}
    return not {name for name in names if name.startswith("lane:") or name in ("ready", "parked", "count", "claimed")}


def test_cancelled_command_is_a_final_rejection_for_who_waits_and_for_a_second_send(
    settings: Settings, redis: Redis, own_engine: Engine, worker: Runtime, producer: Producer, levelq: CommandLine
) -> None:
    commands = [up(7, xp) for xp in (1, 2, 3)]
    handles = [producer.send(command) for command in commands]
    stays = producer.send(up(8))
    code, told, _ = levelq("cancel", 7, "player", "--yes")
    assert (code, told.splitlines()[-1]) == (0, "3 commands cancelled")
    for handle in handles:
        outcome = handle.result(1)
        assert (outcome.status, outcome.error, outcome.duplicate) == ("rejected", "cancelled", False)
        assert outcome.message == "taken back before it was decided"
    assert list(redis.keys("levelq:{*:lane:*")) == [KEYS.lane(PLAYER, 8).encode()]
    assert worker.lanes.status(PLAYER).waiting == 1
    again = producer.send(commands[0])
    drain_all(worker, "PLAYER")
    assert stays.result(1).status == "applied"
    found = again.result(1)
    assert (found.status, found.error, found.duplicate) == ("rejected", "cancelled", True)
    assert Outcome.model_validate_json(found.model_dump_json()) == found
    assert rows(own_engine, "SELECT student_id, total_xp FROM specialization_progress") == [(8, 1)]


def test_one_command_in_the_middle_is_cancelled_and_the_others_keep_their_order(
    own_engine: Engine, worker: Runtime, producer: Producer, levelq: CommandLine
) -> None:
    commands = [SetLevel(user_id=7, specialization="PLAYER", new_level=n) for n in (2, 3, 4, 5)]
    producer.send_many(commands)
    wanted = commands[2].command_id
    assert levelq("cancel", 7, "PLAYER", "--id", wanted, "--yes")[:2][1].endswith("1 command cancelled\n")
    assert worker.lanes.status(PLAYER).waiting == 3
    drain_all(worker, "PLAYER")
    query = "SELECT command_id FROM levelq_ledger WHERE status = 'applied' ORDER BY id"
    assert [row[0] for row in rows(own_engine, query)] == [c.command_id for c in commands if c.command_id != wanted]
    code, _, said = levelq("cancel", 7, "PLAYER", "--id", wanted, "--yes")
    assert (code, "was decided: rejected, cancelled" in said) == (1, True)
    code, _, said = levelq("cancel", 7, "PLAYER", "--id", uuid4(), "--yes")
    assert (code, "the ledger does not know it" in said) == (1, True)


def test_command_that_is_applied_before_the_answer_to_the_question_is_told_as_not_cancelled(
    settings: Settings,
    producer: Producer,
    worker: Runtime,
    levelq: CommandLine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    command = up(7)
    producer.send(command)
    monkeypatch.setattr("levelq.cli.cancel.confirm", lambda question: drain_all(worker, "PLAYER"))
    code, told, said = levelq("cancel", 7, "PLAYER", "--id", command.command_id)
    assert (code, "was decided: applied" in said) == (1, True)
    assert "0 commands cancelled" in told


def test_command_of_a_newer_version_is_told_as_not_cancelled(worker: Runtime, levelq: CommandLine) -> None:
    command = up(7)
    payload = encode(command)
    push_raw(worker, "PLAYER", 7, payload[:2] + b"\x63" + payload[3:])
    code, _, said = levelq("cancel", 7, "PLAYER", "--id", command.command_id, "--yes")
    assert (code, "1 command left: a newer version" in said) == (1, True)


def test_outbox_rows_are_taken_back_pushed_or_not(
    settings: Settings, own_engine: Engine, worker: Runtime, redis: Redis, levelq: CommandLine
) -> None:
    commands = [up(7, n) for n in (1, 2, 3)]
    handles = store(settings, own_engine, *commands)
    push(worker, commands[:1])
    with own_engine.begin() as connection:
        connection.execute(text("UPDATE levelq_outbox SET pushed_at = now(), pushes = 1 WHERE id = 1"))
        connection.execute(
            text(
                "INSERT INTO levelq_outbox (command_id, user_id, specialization, payload)"
                " VALUES (gen_random_uuid(), 7, 'PLAYER', 'no command')"
            )
        )
    assert levelq("cancel", 7, "PLAYER", "--yes")[0] == 0
    assert decisions(own_engine) == {c.command_id: ("rejected", "cancelled") for c in commands}
    assert [handle.result(1).error for handle in handles] == ["cancelled"] * 3
    assert rows(own_engine, "SELECT FROM levelq_outbox") == []
    assert rows(own_engine, "SELECT user_id FROM levelq_quarantine") == [(7,)]
    assert empty(redis)


def test_commands_must_be_confirmed_and_a_dry_run_changes_nothing(
    own_engine: Engine, redis: Redis, producer: Producer, levelq: CommandLine
) -> None:
    producer.send_many([up(7), up(7, specialization="COACH")])
    for command in (("cancel", 7, "PLAYER"), ("purge",), ("purge", "COACH")):
        code, told, said = levelq(*command)
        assert (code, said.count("\n"), "--yes" in said) == (2, 1, True)
        assert "1 command in lanes, 0 rows in the outbox" in told
        assert levelq(*command, "--dry-run")[0] == 0
    assert levelq("purge", "--json")[0] == 2
    assert json.loads(levelq("purge", "--json", "--dry-run")[1])["waiting"] == {
        "lanes": 2, "in_lanes": {"COACH": 1, "PLAYER": 1}, "in_outbox": {},
    }  # fmt: skip
    assert decisions(own_engine) == {}
    assert len(redis.keys("levelq:{*:lane:*")) == 2


def test_purge_takes_back_all_of_a_specialization_or_everything(
    settings: Settings,
    own_engine: Engine,
    redis: Redis,
    worker: Runtime,
    producer: Producer,
    levelq: CommandLine,
) -> None:
    coaches = [up(n, specialization="COACH") for n in range(1, 4)]
    players = [up(n % 300 + 1) for n in range(1500)]
    producer.send_many([*coaches, *players])
    store(settings, own_engine, up(9, specialization="INTERNSHIP"))
    code, told, _ = levelq("purge", "coach", "--yes", "--json")
    assert (code, json.loads(told)["cancelled"]) == (0, 3)
    assert worker.lanes.status(PLAYER).waiting == 1500
    worker.lanes.claim(PLAYER, "drain", "token", 100)  # a drain holds some, and has died
    code, told, _ = levelq("purge", "--yes")
    assert (code, told.splitlines()[-1]) == (0, "1,501 commands cancelled")
    assert set(decisions(own_engine).values()) == {("rejected", "cancelled")}
    assert not redis.keys("levelq:{*:lane:*") and worker.lanes.status(PLAYER).waiting == 0
    assert levelq("purge")[1] == "everything: nothing to cancel\n"


def test_one_long_lane_is_taken_back_page_by_page(
    redis: Redis, own_engine: Engine, worker: Runtime, producer: Producer, levelq: CommandLine
) -> None:
    producer.send_many([up(7) for _ in range(2500)])
    push_raw(worker, "PLAYER", 7, b"rubbish")
    push_raw(worker, "PLAYER", 7, b"x" * 10_000)
    code, told, _ = levelq("purge", "--yes")
    assert (code, told.splitlines()[-1]) == (0, "2,500 commands cancelled, 2 malformed quarantined")
    assert empty(redis)
    query = "SELECT length FROM levelq_quarantine ORDER BY length"
    assert [row[0] for row in rows(own_engine, query)] == [20, 10_013]


def test_commands_of_a_newer_version_stay_and_so_do_keys_of_other_code(
    redis: Redis, own_engine: Engine, worker: Runtime, levelq: CommandLine
) -> None:
    first, second = encode(up(7)), encode(up(7))
    newer = first[:2] + b"\x63" + first[3:]
    push_raw(worker, "PLAYER", 7, newer)
    push_raw(worker, "PLAYER", 7, second)
    redis.set(KEYS.lane(PLAYER, 8), "no list")
    push_bare(redis, "PLAYER", "no-id", b"stranded, of no user")
    code, told, said = levelq("purge", "--yes")
    assert (code, told.splitlines()[-1]) == (0, "1 command cancelled, 1 malformed quarantined")
    assert "1 command left: a newer version of levelq sent them" in said
    assert "lane:8 is no list" in said
    assert [entry[13:] for entry in redis.lrange(KEYS.lane(PLAYER, 7), 0, -1)] == [newer]
    assert worker.lanes.status(PLAYER)[:2] == (0, 1) or worker.lanes.status(PLAYER).waiting == 1


def test_parked_lane_whose_rows_other_code_holds_is_cancelled_without_waiting(
    settings: Settings, own_engine: Engine, worker: Runtime, producer: Producer, levelq: CommandLine, redis: Redis
) -> None:
    producer.send(up(7))
    drain_all(worker, "PLAYER")
    with session(str(settings.database_url)) as holder:
        holder.execute("SELECT FROM specialization_progress FOR UPDATE")
        held = producer.send(up(7, 5))
        Drain(worker, PLAYER).run()
        assert worker.lanes.status(PLAYER).parked == 1
        assert levelq("cancel", 7, "PLAYER", "--yes")[0] == 0
        assert held.result(1).error == "cancelled"
    assert empty(redis)


def test_cancelled_head_that_parked_its_lane_lets_the_others_go_on_at_once(
    worker: Runtime, producer: Producer, levelq: CommandLine
) -> None:
    first, second = up(7), up(7)
    producer.send_many([first, second])
    ((user, _entries),) = worker.lanes.claim(PLAYER, "drain", "token", 10).lanes
    worker.lanes.ack(PLAYER, "token", [(user, 600_000, b"")], {user: "a trigger raised this (SQLSTATE P0001)"})
    assert worker.lanes.status(PLAYER).parked == 1
    levelq("cancel", 7, "PLAYER", "--id", second.command_id, "--yes")
    assert worker.lanes.status(PLAYER).parked == 1  # its head is the one that parked it
    levelq("cancel", 7, "PLAYER", "--id", first.command_id, "--yes")
    third = producer.send(up(7))
    drain_all(worker, "PLAYER")
    assert third.result(1).status == "applied"


@pytest.mark.parametrize(
    "fault_point", ["claim reply", "begin", "ledger", "copy", "commit request", "commit reply", "ack request"]
)
def test_drain_and_cancel_at_the_same_time_decide_each_command_once(
    fault_point: str,
    settings: Settings,
    redis: Redis,
    own_engine: Engine,
    worker: Runtime,
    producer: Producer,
    levelq: CommandLine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A drain passes each of its steps while its commands are cancelled; the first to commit has decided."""
    handles = producer.send_many([up(7) for _ in range(5)], reply=True)
    told: list[tuple[int, str, str]] = []

    def hook(name: str) -> None:
        if name == fault_point and not told and threading.current_thread() is threading.main_thread():
            told.append((0, "", ""))
            told.append(levelq("cancel", 7, "PLAYER", "--yes"))

    with monkeypatch.context() as patch:
        patch.setattr(faults, "hook", hook)
        Drain(worker, PLAYER).run()
    assert told[1][0] == 0
    drain_all(worker, "PLAYER")
    assert empty(redis)
    outcomes = [handle.result(1) for handle in handles]
    assert len({(outcome.status, outcome.error) for outcome in outcomes}) == 1
    applied = sum(outcome.status == "applied" for outcome in outcomes)
    assert [status for status, _ in decisions(own_engine).values()].count("applied") == applied
    assert rows(own_engine, "SELECT coalesce(sum(total_xp), 0) FROM specialization_progress") == [(applied,)]
    assert Lanes(redis, settings).status(PLAYER).waiting == 0


def test_cancel_leaves_one_line_in_the_audit_in_the_transaction_of_the_deed(
    own_engine: Engine, producer: Producer, levelq: CommandLine, redis: Redis
) -> None:
    producer.send_many([up(7) for _ in range(1200)])
    levelq("cancel", 7, "PLAYER", "--yes")
    levelq("cancel", 7, "PLAYER", "--yes")  # nothing waits: no deed, no line
    ((actor, origin, action, target, detail),) = rows(
        own_engine, "SELECT actor, origin, action, target, detail FROM levelq_audit"
    )
    assert (action, target, detail["cancelled"]) == ("cancel", "user 7 PLAYER", 1200)
    assert actor.endswith(" as postgres") and origin
