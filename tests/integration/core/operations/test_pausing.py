"""`levelq pause`, `resume` and `drain`: what they change and say, and what other commands make of a pause."""

import json
import re
from datetime import timedelta
from typing import Any

import pytest

from levelq_core import ConfigurationError, OutcomeTimeout
from levelq_core.keys import Partition
from levelq_core.lanes.lane_editor import LaneEditor
from levelq_core.lanes.pauses import pause_of, pauses
from levelq_core.lanes.shard_layout import Layout
from levelq_core.operations.pausing import PauseScope, Pausing
from levelq_core.operations.readings.status import status
from levelq_worker.process.worker_main import drain_until_empty
from levelq_worker.relay import resharding
from levelq_worker.sweeper import Sweeper
from tests.support.fixtures.command_line import NOWHERE, SECRET, Levelq
from tests.support.fixtures.keys import KEYS
from tests.support.fixtures.waiting import until
from tests.support.isolation import experience
from tests.support.outbox import OutboxSystem
from tests.support.system import PLAYER, System, up

SINCE = r"paused by \S+ since [-0-9]+ [:0-9]+ UTC, until"
AWAY = f"postgresql://ann:{SECRET}@{NOWHERE}/app"


def audited(system: System) -> list[tuple[Any, ...]]:
    return system.rows("SELECT action, target, detail FROM levelq_audit ORDER BY id")


def matches(text: str, *patterns: str) -> None:
    """Each line of a text matches its pattern."""
    lines = text.splitlines()
    assert len(lines) == len(patterns), text
    for line, pattern in zip(lines, patterns, strict=True):
        assert re.fullmatch(pattern, line), line


def test_pause_and_resume_say_what_was_and_is_and_are_written_down(system: System, levelq_here: Levelq) -> None:
    code, out, err = levelq_here("pause", "player", "--for", "1h", "--reason", "the\x1b[31m ledger | moves")
    assert (code, err) == (0, "")
    first = rf"{SINCE} [-0-9]+ [:0-9]+ UTC: the\\x1b\[31m ledger \| moves"
    matches(out, f"PLAYER: {first}", "no drain applies anything of it now")
    matches(levelq_here("pause", "PLAYER").out, f"PLAYER: {SINCE} resumed", f"PLAYER: it was {first}", "no drain .*")
    matches(levelq_here("pause", "--user", "42").out, f"user 42 in COACH, INTERNSHIP, PLAYER: {SINCE} resumed", "no .*")
    matches(levelq_here("pause", "COACH", "--user", "43").out, f"user 43 in COACH: {SINCE} resumed", "no .*")
    before = levelq_here("resume", "--dry-run").out
    matches(before, "everything: nothing was changed; this is paused", f"PLAYER: {SINCE} resumed")
    matches(levelq_here("resume").out, f"PLAYER: resumed; it was {SINCE} resumed")
    matches(levelq_here("resume", "--yes").out, "everything: not paused")
    found = json.loads(levelq_here("resume", "--user", "42", "--json").out)
    assert [(was["specialization"], was["user"], was["until"]) for was in found["before"]] == [
        ("COACH", 42, None), ("INTERNSHIP", 42, None), ("PLAYER", 42, None),
    ]  # fmt: skip
    assert list(pauses(system.redis, KEYS, Partition("COACH"))) == [43]
    assert audited(system) == [
        ("pause", "PLAYER", {"for_seconds": 3600, "reason": r"the\x1b[31m ledger | moves"}),
        ("pause", "PLAYER", {"for_seconds": None, "reason": ""}),
        ("pause", "user 42", {"for_seconds": None, "reason": ""}),
        ("pause", "user 43 COACH", {"for_seconds": None, "reason": ""}),
        ("resume", "everything", {"partitions": 1}),
        ("resume", "user 42", {"partitions": 3}),
    ]


