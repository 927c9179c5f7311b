"""Text of users, applications, the database and other programs, through every command that shows it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from redis import Redis
from sqlalchemy import Engine, text

from levelq.cli import app
from levelq_core import LevelUp, SetLevel, Settings, apply_commands
from levelq_core.keys import Partition
from levelq_core.lanes.worker_alerts import WorkerAlerts
from levelq_core.operations.audit import record
from levelq_core.untrusted_text import printable
from levelq_worker.draining.context import Runtime
from levelq_worker.draining.drain import Drain
from tests.support.coupler import push, push_bare, runtime
from tests.support.db_check import execute
from tests.support.fixtures.command_line import Levelq, LevelqWith
from tests.support.fixtures.keys import KEYS
from tests.support.hostile import RAW, TEXTS, assert_safe

PLAYER, COACH = Partition("PLAYER"), Partition("COACH")
ALL = "".join(text for name, text in TEXTS.items() if name != "long")
RAISES = """
    CREATE FUNCTION scold() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION '%%', NEW.advancement_reason; END $$;
    CREATE TRIGGER scold BEFORE INSERT ON license_progressions FOR EACH ROW EXECUTE FUNCTION scold()
"""
REJECTS = """
    UPDATE levelq_ledger SET status = 'rejected', error = 'database_error', message = reason
    WHERE id = (SELECT min(id) FROM levelq_ledger)
