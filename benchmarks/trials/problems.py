"""The problems: how each comes about, the runbook's command that names it, and the steps that end it."""

from __future__ import annotations

import os
import re
import shlex
import signal
from collections.abc import Callable, Iterator
from typing import NamedTuple

import psutil

from levelq_core import LevelUp
from levelq_core.keys import Partition

from .system import SERVED, System

HELD, POISONED, HOT = 7, 21, 99
NEW_USERS, RUBBISH, DRIFTED = 300, 30, 50
PLAYER = Partition("PLAYER")
SWITCH_OFF = r"if it is the cause, switch it off: (ALTER TABLE \S+ DISABLE TRIGGER"

# Ends it: runs the steps, and returns them as an operator would write them.
Steps = Iterator[str]


class Problem(NamedTuple):
    """A problem. `row`: how the runbook's table calls it. `command` shows it: its output then matches `says`.

    `plant` returns nothing that matters; `end` takes what was found, and yields each step after it is done.
    """

    name: str
    row: str
    plant: Callable[[System], object]
    command: tuple[str, ...]
    says: str
    end: Callable[[System, re.Match[str]], Steps]


def one_command(system: System, user: int) -> None:
    """The user is active."""
    system.sender.send([LevelUp(user_id=user, specialization="PLAYER", xp_gained=1)])


def act(system: System, *arguments: str) -> str:
    """Run a documented command that must succeed; returns it."""
    done = system.levelq(*arguments)
    assert done.code == 0, f"levelq {' '.join(arguments)} ended with {done.code}: {done.shown}"
    return f"levelq {shlex.join(arguments)}"


def execute(system: System, statement: str) -> str:
    """Run a statement in psql; returns it."""
    system.sql(statement)
    return statement


def hold_row(system: System) -> None:
    session = system.other_session("psql")
    session.execute("UPDATE specialization_progress SET total_xp = total_xp WHERE student_id = %s", [HELD])
    one_command(system, HELD)


def release_row(system: System, found: re.Match[str]) -> Steps:
    yield execute(system, found[1])


def send_unserved(system: System) -> None:
    system.sender.names.append("INTERNSHIP")


def serve(system: System, found: re.Match[str]) -> Steps:
    system.start_worker(found[1])
    yield f"levelq worker -s {found[1]}"


def poison(system: System) -> None:
    system.sql("""
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN RAISE 'learner % is blocked', NEW.student_id; END $$
    """)
    system.sql(f"""
        CREATE TRIGGER refuse BEFORE UPDATE ON specialization_progress
        FOR EACH ROW WHEN (NEW.student_id = {POISONED}) EXECUTE FUNCTION refuse()
    """)
    one_command(system, POISONED)


def disable_trigger(system: System, found: re.Match[str]) -> Steps:
    yield execute(system, found[1])


def litter(system: System) -> None:
    client = system.other_client("billing")
    for user in range(1, RUBBISH + 1):
        client.rpush(system.site.settings.keys.lane(PLAYER, user), b'{"invoice": %d}' % user)
        one_command(system, user)


def clean(system: System, found: re.Match[str]) -> Steps:
    system.site.redis.client_kill_filter(_id=found[1].split()[-1])
    yield found[1]
    yield act(system, "quarantine", "list")
    yield act(system, "quarantine", "discard", "--yes")


def send_too_early(system: System) -> None:
    first = system.pairs + 1
    system.sender.send(
        LevelUp(user_id=user, specialization="PLAYER", xp_gained=1) for user in range(first, first + NEW_USERS)
    )


def add_users(system: System, found: re.Match[str]) -> Steps:
    first = system.pairs + 1
    yield execute(system, f"INSERT INTO users SELECT generate_series({first}, {first + NEW_USERS - 1})")
    yield act(system, "rejected", "retry", "--since", "1h", "--dry-run")
    yield act(system, "rejected", "retry", "--since", "1h", "--wait", "--yes")


def forbid_writes(system: System) -> None:
    system.sql("ALTER SYSTEM SET default_transaction_read_only = on")
    system.sql("SELECT pg_reload_conf()")


def allow_writes(system: System, found: re.Match[str]) -> Steps:
    printed = system.levelq("db", "check").shown
    yield "levelq db check"
    for statement in re.findall(r"(?:SET default_transaction|ALTER SYSTEM|SELECT pg_reload)[^;]*;", printed):
        yield execute(system, statement)


