"""`levelq cancel` and `levelq purge`: waiting commands are rejected for good, also while a drain decides them."""

import json
import threading
from typing import Any
from uuid import UUID, uuid4

import pytest

from levelq import Outcome, SetLevel
from levelq_core import failpoints as faults
from levelq_core.domain.codec import encode
from levelq_core.redis_client.topology import time_ms
from tests.support.coupler import push_bare, session
from tests.support.fixtures.command_line import Levelq
from tests.support.fixtures.keys import KEYS
from tests.support.fixtures.waiting import until
from tests.support.system import PLAYER, System, up


def decisions(system: System) -> dict[UUID, tuple[str, str | None]]:
    return {row[0]: row[1:] for row in system.rows("SELECT command_id, status, error FROM levelq_ledger")}


def newer(payload: bytes) -> bytes:
    """The same entry in the encoding of a newer version."""
    return payload[:2] + b"\x63" + payload[3:]


def empty(system: System) -> bool:
    """Whether nothing is left of any lane."""
    found: Any = system.redis.keys("levelq:{*")
    names = {key.decode().rpartition("}:")[2] for key in found}
    return not {name for name in names if name.startswith("lane:") or name in ("ready", "parked", "count", "claimed")}


def last_line(out: str) -> str:
    return out.splitlines()[-1]


def test_cancelled_command_is_a_final_rejection_for_its_handle_and_for_a_second_send(
    system: System, levelq_here: Levelq
) -> None:
    commands = [up(7, xp) for xp in (1, 2, 3)]
    handles = [system.producer.send(command) for command in commands]
    stays = system.producer.send(up(8))
    code, out, _ = levelq_here("cancel", 7, "player", "--yes")
    assert (code, last_line(out)) == (0, "3 commands cancelled")
    for handle in handles:
        outcome = handle.result(1)
        assert (outcome.status, outcome.error, outcome.duplicate) == ("rejected", "cancelled", False)
        assert outcome.message == "taken back before it was decided"
    assert list(system.redis.keys("levelq:{*:lane:*")) == [KEYS.lane(PLAYER, 8).encode()]
    assert system.status().waiting == 1
    again = system.producer.send(commands[0])
    system.drain()
    assert stays.result(1).status == "applied"
    found = again.result(1)
    assert (found.status, found.error, found.duplicate) == ("rejected", "cancelled", True)
    assert Outcome.model_validate_json(found.model_dump_json()) == found
    assert system.rows("SELECT student_id, total_xp FROM specialization_progress") == [(8, 1)]


def test_one_command_in_the_middle_is_cancelled_and_the_others_keep_their_order(
    system: System, levelq_here: Levelq
) -> None:
    commands = [SetLevel(user_id=7, specialization="PLAYER", new_level=n) for n in (2, 3, 4, 5)]
    system.producer.send_many(commands)
    wanted = commands[2].command_id
    assert levelq_here("cancel", 7, "PLAYER", "--id", wanted, "--yes")[1].endswith("1 command cancelled\n")
    assert system.status().waiting == 3
    system.drain()
    applied = system.rows("SELECT command_id FROM levelq_ledger WHERE status = 'applied' ORDER BY id")
    assert [row[0] for row in applied] == [c.command_id for c in commands if c.command_id != wanted]
    reasons = {wanted: "was decided: rejected, cancelled", uuid4(): "the ledger does not know it"}
    for command_id, expected in reasons.items():
        code, _, err = levelq_here("cancel", 7, "PLAYER", "--id", command_id, "--yes")
        assert (code, expected in err) == (1, True)


