"""`levelq rejected`: rejections are listed, retried once each and in order, or discarded; each act is in the audit."""

import json
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from sqlalchemy import text

from levelq import Adjust, Command, LevelUp, Reset, SetLevel, SyncLevels
from levelq_core.database.table_names import OPEN_REJECTION
from levelq_core.domain.commands import retry_id
from levelq_core.operations.readings import rejected as readings
from levelq_core.operations.readings.selection import Selection
from levelq_worker.redrive.rejected import Retrying
from tests.support.commands import command_in
from tests.support.fixtures.command_line import Levelq
from tests.support.fixtures.keys import KEYS
from tests.support.redrive import reject
from tests.support.system import PLAYER, System, up

HOSTILE = "bob\x1b[2J\r\n=cmd|' /C calc'!A0 [bold]x[/bold] \u202egnp"


def retry(levelq: Levelq, *arguments: object) -> dict[str, Any]:
    """`levelq rejected retry --json`: the verdict of each command, by its id."""
    code, out, err = levelq(
        "rejected", "retry", "--json", *(("--yes",) if "--dry-run" not in arguments else ()), *arguments
    )
    assert err == ""
    found = {one["source"]["command_id"]: one["verdict"] for one in json.loads(out)["entries"]}
    assert code == (1 if {"refused", "left"} & set(found.values()) else 0)
    return found


def listed(levelq: Levelq, *arguments: object) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(levelq("rejected", "list", "--json", *arguments).out)["commands"]
    return found


def decided(system: System) -> dict[UUID, str]:
    return dict(system.rows("SELECT command_id, status FROM levelq_ledger"))


def test_every_kind_is_retried_as_it_was_under_an_id_that_follows_from_the_old_one(
    system: System, levelq_here: Levelq
) -> None:
    common: dict[str, Any] = {"specialization": "PLAYER", "reason": HOSTILE, "advanced_by": 9}
    commands: list[Command] = [
        LevelUp(user_id=1, xp_gained=1, sessions_completed=2, projects_completed=3, **common),
        SetLevel(user_id=2, new_level=8, xp_change=5, sessions_change=6, projects_change=7, **common),
        LevelUp(user_id=3, specialization="PLAYER"),
        SyncLevels(user_id=3, source="license", **common),
        Adjust(user_id=4, xp_change=8, level="earned", **common),
        Adjust(user_id=4, specialization="PLAYER", xp_change=-1),
        Reset(user_id=5, total_xp=3000, level=2, **common),
        Reset(user_id=5, total_xp=3000, specialization="PLAYER"),
    ]
    reject(system, *commands)
    dry = retry(levelq_here, "--dry-run")
    assert set(dry.values()) == {"send"} and system.status().waiting == 0
    assert set(retry(levelq_here).values()) == {"sent"}
    system.drain()
    with system.engine.connect() as connection:
        found = {row.command_id: command_in(row) for row in connection.execute(text("SELECT * FROM levelq_ledger"))}
    for command in commands:
        assert found[retry_id(command.command_id)] == command.model_copy(
            update={"command_id": retry_id(command.command_id)}
        )
        assert decided(system)[retry_id(command.command_id)] == "applied"
    assert listed(levelq_here) == []
    rows = listed(levelq_here, "--all")
    assert [row["retry"]["status"] for row in rows] == ["applied"] * 8
    ((action, target, detail),) = system.rows("SELECT action, target, detail FROM levelq_audit")
    assert (action, target, detail["retried"]) == ("rejected retry", "5 users", 8)
    assert detail["commands"] == {str(c.command_id): str(retry_id(c.command_id)) for c in commands}