"""
# What shows text of others, and its form for programs.
SHOWING = (
    "events", "history 1", "history 2", "status", "check", "db check", "doctor", "verify --at-rest", "catalog",
    "explain 1", "explain 2", "rejected list --ids", "rejected retry --dry-run", "rejected discard --dry-run",
    "quarantine list", "quarantine show 1",
    "quarantine retry --dry-run", "quarantine discard --dry-run", "audit", "top --once", "workers", "metrics",
    "pause --dry-run", "resume --user 3", "adopt --dry-run", "db enforce --report",
    "cancel 2 PLAYER --dry-run",
)  # fmt: skip
AS_JSON = (
    "events --json", "status --json", "verify --json", "purge PLAYER --dry-run --json", "explain 1 --json",
    "explain 2 --json", "rejected list --json", "quarantine list --json", "audit --json", "workers --json",
    "pause --dry-run --json", "adopt --dry-run --json", "check --json",
)  # fmt: skip


def write_reasons(engine: Engine) -> None:
    """Decided commands of user 1, one with each text as its reason; and a rejected one of user 3."""
    with engine.begin() as connection:
        for level, reason in enumerate(TEXTS.values()):
            command = SetLevel(user_id=1, specialization="PLAYER", new_level=2 + level % 7, reason=reason)
            apply_commands(connection, [command])
        apply_commands(connection, [LevelUp(user_id=3, specialization="PLAYER", theory_hours=1, reason=ALL)])


def plant(worker: Runtime, redis: Redis, engine: Engine) -> None:
    """Malformed entries, a message of the database, names of lanes, rows, workers and keys."""
    for raw in RAW.values():
        push_bare(redis, "PLAYER", 1, raw)
    push_bare(redis, "PLAYER", ALL, b"of no user")
    redis.zadd(KEYS.of(PLAYER, "ready"), {"1": 1, ALL: 1})
    execute(engine, RAISES)
    push(worker, [LevelUp(user_id=2, specialization="PLAYER", xp_gained=1500, reason=ALL)])
    Drain(worker, PLAYER).run()
    execute(engine, REJECTS)
    redis.set(KEYS.lane(COACH, ALL), "no list")
    redis.zadd(KEYS.of(COACH, "ready"), {ALL: 1})
    WorkerAlerts(redis, KEYS, ALL, 60).post(ALL)
    plant_for_operators(redis, engine)
    with engine.begin() as connection:
        values = {"name": ALL.replace("\0", "")[:40]}
        connection.execute(text("UPDATE levelq_ledger SET message = :name WHERE user_id = 3"), values)
        record(connection, "prune", ALL.replace("\0", ""), {"note": ALL.replace("\0", "")}, actor=ALL.replace("\0", ""))
        connection.execute(
            text(
                "INSERT INTO specialization_progress (student_id, specialization_id, current_level) "
                "VALUES (9, :name, 2)"
            ),
            values,
        )


def plant_for_operators(redis: Redis, engine: Engine) -> None:
    """A report of a worker, a pause, a drift report, a consumer, lines of the audit."""
    seconds = redis.time()[0]
    now_ms, name = seconds * 1000, ALL[:200]
    numbers = dict.fromkeys(("applied", "rejected", "duplicates", "quarantined", "batches", "pid", "memory_bytes"), 1)
    times = dict.fromkeys(("started_ms", "posted_ms", "state_ms", "progress_ms"), now_ms)
    names = dict.fromkeys(("name", "host", "rq_name", "version", "partition", "why"), name)
    report: dict[str, object] = {
        **numbers, **times, **names, "specializations": [name], "within_seconds": 60, "state": "waiting",
        "partitions": {}, "batch": None, "hot": [],
    }  # fmt: skip
    redis.hset(KEYS.workers, ALL, json.dumps(report))
    redis.hset(KEYS.workers, "rubbish", ALL)
    redis.hset(KEYS.of(PLAYER, "paused"), mapping={"*": f"{now_ms} 0 {ALL}|{ALL}", "3": f"{now_ms} 0 {name}|{name}"})
    audited, position = "INSERT INTO levelq_audit (actor, origin, action, target, detail)", "levelq_event_positions"
    stored = {"name": ALL.replace("\0", ""), "target": "user 1 " + ALL, "detail": json.dumps({ALL: ALL})}
    with engine.begin() as connection:
        connection.execute(text(f"{audited} VALUES (:name, :name, :name, :target, :detail)"), stored)
        connection.execute(text(f"INSERT INTO {position} (consumer) VALUES (:name)"), stored)


def test_no_command_prints_what_acts_on_a_terminal(
    levelq_with: LevelqWith, settings: Settings, redis: Redis, own_engine: Engine
) -> None:
    levelq = levelq_with(settings)
    write_reasons(own_engine)
    with runtime(settings) as worker:
        plant(worker, redis, own_engine)
        shown = {}
        for command in (*SHOWING, *AS_JSON):
            code, out, err = levelq(*command.split())
            assert code in (0, 1), (command, err)
            assert_safe(out + err)
            shown[command] = out + err
    for command in AS_JSON:
        assert shown[command].isascii()
    reasons = [json.loads(line)["reason"] for line in shown["events --json"].splitlines()]
    assert set(reasons) == set(TEXTS.values())  # programs get the text as it is
    for reason in TEXTS.values():
        assert printable(reason) in shown["events"]  # neither folded nor read as markup
    for command in ("status", "history 2", "explain 2", "rejected list --ids", "audit", "workers", "adopt --dry-run"):
        assert "\\x1b[31mred" in shown[command], shown[command]
    assert "b'\\xff\\xfe" in shown["history 1"]
    assert "\\x1b[2J" in shown["check"]


@pytest.mark.parametrize("name", [name for name in TEXTS if name != "long"])
def test_refused_arguments_and_settings_are_echoed_visibly(levelq_here: Levelq, tmp_path: Path, name: str) -> None:
    hostile = TEXTS[name]
    for arguments in (
        ("send", hostile, 1, "PLAYER"),
        ("send", "level-up", hostile, "PLAYER"),
        ("send", "level-up", 1, hostile),
        ("send", "level-up", 1, "PLAYER", "--command-id", hostile),
        ("sync", 1, hostile, "--source", "license"),
        ("worker", "-s", hostile),
        ("prune", "--older-than", hostile),
        ("explain", hostile),
        ("rejected", "list", "--since", hostile),
        ("pause", hostile),
        ("adopt", "--source", hostile),
        ("metrics", "--port", hostile),
        (hostile,),
    ):
        code, out, err = levelq_here(*arguments)
        assert (code, out) == (2, ""), arguments
        assert_safe(err)
    code, out, err = levelq_here("catalog", LEVELQ_CATALOG=str(tmp_path / hostile.replace("/", "")))
    assert (code, out) == (2, "")
    assert_safe(err)


def test_traceback_is_printed_visibly(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["--traceback", "send", ALL, "1", "PLAYER"]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("Traceback (most recent call last):\n") and "InvalidCommand: KIND: expected" in shown
    assert_safe(shown)