def fill_redis(system: System) -> None:
    redis = system.site.redis
    redis.config_set("maxmemory", redis.info("memory")["used_memory"] // 2)


def raise_maxmemory(system: System, found: re.Match[str]) -> Steps:
    system.site.redis.config_set("maxmemory", "1gb")
    yield "CONFIG SET maxmemory 1gb"


def stop_worker(system: System) -> None:
    os.kill(psutil.Process(system.workers.pid).children()[0].pid, signal.SIGSTOP)


def continue_worker(system: System, found: re.Match[str]) -> Steps:
    os.kill(int(found[1]), signal.SIGCONT)
    yield "kill -CONT PID"


def loop(system: System) -> None:
    """An application that sends the same user's commands as fast as it can."""
    system.loop(
        lambda: system.sender.send(LevelUp(user_id=HOT, specialization="PLAYER", xp_gained=1) for _ in range(1_000))
    )


def end_loop(system: System, found: re.Match[str]) -> Steps:
    yield act(system, "pause", "--user", found[1], "--reason", "sends in a loop")
    system.loop_ended.set()
    yield "(end the application's loop)"
    yield act(system, "resume", "--user", found[1])


def drift(system: System) -> None:
    idle = system.pairs // len(SERVED) - system.users  # a command of the sender's users would repair theirs
    system.sql(f"""
        UPDATE user_licenses SET current_level = current_level + 1 WHERE specialization_type = 'COACH'
        AND user_id > {system.users} AND (user_id - {system.users}) % {idle // DRIFTED} = 0
    """)


def adopt(system: System, found: re.Match[str]) -> Steps:
    shown = system.levelq("adopt", "--dry-run")
    assert shown.code == 1, shown.shown
    yield "levelq adopt --dry-run"
    yield act(system, "adopt", "--yes")


def slow_down(system: System) -> None:
    system.sql("""
        CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN PERFORM pg_sleep(0.02); RETURN NEW; END $$
    """)
    system.sql("""
        CREATE TRIGGER slow BEFORE UPDATE ON specialization_progress FOR EACH ROW EXECUTE FUNCTION slow()
    """)


PROBLEMS = (
    Problem(
        "held-row", "a session holds rows", hold_row, ("status",),
        rf"user {HELD}: other code holds its rows.*session \d+ \(psql.*to end it: (SELECT pg_terminate_backend\(\d+\))",
        release_row,
    ),
    Problem(
        "no-worker", "a specialization without a worker", send_unserved, ("status",),
        r"(INTERNSHIP):1:0: [\d,]+ commands? waiting and no worker serves it", serve,
    ),
    Problem(
        "poison-user", "a poison user", poison, ("status",),
        rf"{SWITCH_OFF} refuse\b).*1 lane parked since .*user {POISONED}: learner {POISONED} is blocked",
        disable_trigger,
    ),
    Problem(
        "rubbish", "rubbish in lanes", litter, ("status",),
        r"malformed PLAYER: .*: not a levelq entry writer .*billing.*; (CLIENT KILL ID \d+) ends it", clean,
    ),
    Problem(
        "rejections", "a burst of rejections", send_too_early, ("rejected", "list", "--since", "1h"),
        r"user \d+ is not in users", add_users,
    ),
    Problem(
        "read-only", "a read-only database", forbid_writes, ("status",),
        r"the database is read-only, so nothing can be applied", allow_writes,
    ),
    Problem(
        "full-redis", "a full Redis", fill_redis, ("status",),
        r"Redis refuses pushes: .*maxmemory", raise_maxmemory,
    ),
    Problem(
        "stopped-worker", "a stopped worker", stop_worker, ("status",),
        r"worker \S+:(\d+) is silent", continue_worker,
    ),
    Problem(
        "hot-user", "a hot user", loop, ("status",),
        rf"user ({HOT}) has \d+% of the commands of PLAYER:1:0 in the last minute", end_loop,
    ),
    Problem(
        "drift", "drift", drift, ("check",),
        rf"{DRIFTED} pairs? out of step", adopt,
    ),
    Problem(
        "slow-trigger", "a slow trigger", slow_down, ("status",),
        rf"{SWITCH_OFF} slow\b).*batches take .*usually .*the database is slow", disable_trigger,
    ),
)  # fmt: skip