def test_reasons_are_counted_without_their_numbers_each_with_the_latest_of_its_users(
    system: System, levelq_here: Levelq
) -> None:
    system.sql("CREATE TABLE members (id bigint PRIMARY KEY)")
    system.sql("ALTER TABLE specialization_progress ADD FOREIGN KEY (student_id) REFERENCES members (id)")
    system.push(*(up(user) for user in range(501, 504)))
    system.drain()
    reject(system, up(7))
    printed = levelq_here("rejected", "list", "--limit", "2").out.split("more than 2 match", 1)[1]
    rows = [" ".join(line.split()) for line in printed.splitlines() if line.split()[:1] in (["3"], ["1"])]
    most, least = rows
    assert most.startswith("3 503 PLAYER database_error: ") and least.startswith("1 7 PLAYER validation_error: ")


def test_three_hundred_are_retried_in_one_call_in_the_order_of_the_ledger(system: System, levelq_here: Levelq) -> None:
    ids = reject(
        system, *(SetLevel(user_id=1 + n % 7, specialization="PLAYER", new_level=1 + n % 8) for n in range(300))
    )
    code, out, _ = levelq_here("rejected", "retry", "--yes")
    assert (code, out.splitlines()[-1]) == (0, "300 rejected commands sent once more")
    system.drain()
    order = [row[0] for row in system.rows("SELECT command_id FROM levelq_ledger WHERE status = 'applied' ORDER BY id")]
    assert sorted(order, key=str) == sorted(map(retry_id, ids), key=str)
    for user in range(7):
        lane = [retry_id(command_id) for n, command_id in enumerate(ids) if n % 7 == user]
        assert [command_id for command_id in order if command_id in set(lane)] == lane
    again = retry(levelq_here, *ids[:2])
    assert set(again.values()) == {"done"} and system.status().waiting == 0
    assert levelq_here("rejected", "retry", "--yes").out == "no rejected command matches\n"
    assert system.rows("SELECT target FROM levelq_audit") == [("7 users",)]


def test_what_two_operators_do_at_once_is_done_and_written_down_once(system: System) -> None:
    reject(system, *(up(user) for user in range(1, 5)))
    acting = Retrying(system.engine, system.lanes, system.settings)
    plan = acting.look(Selection())
    found = [one.source for one in plan.entries]
    discarded = [Retrying.discard(system.engine, system.settings, found[:2]) for _ in range(2)]
    runs = [acting.run(plan, lambda commands: [h.error for h in system.producer.send_many(commands)]) for _ in range(2)]
    assert discarded == [2, 0]
    assert [[one.verdict for one in run.entries] for run in runs] == [
        ["refused", "refused", "sent", "sent"], ["refused", "refused", "done", "done"],
    ]  # fmt: skip
    assert runs[0].entries[0].why == "it was discarded meanwhile"
    lines = system.rows("SELECT action, detail FROM levelq_audit ORDER BY id")
    assert [(action, len(detail["commands"])) for action, detail in lines] == [
        ("rejected discard", 2), ("rejected retry", 2),
    ]  # fmt: skip


def test_outcomes_that_are_not_decided_are_one_line(system: System, levelq_here: Levelq) -> None:
    reject(system, *(up(user) for user in range(1, 5)))
    code, out, _ = levelq_here("rejected", "retry", "--yes", "--wait", "--timeout", "0.05")
    lines = out.splitlines()[-2:]
    assert (code, lines[0]) == (1, "4 rejected commands sent once more")
    assert lines[1].startswith("undecided  4: not decided within 0.05 s; it is queued in PLAYER:1:0, which no worker")


@pytest.mark.parametrize("newer", ["applied", "waiting", "in the outbox"])
def test_retry_that_would_come_after_newer_commands_of_its_lane_is_refused_unless_forced(
    newer: str, system: System, levelq_here: Levelq
) -> None:
    mine, other = reject(system, up(1), up(2))
    if newer == "in the outbox":
        system.commit(up(1, 5))
    else:
        system.producer.send(up(1, 5))
    if newer == "applied":
        system.drain()
    assert retry(levelq_here) == {str(mine): "refused", str(other): "sent"}
    assert retry(levelq_here, mine) == {str(mine): "refused"}
    shown = levelq_here("rejected", "show", mine).out
    assert "refused: " in shown and "--force" in shown
    assert retry(levelq_here, mine, "--force") == {str(mine): "sent"}
    assert system.rows("SELECT detail -> 'force' FROM levelq_audit ORDER BY id") == [(False,), (True,)]