def test_whole_namespace_is_paused_after_a_confirmation_and_what_is_wrong_is_refused(
    system: System, levelq_here: Levelq
) -> None:
    for arguments, expected in (
        (("pause",), "no terminal to ask for confirmation; use --yes"),
        (("pause", "--json"), "--json: expected --yes"),
        (("pause", "PLAYER", "--for", "0s"), "--for: expected more than 0, got '0s'"),
        (("pause", "PLAYER", "--for", "soon"), "--for: expected a number and a unit"),
        (("pause", "NONE"), "expected one of"),
        (("pause", "--user", "0"), "expected 1 to"),
        (("pause", "PLAYER", "--reason", "x" * 201), "reason: expected at most 200 characters, got 201"),
        (("drain", "--timeout", "1s"), "--timeout: expected --wait"),
    ):
        assert expected in levelq_here.refused(*arguments)
    assert levelq_here("pause", "PLAYER", "--dry-run").out == "PLAYER: nothing was changed; it is not paused\n"
    assert system.redis.keys("*:paused") == []
    found = json.loads(levelq_here("pause", "--yes", "--json").out)
    assert [now["partitions"] for now in found["now"]] == [["COACH:1:0"], ["INTERNSHIP:1:0"], ["PLAYER:1:0"]]
    assert (found["in_hand"], found["unwritten"], found["before"]) == (0, None, [])


@pytest.mark.parametrize(("url", "why"), [(AWAY, "not written into the audit: LEVELQ_DATABASE_URL: "), ("", "")])
def test_pause_works_without_the_database_and_says_that_it_is_not_written_down(
    system: System, levelq_here: Levelq, url: str, why: str
) -> None:
    for command in ("pause", "resume"):
        code, _, err = levelq_here(command, "PLAYER", LEVELQ_DATABASE_URL=url)
        assert (code, err.count("\n"), err.startswith(why)) == (0, bool(why), True)
        assert (pause_of(system.redis, KEYS, PLAYER) is not None) is (command == "pause")
    code, out, err = levelq_here("resume", "PLAYER", LEVELQ_DATABASE_URL=url)
    assert (code, out, err) == (0, "PLAYER: not paused\n", "")  # nothing was done, so nothing lacks its line


def test_actor_of_another_program_is_shown_and_written_down(system: System) -> None:
    acting = Pausing(system.engine, LaneEditor(system.redis, system.settings), system.waker, system.settings, "bo|b\n")
    (now,) = acting.pause(PauseScope(["PLAYER"])).now
    assert now.actor == "bo/b"
    assert system.rows("SELECT actor FROM levelq_audit") == [("bo|b\n as postgres",)]


def test_status_names_pauses_and_no_standstill(system: System, levelq_here: Levelq) -> None:
    system.push(*(up(user) for user in range(1, 9)))
    system.redis.zadd(KEYS.of(PLAYER, "ready"), {str(user): 0 for user in range(1, 9)})  # due for long, and no worker
    assert any("no worker serves it" in problem for problem in levelq_here.status()["problems"])
    levelq_here("pause", "PLAYER", "--for", "30m", "--reason", "a look")
    for user in range(1, 8):
        levelq_here("pause", "--user", user, "PLAYER", "--no-wait")
    found = levelq_here.status()
    lines = [rf"PLAYER: {SINCE} .*: a look; to end it: levelq resume PLAYER"]
    lines += [rf"user {u} in PLAYER: {SINCE} resumed; to end it: levelq resume PLAYER --user {u}" for u in range(1, 6)]
    matches("\n".join(found["problems"]), *lines, "2 users more paused: levelq status --json")
    assert [pause["user"] for pause in found["pauses"]] == [None, 1, 2, 3, 4, 5, 6, 7]
    assert found["pauses"][0]["partitions"] == ["PLAYER:1:0"] and len(found["parked_lanes"]) == 7
    assert status(system.settings).pauses[0].reason == "a look"
    shown = levelq_here("history", 3).out
    assert "paused by" in shown and "when the pause ends" in shown
    assert re.search(rf"paused  PLAYER: {SINCE} .*: a look; to end it", levelq_here("history", 8).out)
    with pytest.raises(OutcomeTimeout, match=r"its lane waits: its partition is paused by \S+: a look"):
        system.producer.send(up(8)).result(0.01)