def test_command_that_is_applied_before_the_confirmation_is_reported_as_not_cancelled(
    system: System, levelq_here: Levelq, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = up(7)
    system.producer.send(command)
    monkeypatch.setattr("levelq.cli.cancel.confirm", lambda question, **_: system.drain())
    code, out, err = levelq_here("cancel", 7, "PLAYER", "--id", command.command_id)
    assert (code, "was decided: applied" in err) == (1, True)
    assert "0 commands cancelled" in out


def test_what_is_sent_while_the_question_is_asked_stays(
    system: System, levelq_here: Levelq, monkeypatch: pytest.MonkeyPatch
) -> None:
    system.push(up(7), up(7))
    later = up(7, 70)

    def answer(*_: object, abort: bool) -> None:
        seen = time_ms(system.redis)
        until(lambda: time_ms(system.redis) > seen)  # entries hold their time in milliseconds
        system.push(later)

    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("typer.confirm", answer)
    code, out, _ = levelq_here("cancel", 7, "PLAYER")
    assert (code, last_line(out)) == (0, "2 commands cancelled")
    system.drain()
    assert decisions(system)[later.command_id] == ("applied", None)


def test_command_of_a_newer_version_is_reported_as_not_cancelled(system: System, levelq_here: Levelq) -> None:
    command = up(7)
    system.push_raw(7, newer(encode(command)))
    code, _, err = levelq_here("cancel", 7, "PLAYER", "--id", command.command_id, "--yes")
    assert (code, "1 command left: a newer version" in err) == (1, True)


def test_outbox_rows_are_cancelled_whether_pushed_or_not(system: System, levelq_here: Levelq) -> None:
    commands = [up(7, n) for n in (1, 2, 3)]
    handles = system.commit(*commands, reply=True)
    system.push(commands[0])
    system.sql(
        "UPDATE levelq_outbox SET pushed_at = now(), pushes = 1 WHERE id = 1",
        "INSERT INTO levelq_outbox (command_id, user_id, specialization, payload)"
        " VALUES (gen_random_uuid(), 7, 'PLAYER', 'no command')",
    )
    assert levelq_here("cancel", 7, "PLAYER", "--yes")[0] == 0
    assert decisions(system) == {c.command_id: ("rejected", "cancelled") for c in commands}
    assert [handle.result(1).error for handle in handles] == ["cancelled"] * 3
    assert system.rows("SELECT FROM levelq_outbox") == []
    assert system.rows("SELECT user_id FROM levelq_quarantine") == [(7,)]
    assert empty(system)


def test_commands_must_be_confirmed_and_a_dry_run_changes_nothing(system: System, levelq_here: Levelq) -> None:
    system.producer.send_many([up(7), up(7, specialization="COACH")])
    for command in (("cancel", 7, "PLAYER"), ("purge",), ("purge", "COACH")):
        code, out, err = levelq_here(*command)
        assert (code, err.count("\n"), "--yes" in err) == (2, 1, True)
        assert "1 command in lanes, 0 rows in the outbox" in out
        assert levelq_here(*command, "--dry-run")[0] == 0
    assert levelq_here("purge", "--json")[0] == 2
    expected = {"lanes": 2, "in_lanes": {"COACH": 1, "PLAYER": 1}, "in_outbox": {}}
    assert json.loads(levelq_here("purge", "--json", "--dry-run")[1])["waiting"] == expected
    assert decisions(system) == {}
    assert len(system.redis.keys("levelq:{*:lane:*")) == 2


def test_purge_cancels_all_of_a_specialization_or_everything(system: System, levelq_here: Levelq) -> None:
    coaches = [up(n, specialization="COACH") for n in range(1, 4)]
    system.producer.send_many([*coaches, *(up(n % 300 + 1) for n in range(1500))])
    system.commit(up(9, specialization="INTERNSHIP"), reply=True)
    code, out, _ = levelq_here("purge", "coach", "--yes", "--json")
    assert (code, json.loads(out)["cancelled"]) == (0, 3)
    assert system.status().waiting == 1500
    system.lanes.claim(PLAYER, "drain", "token", 100)  # a drain that has died holds some
    code, out, _ = levelq_here("purge", "--yes")
    assert (code, last_line(out)) == (0, "1,501 commands cancelled")
    assert set(decisions(system).values()) == {("rejected", "cancelled")}
    assert not system.redis.keys("levelq:{*:lane:*") and system.status().waiting == 0
    assert levelq_here("purge")[1] == "everything: nothing to cancel\n"


def test_one_long_lane_is_cancelled_page_by_page(system: System, levelq_here: Levelq) -> None:
    system.producer.send_many([up(7) for _ in range(2500)])
    system.push_raw(7, b"garbage")
    system.push_raw(7, b"x" * 10_000)
    code, out, _ = levelq_here("purge", "--yes")
    assert (code, last_line(out)) == (0, "2,500 commands cancelled, 2 malformed quarantined")
    assert empty(system)
    assert system.rows("SELECT length FROM levelq_quarantine ORDER BY length") == [(20,), (10_013,)]


def test_purge_leaves_commands_of_a_newer_version_and_keys_of_other_code(system: System, levelq_here: Levelq) -> None:
    left = newer(encode(up(7)))
    system.push_raw(7, left)
    system.push_raw(7, encode(up(7)))
    system.redis.set(KEYS.lane(PLAYER, 8), "no list")
    push_bare(system.redis, "PLAYER", "no-id", b"stranded, of no user")
    code, out, err = levelq_here("purge", "--yes")
    assert (code, last_line(out)) == (0, "1 command cancelled, 1 malformed quarantined")
    assert "1 command left: a newer version of levelq sent them" in err
    assert "lane:8 is no list" in err
    assert [entry[13:] for entry in system.redis.lrange(KEYS.lane(PLAYER, 7), 0, -1)] == [left]
    assert system.status()[:2] == (0, 1) or system.status().waiting == 1


def test_parked_lane_whose_rows_other_code_holds_is_cancelled_without_waiting(
    system: System, levelq_here: Levelq
) -> None:
    system.producer.send(up(7))
    system.drain()
    with session(str(system.settings.database_url)) as holder:
        holder.execute("SELECT FROM specialization_progress FOR UPDATE")
        held = system.producer.send(up(7, 5))
        system.run_drains(PLAYER)
        assert system.status().parked == 1
        assert levelq_here("cancel", 7, "PLAYER", "--yes")[0] == 0
        assert held.result(1).error == "cancelled"
    assert empty(system)


def test_cancelled_head_that_parked_its_lane_lets_the_others_go_on_at_once(system: System, levelq_here: Levelq) -> None:
    first, second = up(7), up(7)
    system.producer.send_many([first, second])
    ((user, _entries),) = system.lanes.claim(PLAYER, "drain", "token", 10).lanes
    system.lanes.ack(PLAYER, "token", [(user, 600_000, b"")], {user: "a trigger raised this (SQLSTATE P0001)"})
    assert system.status().parked == 1
    levelq_here("cancel", 7, "PLAYER", "--id", second.command_id, "--yes")
    assert system.status().parked == 1  # its head is the one that parked it
    levelq_here("cancel", 7, "PLAYER", "--id", first.command_id, "--yes")
    third = system.producer.send(up(7))
    system.drain()
    assert third.result(1).status == "applied"


@pytest.mark.parametrize(
    "fault_point", ["claim reply", "begin", "ledger", "copy", "commit request", "commit reply", "ack request"]
)
def test_drain_and_cancel_at_the_same_time_decide_each_command_once(
    fault_point: str, system: System, levelq_here: Levelq, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A drain passes each of its steps while its commands are cancelled; the first to commit has decided."""
    handles = system.producer.send_many([up(7) for _ in range(5)], reply=True)
    codes: list[int] = []
    reached = threading.Event()

    def hook(name: str) -> None:
        if name == fault_point and not reached.is_set() and threading.current_thread() is threading.main_thread():
            reached.set()
            codes.append(levelq_here("cancel", 7, "PLAYER", "--yes")[0])

    with monkeypatch.context() as patch:
        patch.setattr(faults, "hook", hook)
        system.run_drains(PLAYER)
    assert codes == [0]
    system.drain()
    assert empty(system)
    outcomes = [handle.result(1) for handle in handles]
    assert len({(outcome.status, outcome.error) for outcome in outcomes}) == 1
    applied = sum(outcome.status == "applied" for outcome in outcomes)
    assert [status for status, _ in decisions(system).values()].count("applied") == applied
    assert system.total_xp() == applied
    assert system.status().waiting == 0


def test_cancel_writes_one_line_into_the_audit(system: System, levelq_here: Levelq) -> None:
    system.producer.send_many([up(7) for _ in range(1200)])
    levelq_here("cancel", 7, "PLAYER", "--yes")
    levelq_here("cancel", 7, "PLAYER", "--yes")  # nothing waits, so there is no line
    ((actor, origin, action, target, detail),) = system.rows(
        "SELECT actor, origin, action, target, detail FROM levelq_audit"
    )
    assert (action, target, detail["cancelled"]) == ("cancel", "user 7 PLAYER", 1200)
    assert actor.endswith(" as postgres") and origin