def test_retries_of_older_rejections_do_not_count_as_newer_and_those_of_newer_ones_do(
    system: System, levelq_here: Levelq
) -> None:
    first, second, third = reject(system, up(1, 1), up(1, 2), up(1, 3))
    assert retry(levelq_here, "--limit", 1) == {str(first): "sent"}
    assert retry(levelq_here, third) == {str(third): "sent"}  # behind the first, which waits
    system.drain()
    assert retry(levelq_here) == {str(second): "refused"}
    assert retry(levelq_here, "--force") == {str(second): "sent"}


def test_filters_select_by_user_name_error_reason_time_and_id(system: System, levelq_here: Levelq) -> None:
    (old,) = reject(system, up(1))
    system.sql("UPDATE levelq_ledger SET applied_at = now() - interval '2 days'")
    system.sql("ALTER TABLE user_licenses ADD CONSTRAINT short CHECK (current_level < 3)")
    refused = up(2, 3000)
    system.producer.send_many([refused, Adjust(user_id=3, specialization="COACH", xp_change=-5)])
    system.drain("PLAYER", "COACH")
    cancelled = system.producer.send(up(4))
    levelq_here("cancel", 4, "PLAYER", "--yes")
    expected: dict[tuple[object, ...], list[int]] = {
        (): [3, 2, 1], ("--user", 2): [2], ("-s", "coach"): [3], ("--error", "database_error"): [2],
        ("--error", "cancelled"): [4], ("--all",): [4, 3, 2, 1], ("--reason", "BELOW zero"): [3], ("--reason", "%"): [],
        ("--since", "1d"): [3, 2], ("--until", "1d"): [1], ("--since", "3d", "--until", "1d"): [1], ("--limit", 1): [3],
        (old, cancelled.command_id): [4, 1], ("--until", "0001-01-01T00:00Z"): [],
    }  # fmt: skip
    found = {key: sorted((row["user_id"] for row in listed(levelq_here, *key)), reverse=True) for key in expected}
    assert found == expected
    report = levelq_here.status()
    assert (report["rejected"], report["rejected_open"]) == (4, 3)
    assert "rejected 4   quarantined 0   open rejections 3" in levelq_here("status").out
    assert "keeps no row of a conflict" in levelq_here.refused("rejected", "list", "--error", "conflict")
    assert "in the past" in levelq_here.refused("rejected", "list", "--since", "2999-01-01")
    # A named one is retried though it was cancelled; a cause that the rules still see is not.
    assert retry(levelq_here, cancelled.command_id, "--since", "1d") == {str(cancelled.command_id): "sent"}
    assert set(retry(levelq_here, "--user", 3, "--dry-run").values()) == {"refused"}
    plan = levelq_here("rejected", "retry", "--dry-run")
    assert "the cause is still there: total_xp: 0 -5 would go below zero" in plan.out
    assert "the database decides" in plan.out and plan.code == 1


def test_what_can_never_be_applied_is_refused_even_by_force(system: System, levelq_here: Levelq) -> None:
    ids = reject(
        system, LevelUp(user_id=1, specialization="CHESS"), SetLevel(user_id=1, specialization="PLAYER", new_level=99)
    )
    assert retry(levelq_here, "--force") == dict.fromkeys(map(str, ids), "refused")
    system.sql("UPDATE levelq_ledger SET user_id = 0, reason = NULL, advanced_by = NULL")
    assert listed(levelq_here) == []
    assert retry(levelq_here, *ids, "--force") == dict.fromkeys(map(str, ids), "refused")