def test_burst_ends_and_says_what_is_paused(system: System, levelq: Levelq) -> None:
    system.push(up(1), up(2), up(3, specialization="COACH"), up(4, specialization="COACH"))
    lanes = LaneEditor(system.redis, system.settings)
    lanes.pause(PLAYER, None, 0, "ann", "")
    lanes.pause(Partition("COACH"), 3, 0, "ann", "")
    code, out, _ = levelq("worker", "--burst")
    assert code == 0
    matches(
        out,
        "done: nothing is due but what is paused; lanes parked for later: 1",
        f"PLAYER: {SINCE} resumed; to end it: levelq resume PLAYER",
        f"user 3 in COACH: {SINCE} resumed; to end it: levelq resume COACH --user 3",
    )
    assert experience(system.engine) == {4: 1}
    for partition, user in ((PLAYER, None), (Partition("COACH"), 3)):
        lanes.resume(partition, user)
    drain_until_empty(system.settings, ["PLAYER", "COACH"])
    assert experience(system.engine) == {1: 1, 2: 1, 3: 1, 4: 1}


def test_outbox_is_relayed_while_its_partition_is_paused(outbox: OutboxSystem, levelq_here: Levelq) -> None:
    levelq_here("pause", "PLAYER")
    outbox.send(1, 2)
    drain_until_empty(outbox.settings, ["PLAYER"])
    assert (outbox.status().waiting, outbox.applied()) == (2, 0)
    levelq_here("resume", "PLAYER")
    drain_until_empty(outbox.settings, ["PLAYER"])
    assert (outbox.status().waiting, outbox.applied()) == (0, 2)


def test_paused_lane_is_cancelled_purged_and_forgotten_as_any_other(system: System, levelq_here: Levelq) -> None:
    levelq_here("pause", "--user", 7)
    system.push(up(7), up(7), up(8))
    assert levelq_here("cancel", 7, "PLAYER", "--yes").out.endswith("2 commands cancelled\n")
    system.push(up(7))
    assert levelq_here("purge", "PLAYER", "--yes").out.endswith("2 commands cancelled\n")
    assert "resume  3 paused lanes" in levelq_here("forget", 7, "--dry-run").out
    assert levelq_here("forget", 7, "--yes").code == 0
    assert system.redis.keys("*:paused") == []
    assert levelq_here("forget", 7, "--yes").out == "user 7: nothing to erase\n"
    assert audited(system)[0][:2] == ("pause", "user 0")


def test_change_of_shards_waits_for_a_pause_and_a_pause_covers_both_generations(
    system: System, levelq_here: Levelq
) -> None:
    system.push(up(1), up(2))
    acting = Pausing(None, LaneEditor(system.redis, system.settings), system.waker, system.settings)
    acting.pause(PauseScope(["PLAYER"], 1))
    with pytest.raises(
        ConfigurationError, match=r"PLAYER: something is paused, .+`levelq resume PLAYER --user 1` ends"
    ):
        resharding.begin(system.lanes, "PLAYER", 2)
    acting.resume(PauseScope(["PLAYER"], 1))
    system.lanes.change_layout("PLAYER", Layout(1, 1), Layout(1, 1, next_shards=2))  # as if it had died midway
    (now,) = acting.pause(PauseScope(["PLAYER"])).now
    assert now.partitions == ("PLAYER:1:0", "PLAYER:2:0", "PLAYER:2:1")
    (user,) = acting.pause(PauseScope(["PLAYER"], 1)).now
    assert len(user.partitions) == 2
    drain_until_empty(system.settings, ["PLAYER"])  # ends, though the change cannot
    assert (system.applied(), system.lanes.layouts(["PLAYER"])["PLAYER"]) == (0, Layout(2, 2, previous_shards=1))
    assert "2 commands left in the old ones, which are paused" in levelq_here("shards").out
    for scope in (PauseScope(["PLAYER"]), PauseScope(["PLAYER"], 1)):
        acting.resume(scope)
    drain_until_empty(system.settings, ["PLAYER"])
    assert (system.applied(), system.lanes.layouts(["PLAYER"])["PLAYER"]) == (2, Layout(2, 2))
    assert system.redis.keys("*:paused") == []


