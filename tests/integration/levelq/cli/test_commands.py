"""What commands print that only look at servers or change a few rows: check and sync, catalog, doctor, db, status."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from redis import Redis
from sqlalchemy import Engine

from levelq_core import LevelEvent, SetLevel, Settings, apply_commands
from tests.support.db_check import execute, query
from tests.support.fixtures.command_line import NOWHERE, SECRET, Levelq, Result
from tests.support.isolation import apply


def test_status_without_its_database_shows_the_rest(levelq_here: Levelq) -> None:
    elsewhere = f"postgresql://ann:{SECRET}@{NOWHERE}/app"
    code, out, err = levelq_here("status", "--json", LEVELQ_DATABASE_URL=elsewhere)
    found = json.loads(out)
    assert code == 1 and len(found["partitions"]) == 3
    assert found["rejected"] is None and found["quarantined"] is None
    assert err == "" and len(found["problems"]) == 1 and "LEVELQ_DATABASE_URL" in found["problems"][0]
    code, out, err = levelq_here("status", LEVELQ_DATABASE_URL="")
    assert (code, err) == (0, "") and "rejected -   quarantined -" in out


def test_events_are_printed_oldest_first_and_those_of_a_consumer_once(levelq_here: Levelq, own_engine: Engine) -> None:
    with own_engine.begin() as connection:
        for user, level, reason in ((1, 3, "won \x1b[31m"), (2, 2, ""), (1, 1, "back")):
            command = SetLevel(user_id=user, specialization="PLAYER", new_level=level, reason=reason, advanced_by=7)
            apply_commands(connection, [command])
    code, out, _ = levelq_here("events", "--user", 1)
    assert code == 0 and [line[19:] for line in out.splitlines()] == [
        "  user 1  PLAYER    1 -> 3  won \\x1b[31m  by 7",
        "  user 1  PLAYER    3 -> 1  back  by 7",
    ]
    rows = [json.loads(line) for line in levelq_here("events", "--json", "--consumer", "mails").out.splitlines()]
    assert [(row["id"], row["user_id"], row["from_level"], row["to_level"]) for row in rows] == [
        (1, 1, 1, 3), (2, 2, 1, 2), (3, 1, 3, 1),
    ]  # fmt: skip
    assert rows[0].keys() == set(LevelEvent._fields) and rows[0]["reason"] == "won \x1b[31m"
    assert levelq_here("events", "--consumer", "mails") == Result(0, "", "")
    assert "consumer: expected 1 to 100 printable" in levelq_here.refused("events", "--consumer", "")


def test_followed_events_are_printed_until_interrupted(settings: Settings, own_engine: Engine) -> None:
    command = [sys.executable, "-m", "levelq", "events", "--follow", "--json"]
    environment = os.environ | settings.environment()
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as following:
        assert following.stdout is not None
        for level in (2, 3):
            apply(own_engine, [SetLevel(user_id=1, specialization="PLAYER", new_level=level)])
            assert json.loads(following.stdout.readline())["to_level"] == level
        following.send_signal(signal.SIGINT)
        assert following.wait(20) == 130


def test_database_without_tables_is_refused_with_the_command_that_makes_them(
    levelq_here: Levelq, blank_database_url: str
) -> None:
    assert "`levelq db upgrade`" in levelq_here.refused("history", 1, LEVELQ_DATABASE_URL=blank_database_url)


def test_pairs_out_of_step_are_listed_and_repaired_by_their_commands(levelq_here: Levelq, own_engine: Engine) -> None:
    assert levelq_here("check").code == 0
    execute(
        own_engine,
        "INSERT INTO specialization_progress (student_id, specialization_id, current_level) "
        "VALUES (1, 'PLAYER', 5), (2, 'COACH', 4)",
        "INSERT INTO user_licenses (user_id, specialization_type, current_level) "
        "VALUES (1, 'PLAYER', 3), (3, 'COACH', 2)",
    )
    code, out, _ = levelq_here("check")
    assert code == 1 and "3 pairs out of step" in out
    for action in ("sync_to_higher_level", "create_license_from_progress", "create_progress_from_license"):
        assert action in out
    commands = re.findall(r"levelq (sync \d \w+ --source \w+)", out)
    assert commands == [
        "sync 1 PLAYER --source progress",
        "sync 2 COACH --source progress",
        "sync 3 COACH --source license",
    ]
    shown = levelq_here("check", "--limit", 1)
    assert "3 pairs out of step (the first 1 are shown; --limit shows more)" in shown.out
    for command in commands:
        done = levelq_here(*command.split())
        assert done.code == 0 and done.out.startswith("applied  ")
    assert levelq_here("check") == Result(0, "Every pair of levels is in step.\n", "")
    nothing = levelq_here("sync", 9, "PLAYER", "--source", "license")
    assert nothing.code == 1 and nothing.out.startswith("rejected  PLAYER of user 9: ")


def test_catalog_is_listed(levelq_here: Levelq, tmp_path: Path) -> None:
    code, out, _ = levelq_here("catalog", LEVELQ_REDIS_URL=f"redis://{NOWHERE}")
    assert code == 0 and re.search(r"PLAYER +8 +80,000", out) and "completed_sessions" not in out
    own = tmp_path / "own.toml"
    own.write_text("[referee]\nlevels = [0, {total_xp = 10, completed_sessions = 4}]\n")
    code, out, _ = levelq_here("catalog", LEVELQ_CATALOG=str(own))
    assert code == 0 and re.search(r"REFEREE +2 +10 +4", out)
    own.write_text("[referee]\nlevels = [5]\n")
    assert f"catalog {own}: REFEREE: level 1: " in levelq_here.refused("catalog", LEVELQ_CATALOG=str(own))


def test_doctor_reports_only_ok_on_a_sound_installation(levelq_here: Levelq) -> None:
    code, out, err = levelq_here("doctor")
    assert (code, err) == (0, "")
    assert [line.split()[0] for line in out.splitlines() if line[0] != " "] == ["ok"] * 9
    assert "appendfsync everysec" in out


def test_doctor_fails_on_what_would_lose_commands(levelq_here: Levelq, redis: Redis, own_engine: Engine) -> None:
    execute(own_engine, "ALTER TABLE user_licenses DROP CONSTRAINT user_licenses_pair_key")
    kept = {name: str(redis.config_get(name)[name]) for name in ("maxmemory-policy", "appendonly", "maxmemory")}
    try:
        redis.config_set("maxmemory-policy", "allkeys-lru")
        redis.config_set("appendonly", "no")
        redis.config_set("maxmemory", int(redis.info("memory")["used_memory"] * 1.15))
        code, out, _ = levelq_here("doctor", LEVELQ_RQ_URL=f"redis://{NOWHERE}")
    finally:
        for name, value in kept.items():
            redis.config_set(name, value)
    found = {line.split()[1]: line.split()[0] for line in out.splitlines() if line[0] != " "}
    assert code == 1
    assert found == {
        "settings": "ok", "redis": "ok", "eviction": "FAIL", "durability": "warn", "memory": "warn", "clock": "ok",
        "scripts": "ok", "rq": "FAIL", "database": "ok", "schema": "FAIL",
    }  # fmt: skip
    printed = " ".join(out.split())
    for advice in ("CONFIG SET maxmemory-policy noeviction", "CONFIG SET appendonly yes", "levelq db check"):
        assert advice in printed


def test_doctor_without_redis_examines_the_rest(levelq_here: Levelq) -> None:
    code, out, _ = levelq_here("doctor", LEVELQ_REDIS_URL="redis://redis.invalid/0", LEVELQ_DATABASE_URL="")
    printed = " ".join(out.split())
    assert code == 1
    assert "FAIL redis LEVELQ_REDIS_URL: redis://redis.invalid/0: " in printed
    assert "warn encryption LEVELQ_REDIS_URL: redis:// to redis.invalid is not encrypted; use rediss://" in printed
    assert "ok database LEVELQ_DATABASE_URL is not set: enough to send, not to work" in printed


def test_db_upgrade_lists_the_tables_that_it_created_and_left(levelq_here: Levelq, blank_database_url: str) -> None:
    first = levelq_here("db", "upgrade", LEVELQ_DATABASE_URL=blank_database_url)
    assert first.code == 0 and first.out.count(" created") == 9 and "left as it was" not in first.out
    again = levelq_here("db", "upgrade", LEVELQ_DATABASE_URL=blank_database_url)
    assert again.code == 0 and again.out.count("left as it was") == 9 and " created" not in again.out


def test_db_upgrade_of_tables_that_a_newer_version_made_is_refused(levelq_here: Levelq, own_engine: Engine) -> None:
    execute(own_engine, "UPDATE levelq_alembic_version SET version_num = '0099'")
    for command in ("db upgrade", "db upgrade --sql"):
        line = levelq_here.refused(*command.split())
        assert "levelq_alembic_version: expected a version up to 0001, got '0099': a newer levelq made" in line
    assert query(own_engine, "SELECT version_num FROM levelq_alembic_version") == [("0099",)]


def test_db_check_prints_the_fix_of_each_finding(levelq_here: Levelq, own_engine: Engine) -> None:
    sound = levelq_here("db", "check")
    assert sound == Result(0, "The database has all that levelq needs, and commits are safe there.\n", "")
    execute(
        own_engine,
        "ALTER TABLE user_licenses DROP CONSTRAINT user_licenses_pair_key",
        "INSERT INTO user_licenses (user_id, specialization_type) VALUES (1, 'COACH'), (1, 'COACH')",
    )
    code, out, _ = levelq_here("db", "check")
    assert code == 1 and "2 errors, 1 warning. After fixing: levelq db check\n" in out
    for statement in re.findall(r"^    ((?:UPDATE|DELETE|CREATE).*;)$", out, re.MULTILINE):
        execute(own_engine, statement)
    code, out, _ = levelq_here("db", "check")
    assert code == 0 and "0 errors, 1 warning" in out
    assert "    levelq sync 1 COACH --source license\n" in out
