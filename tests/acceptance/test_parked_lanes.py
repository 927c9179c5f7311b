"""A parked lane through the real command line: who is told why it waits, and what is left when it does not."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

import psycopg
import pytest
from redis import Redis

from levelq_core import LevelUp, Settings
from levelq_core.codec import encode
from levelq_core.lanes import Lanes
from levelq_core.partitions import Partition
from tests.acceptance.test_cli import NOWHERE, Levelq

PLAYER = Partition("PLAYER")
LOCKED = "other code holds its rows or its user"


@pytest.fixture
def levelq(settings: Settings) -> Levelq:
    return Levelq(settings)


def push(settings: Settings, redis: Redis, *users: int) -> None:
    """A level-up for each; nobody is woken for it."""
    commands = [LevelUp(user_id=user, specialization="PLAYER", xp_gained=1000, reason="a secret") for user in users]
    lanes: dict[int, list[bytes]] = {}
    for command in commands:
        lanes.setdefault(command.user_id, []).append(encode(command))
    Lanes(redis, settings).push([(PLAYER, list(lanes.items()))])


def told(levelq: Levelq, reason: str) -> None:
    """Status and history tell of user 13, whose lane is parked with two commands in it."""
    found = levelq.status()
    parked: Any = found["parked_lanes"]
    (lane,) = parked
    assert (lane["partition"], lane["user"], lane["reason"]) == ("PLAYER:1:0", 13, reason)
    assert lane["attempts"] >= 1
    assert datetime.fromisoformat(lane["since"]) <= datetime.fromisoformat(lane["until"])
    problem = rf"PLAYER:1:0: 1 lane parked since [-0-9]+ [:0-9]+ UTC, for example user 13: {re.escape(reason)}; .+"
    (line,) = [line for line in found["problems"] if "parked since" in line]  # type: ignore[attr-defined]
    assert re.fullmatch(problem, line)
    assert f"wrong  {line.partition(reason)[0]}{reason}; " in levelq("status").out
    code, out, _ = levelq("history", 13)
    assert code == 0
    first, why, again, todo, *_ = out.splitlines()
    assert re.fullmatch(r"parked  PLAYER since [-0-9]+ [:0-9]+ UTC, [0-9]+ attempts?, 2 commands waiting", first)
    assert why == f"   why  {reason}"
    assert re.match(r"  next  (by itself at [-0-9]+ [:0-9]+ UTC, in |due|being tried now)", again)
    assert todo.startswith(" to do  ")


def test_lane_that_a_session_holds_is_told_until_it_is_applied(
    levelq: Levelq, settings: Settings, redis: Redis, own_database_url: str
) -> None:
    push(settings, redis, 13)
    assert levelq("worker", "--burst").code == 0
    push(settings, redis, 13, 13, 14)
    with psycopg.connect(own_database_url, application_name="a report") as holder:
        holder.execute("SELECT FROM user_licenses WHERE user_id = 13 FOR UPDATE")
        code, out, err = levelq("worker", "--burst")
        done, *why = out.splitlines()
        assert (code, done) == (0, "done: nothing is due; lanes parked for later: 1")
        assert len(why) == 1 and f"for example user 13: {LOCKED}; " in why[0]
        assert err.count("lanes put aside") == 1 and "a secret" not in err + out
        redis.zadd(PLAYER.key("ready"), {"13": 9e12})  # no test may depend on speed
        told(levelq, LOCKED)
    redis.zadd(PLAYER.key("ready"), {"13": 0})
    code, out, _ = levelq("worker", "--burst")
    assert (code, out) == (0, "done: nothing is due; lanes parked for later: 0\n")
    assert not redis.exists(PLAYER.key("parked"))
    found = levelq.status()
    assert (found["parked_lanes"], found["problems"]) == ([], [])
    assert "parked" not in levelq("history", 13).out


def test_history_without_redis_says_so_and_shows_the_rest(levelq: Levelq, settings: Settings, redis: Redis) -> None:
    push(settings, redis, 13)
    assert levelq("worker", "--burst").code == 0
    code, out, err = levelq("history", 13, LEVELQ_REDIS_URL=f"redis://{NOWHERE}")
    assert (code, err) == (0, "")
    first, *rest = out.splitlines()
    assert first.startswith(f"parked lanes unknown  LEVELQ_REDIS_URL: redis://{NOWHERE}")
    assert any("applied" in line for line in rest)