def test_pause_at_the_moment_at_which_a_change_of_shards_begins_goes_with_it(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    acting = Pausing(None, LaneEditor(system.redis, system.settings), system.waker, system.settings)
    change = system.lanes.change_layout

    def late(*arguments: Any) -> bool:
        monkeypatch.undo()
        acting.pause(PauseScope(["PLAYER"], 1))
        acting.pause(PauseScope(["PLAYER"]))
        return change(*arguments)

    monkeypatch.setattr(system.lanes, "change_layout", late)
    resharding.begin(system.lanes, "PLAYER", 2)
    drain_until_empty(system.settings, ["PLAYER"])  # the old shard is empty, so the change ends at once
    assert system.lanes.layouts(["PLAYER"])["PLAYER"] == Layout(2, 2)
    system.producer.send_many([up(1), up(2)])
    drain_until_empty(system.settings, ["PLAYER"])
    assert [pause.user for pause in acting.look(PauseScope(["PLAYER"]))] == [None]
    assert [pause.user for pause in acting.look(PauseScope(["PLAYER"], 1))] == [1]
    assert system.applied() == 0


def test_resume_makes_a_parked_lane_due_and_wakes_a_drain(system: System, levelq_here: Levelq) -> None:
    levelq_here("pause", "PLAYER", "--user", 1)
    system.push(up(1, 5))
    system.run_drains(PLAYER)
    assert (system.status().parked, system.applied()) == (1, 0)
    system.redis.delete("rq:queue:levelq.PLAYER", KEYS.of(PLAYER, "wake"))
    levelq_here("resume", "PLAYER", "--user", 1)
    assert (system.status().ready, system.redis.llen("rq:queue:levelq.PLAYER")) == (1, 1)
    system.drain()
    assert experience(system.engine) == {1: 5}


def test_pause_ends_by_itself_and_a_sweep_wakes_a_drain(system: System) -> None:
    acting = Pausing(None, LaneEditor(system.redis, system.settings), system.waker, system.settings)
    (pause,) = acting.pause(PauseScope(["PLAYER"]), timedelta(milliseconds=500)).now
    system.push(up(1))
    sweeper = Sweeper(system.settings, ["PLAYER"])

    def woken() -> bool:
        sweeper.sweep()
        return bool(system.redis.llen("rq:queue:levelq.PLAYER"))

    until(woken, what="a wake-up")
    seconds, microseconds = system.redis.time()
    assert pause.until is not None and seconds + microseconds / 1e6 >= pause.until.timestamp()
    system.drain()
    assert experience(system.engine) == {1: 1}


def test_pause_that_ends_while_drains_hold_lanes_is_not_waited_for(system: System, levelq_here: Levelq) -> None:
    system.push(up(1))
    system.lanes.claim(PLAYER, "drain", "token", 100)
    code, out, _ = levelq_here("pause", "PLAYER", "--for", "1s")
    assert (code, out.splitlines()[-2:]) == (0, ["the pause is over", "1 lane still with drains"])


def test_drain_waits_until_nothing_is_left_and_says_why_it_does_not_end(system: System, levelq_here: Levelq) -> None:
    levelq_here("pause", "PLAYER")
    system.push(up(1))
    system.commit(up(2))
    code, out, _ = levelq_here("drain", "PLAYER", "--wait", "--timeout", "0s")
    assert code == 1
    why = "1 command in lanes (0 lanes with drains), 1 row in the outbox"
    matches(
        out,
        rf"not done  {why}".replace("(", r"\(").replace(")", r"\)") + " left after 0s",
        rf"   why  PLAYER: {SINCE} .*",
    )
    assert levelq_here("drain", "COACH", "--wait", "--timeout", "0s")[:2] == (0, "done: nothing waits\n")
    levelq_here("resume")
    found = json.loads(levelq_here("drain", "--wait", "--timeout", "0s", "--json").out)
    assert (found["woken"], found["commands"], found["rows"]) == (0, 1, 1)  # resume woke it
    assert any("no worker serves it" in problem for problem in found["problems"])
    assert levelq_here("drain")[:2] == (0, f"0 drains woken; {why}\n")
    drain_until_empty(system.settings, ["PLAYER"])
    assert levelq_here("drain", "--wait")[:2] == (0, "done: nothing waits\n")


def test_unreadable_pause_is_named_and_removed_by_rebuild(system: System, levelq_here: Levelq) -> None:
    key = KEYS.of(PLAYER, "paused")
    system.redis.hset(key, mapping={"*": "rubbish", "7": "1 0 ann|"})
    (problem,) = [each for each in levelq_here.status()["problems"] if key in each]
    assert "expected since, until, actor and a reason, got 'rubbish'" in problem
    assert levelq_here("rebuild").code == 0
    assert list(system.redis.hgetall(key)) == [b"7"]
