"""A parked lane through the real command line: where the reason is shown, and what is left when the lane goes on."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from typing import Any

import psycopg

from tests.support.fixtures.command_line import NOWHERE, Levelq
from tests.support.fixtures.keys import KEYS
from tests.support.fixtures.processes import Started
from tests.support.fixtures.waiting import until
from tests.support.isolation import experience
from tests.support.system import PLAYER, System, up

LOCKED = "other code holds its rows or its user"
BLOCKED = "learner 13 is blocked (SQLSTATE P0001)"
BLOCKS_USER_13 = (
    """
    CREATE FUNCTION block_user_13() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF NEW.student_id = 13 THEN RAISE EXCEPTION 'learner % is blocked', NEW.student_id; END IF;
        RETURN NEW;
    END $$
    """,
    "CREATE TRIGGER block_user_13 BEFORE INSERT OR UPDATE ON specialization_progress"
    " FOR EACH ROW EXECUTE FUNCTION block_user_13()",
)


def push(system: System, *users: int) -> None:
    """A level-up for each, without waking a drain."""
    system.push(*(up(user, 1000, reason="a secret") for user in users))


def assert_shown(levelq: Levelq, reason: str) -> None:
    """Status and history show user 13, whose lane is parked with two commands in it."""
    found = levelq.status()
    parked: Any = found["parked_lanes"]
    (lane,) = parked
    assert (lane["partition"], lane["user"], lane["reason"]) == ("PLAYER:1:0", 13, reason)
    assert lane["attempts"] >= 1
    assert datetime.fromisoformat(lane["since"]) <= datetime.fromisoformat(lane["until"])
    times = "parked since [-0-9]+ [:0-9]+ UTC, (next attempt at [:0-9]+ UTC, )?"
    problem = rf"PLAYER:1:0: 1 lane {times}user 13: {re.escape(reason)}; .+"
    (line,) = [line for line in found["problems"] if "parked since" in line]
    assert re.fullmatch(problem, line)
    assert re.search(f"^wrong  {problem}$", levelq("status").out, re.MULTILINE)
    code, out, _ = levelq("history", 13)
    assert code == 0
    first, why, again, todo, *_ = [line for line in out.splitlines() if not line.startswith("    now  ")]
    assert re.fullmatch(r" parked  PLAYER since [-0-9]+ [:0-9]+ UTC, [0-9]+ attempts?, 2 commands waiting", first)
    assert why == f"    why  {reason}"
    assert re.match(r"   next  (by itself at [-0-9]+ [:0-9]+ UTC, in |due|being tried now)", again)
    assert todo.startswith("  to do  ")


def burst(levelq: Levelq, reason: str) -> None:
    """A burst that leaves user 13's lane parked."""
    code, out, err = levelq("worker", "--burst")
    done, *why = out.splitlines()
    assert (code, done) == (0, "done: nothing is due; lanes parked for later: 1")
    assert len(why) == 1 and f", user 13: {reason}; " in why[0]
    assert err.count("lane parked") == 1 and f"{reason}; user 13" in err
    assert "a secret" not in err + out


def test_lane_that_a_trigger_refuses_is_shown_until_the_trigger_is_gone(
    levelq: Levelq, system: System, start: Callable[..., Started]
) -> None:
    system.sql(*BLOCKS_USER_13)
    push(system, 13, 13, 14, *range(20, 30))
    burst(levelq, BLOCKED)
    assert experience(system.engine) == dict.fromkeys((14, *range(20, 30)), 1000)
    assert_shown(levelq, BLOCKED)
    start("worker")
    system.sql("DROP TRIGGER block_user_13 ON specialization_progress")
    until(lambda: experience(system.engine).get(13) == 2000, seconds=90, what="user 13's lane to be tried again")
    until(lambda: not system.redis.exists(KEYS.of(PLAYER, "parked")), what="the acknowledgement")
    assert levelq.status()["parked_lanes"] == []
    out = levelq("history", 13).out
    assert "parked" not in out and out.count("applied") == 2


def test_lane_that_a_session_holds_is_shown_with_the_session(
    levelq: Levelq, system: System, own_database_url: str
) -> None:
    system.sql("INSERT INTO user_licenses (user_id, specialization_type, current_level) VALUES (13, 'PLAYER', 1)")
    push(system, 13, 13, 14)
    with psycopg.connect(own_database_url, application_name="a report") as holder:
        holder.execute("SELECT FROM user_licenses WHERE user_id = 13 FOR UPDATE")
        burst(levelq, LOCKED)
        assert_shown(levelq, LOCKED)
        session = f"session {holder.info.backend_pid} (a report, idle in transaction for "
        assert session in levelq("history", 13).out and session in levelq("status").out
    system.redis.zadd(KEYS.of(PLAYER, "ready"), {"13": 0})  # as if its delay had passed
    assert levelq("worker", "--burst").out == "done: nothing is due; lanes parked for later: 0\n"
    assert not system.redis.exists(KEYS.of(PLAYER, "parked"))


def test_history_without_redis_reports_that_and_shows_the_rest(levelq: Levelq, system: System) -> None:
    push(system, 13)
    assert levelq("worker", "--burst").code == 0
    code, out, err = levelq("history", 13, LEVELQ_REDIS_URL=f"redis://{NOWHERE}")
    assert (code, err) == (0, "")
    _, first, *rest = out.splitlines()
    assert first.startswith(f"lanes unknown  LEVELQ_REDIS_URL: redis://{NOWHERE}")
    assert any("applied" in line for line in rest)