def test_lane_and_partition_that_are_full_leave_the_rest_rejected(system: System, levelq_here: Levelq) -> None:
    ids = reject(system, up(1, 1), up(1, 2), up(1, 3), up(2, 4))
    found = json.loads(levelq_here("rejected", "retry", "--yes", "--json", LEVELQ_LANE_LIMIT="2").out)["entries"]
    assert [one["verdict"] for one in found] == ["sent", "sent", "left", "sent"]
    assert "2 commands wait already (LEVELQ_LANE_LIMIT)" in found[2]["why"]
    assert [row["command_id"] for row in listed(levelq_here)] == [str(ids[2])]
    assert system.status().waiting == 3
    assert levelq_here("rejected", "retry", "--yes", LEVELQ_PARTITION_LIMIT="3").code == 1
    system.drain()
    assert retry(levelq_here) == {str(ids[2]): "sent"}


def test_redis_lost_midway_leaves_what_the_next_run_finishes(
    system: System, levelq_here: Levelq, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One page is sent and noted, of the next the push is made and its reply lost; a third is not tried."""
    monkeypatch.setattr("levelq_worker.redrive.redriving.PAGE", 2)
    ids = reject(system, *(up(1, n) for n in range(1, 7)))
    pushes = 0

    def hook(name: str) -> None:
        nonlocal pushes
        pushes += name == "push reply"
        if name == "push reply" and pushes == 2:
            raise RedisConnectionError("lost")

    with monkeypatch.context() as patch:
        patch.setattr("levelq_core.failpoints.hook", hook)
        found = retry(levelq_here)
    assert list(found.values()) == ["sent", "sent", "left", "left", "left", "left"]
    assert system.redis.llen(KEYS.lane(PLAYER, 1)) == 4
    assert list(retry(levelq_here).values()) == ["done", "done", "sent", "sent"]
    system.drain()
    applied = system.rows("SELECT command_id FROM levelq_ledger WHERE status = 'applied' ORDER BY id")
    assert [row[0] for row in applied] == [retry_id(command_id) for command_id in ids]
    assert listed(levelq_here) == [] and system.total_xp() == 21


def test_commit_that_fails_after_the_push_is_made_up_for_by_the_next_run(system: System, levelq_here: Levelq) -> None:
    """As when the operator's process or the database dies between the two."""
    (command_id,) = reject(system, up(1, 7))
    retrying = Retrying(system.engine, system.lanes, system.settings)

    def send(commands: Sequence[Command]) -> list[Any]:
        system.producer.send_many(commands)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        retrying.run(retrying.look(Selection()), send)
    for _ in ("it waits", "it was applied"):
        (planned,) = retrying.look(Selection()).entries
        assert (planned.verdict, planned.source.settled) == ("done", None)
        system.drain()
    assert system.rows("SELECT FROM levelq_audit") == []
    assert retry(levelq_here) == {str(command_id): "done"}
    assert listed(levelq_here) == [] and system.total_xp() == 7
    assert system.rows("SELECT action FROM levelq_audit") == [("rejected retry",)]


def test_read_only_database_sends_nothing_and_redis_that_is_away_settles_nothing(
    system: System, levelq_here: Levelq
) -> None:
    (command_id,) = reject(system, up(1))
    system.sql(f"ALTER DATABASE {system.engine.url.database} SET default_transaction_read_only = on")
    assert len(listed(levelq_here)) == 1
    assert retry(levelq_here, "--dry-run") == {str(command_id): "send"}
    for act in ("retry", "discard"):
        code, _, err = levelq_here("rejected", act, "--yes")
        assert (code, "read-only" in err, err.count("\n")) == (2, True, 1)
    assert system.status().waiting == 0
    system.sql(
        "SET default_transaction_read_only = off",
        f"ALTER DATABASE {system.engine.url.database} RESET default_transaction_read_only",
    )
    away = {"LEVELQ_REDIS_URL": "redis://127.0.0.1:1/0"}
    assert "LEVELQ_REDIS_URL" in levelq_here("rejected", "retry", "--yes", **away).err
    shown = levelq_here("rejected", "show", command_id, **away)
    assert "validation_error" in shown.out and "LEVELQ_REDIS_URL" in shown.err
    assert len(listed(levelq_here)) == 1


def test_retry_and_discard_must_be_confirmed(system: System, levelq_here: Levelq) -> None:
    reject(system, up(1))
    for act in ("retry", "discard"):
        code, _, err = levelq_here("rejected", act)
        assert (code, "--yes" in err) == (2, True)
        assert "--json: expected --yes or --dry-run" in levelq_here.refused("rejected", act, "--json")
        assert levelq_here("rejected", act, "--dry-run").code == 0
    assert len(listed(levelq_here)) == 1 and system.rows("SELECT FROM levelq_audit") == []


def test_discarded_rejection_leaves_the_list_and_stays_the_answer_to_its_id(
    system: System, levelq_here: Levelq
) -> None:
    command = up(1)
    reject(system, command, up(2))
    assert levelq_here("rejected", "discard", command.command_id, "--yes").out.endswith(
        "1 rejected command discarded\n"
    )
    assert [row["user_id"] for row in listed(levelq_here)] == [2]
    assert levelq_here.status()["rejected_open"] == 1
    again = system.producer.send(command)
    system.drain()
    assert (again.result(1).status, again.result(1).duplicate) == ("rejected", True)
    assert levelq_here("rejected", "discard", command.command_id, "--yes").out == "1 rejected command settled before\n"
    ((target, detail),) = system.rows("SELECT target, detail FROM levelq_audit")
    assert (target, detail["commands"]) == ("user 1 PLAYER", [str(command.command_id)])
    assert levelq_here("verify").code == 0
    assert retry(levelq_here, command.command_id) == {str(command.command_id): "sent"}


def test_outcomes_are_waited_for_and_what_is_rejected_again_is_open_again(
    system: System, levelq_here: Levelq, monkeypatch: pytest.MonkeyPatch
) -> None:
    reject(system, up(1), Adjust(user_id=2, specialization="PLAYER", xp_change=-1))
    send_many = system.producer.send_many

    def sent_and_drained(*arguments: Any, **more: Any) -> Any:
        handles = send_many(*arguments, **more)
        system.drain()
        return handles

    monkeypatch.setattr(
        "levelq_producer.Producer.send_many", lambda _, *given, **more: sent_and_drained(*given, **more)
    )
    code, out, _ = levelq_here("rejected", "retry", "--force", "--wait", "--yes")
    assert code == 1 and "applied  1: level stays 1" in out
    assert "rejected  1: total_xp: 0 -1 would go below zero" in out
    (row,) = listed(levelq_here)
    assert row["user_id"] == 2 and row["command_id"] == str(
        retry_id(UUID(listed(levelq_here, "--all")[1]["command_id"]))
    )


def test_pages_of_a_reading_follow_each_other_by_the_id_and_use_the_index(system: System) -> None:
    ids = reject(system, *(up(n) for n in range(1, 8)))
    found: list[UUID] = []
    before = None
    while page := readings.REJECTED.newest(system.engine, Selection(), limit=3, before=before):
        found += [one.command_id for one in page]
        before = page[-1].id
    assert found == ids[::-1]
    with system.engine.begin() as connection:
        connection.execute(text("SET LOCAL enable_seqscan = off"))
        query = f"SELECT {readings._COLUMNS} FROM levelq_ledger WHERE {OPEN_REJECTION} ORDER BY id DESC LIMIT 3"
        plan = "\n".join(connection.execute(text(f"EXPLAIN {query}")).scalars())
    assert "levelq_ledger_open" in plan and "Sort" not in plan


def test_actor_of_the_console_is_named_in_the_audit(system: System) -> None:
    reject(system, up(1))
    retrying = Retrying(system.engine, system.lanes, system.settings, actor="mona")
    done = retrying.run(
        retrying.look(Selection()), lambda commands: [h.error for h in system.producer.send_many(commands)]
    )
    assert [one.verdict for one in done.entries] == ["sent"]
    ((actor,),) = system.rows("SELECT actor FROM levelq_audit")
    assert actor.startswith("mona as ")
