"""The real command line in processes of its own, against real servers."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

import psycopg
import pytest
from redis import Redis

from levelq.embedded import Servers
from levelq.server_account import temporary_folder
from levelq_core import Settings
from levelq_core.keys import Partition
from levelq_producer import Producer
from tests.support.fixtures.keys import KEYS
from tests.support.fixtures.ports import free_port
from tests.support.fixtures.processes import Started
from tests.support.fixtures.waiting import until

SECRET = "hunter2"
NOWHERE = "127.0.0.1:1"  # a port where nobody listens


class Result(NamedTuple):
    code: int
    out: str
    err: str


class Levelq:
    """Runs `levelq ...` with one test's settings, 100 columns wide."""

    def __init__(self, settings: Settings) -> None:
        self._environment = os.environ | {"COLUMNS": "100"} | settings.environment()

    def __call__(self, *arguments: object, **environment: str) -> Result:
        done = subprocess.run(
            [sys.executable, "-m", "levelq", *map(str, arguments)],
            env=self._environment | environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert "Traceback" not in done.stdout + done.stderr
        assert SECRET not in done.stdout + done.stderr
        return Result(done.returncode, done.stdout, done.stderr)

    def refused(self, *arguments: object, **environment: str) -> str:
        """The one line of a command that could not be done."""
        code, out, err = self(*arguments, **environment)
        assert (code, out) == (2, "")
        assert err.count("\n") == 1 and err.startswith("levelq: ")
        return err

    def status(self, **environment: str) -> dict[str, object]:
        """`levelq status --json`."""
        code, out, _ = self("status", "--json", **environment)
        found: dict[str, object] = json.loads(out)
        assert code == (1 if found["problems"] else 0)
        return found


@pytest.fixture
def levelq(settings: Settings) -> Levelq:
    return Levelq(settings)


def execute(settings: Settings, *statements: str) -> None:
    assert settings.database_url is not None
    with psycopg.connect(settings.database_url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


COMMANDS = (
    "demo", "up", "worker", "send", "status", "history", "check", "sync", "catalog", "doctor", "db-upgrade", "db-check",
    "loadtest", "namespace-show", "namespace-rebind", "cancel", "purge", "forget",
)  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_help_text_with_an_example(levelq: Levelq, command: str) -> None:
    words = command.split("-")
    code, out, err = levelq(*words, "--help")
    assert (code, err) == (0, "")
    assert f"Example:  levelq {' '.join(words)}" in out


def test_without_a_command_the_help_lists_them_all(levelq: Levelq) -> None:
    code, out, _ = levelq()
    assert code == 0
    assert all(f"│ {command.partition('-')[0]} " in out for command in COMMANDS)
    assert re.fullmatch(r"levelq \d+\.\d+\.\d+\S*\n", levelq("--version").out)


def test_a_command_goes_through_the_queue_and_into_the_history(levelq: Levelq) -> None:
    sent = levelq("send", "level-up", 42, "player", "--xp", 2600, "--sessions", 3, "--reason", "Won", "--no-wait")
    assert sent.code == 0
    command_id = re.fullmatch(r"queued  ([0-9a-f-]{36})\n", sent.out)
    assert command_id is not None
    assert levelq("send", "set_level", 42, "PLAYER", "--level", 2, "--xp", -5000, "--no-wait").code == 0
    before = levelq.status()
    assert before["workers"] == 0 and before["rejected"] == 0 and before["quarantined"] == 0
    rows = {row["partition"]: row for row in before["partitions"]}  # type: ignore[attr-defined]
    assert set(rows) == {"COACH:1:0", "INTERNSHIP:1:0", "PLAYER:1:0"}
    player = rows["PLAYER:1:0"]
    assert player.pop("oldest_seconds") > 0
    assert player == {
        "partition": "PLAYER:1:0", "specialization": "PLAYER", "waiting": 2, "ready": 1, "claimed": 0, "parked": 0,
    }  # fmt: skip
    shown = levelq("status")
    assert "wrong  PLAYER:1:0: 2 commands waiting and no worker serves it: levelq worker -s PLAYER\n" in shown.out

    assert levelq("worker", "--burst").code == 0
    assert levelq.status()["rejected"] == 1
    shown = levelq("history", 42)
    assert (shown.code, shown.err) == (0, "")
    newest, _, oldest = shown.out.partition("level_up")
    assert "rejected: total_xp: 2600" in " ".join(newest.split()) and "-5,000" in newest
    assert "+2,600" in oldest and "1 -> 3" in oldest and "applied" in oldest
    assert command_id[1] in levelq("history", 42, "--ids").out
    assert levelq("history", 42, "--limit", 1).out.count("PLAYER") == 1
    assert levelq("history", 43).out == "User 43: nothing was decided yet, or the ledger no longer keeps it.\n"


def test_adjust_and_reset_go_through_the_queue_and_into_the_history(levelq: Levelq) -> None:
    for arguments in (
        "level-up 42 PLAYER --xp 2600", "adjust 42 PLAYER --xp -300 --level earned --reason refund",
        "adjust 42 PLAYER --xp 5000", "reset 42 PLAYER --xp 1500 --level 3", "reset 42 PLAYER",
        "set-level 42 PLAYER --level 2",
    ):  # fmt: skip
        assert levelq("send", *arguments.split(), "--no-wait").code == 0
    assert levelq("worker", "--burst").code == 0
    lines = [" ".join(line.replace("│", " ").split()) for line in levelq("history", 42).out.splitlines()]
    shown = [line.partition("PLAYER ")[2] for line in lines if "PLAYER" in line]
    assert shown == [
        "set_level - 1 -> 2 applied", "reset = 0 3 -> 1 applied", "reset = 1,500 2 -> 3 applied",
        "adjust +5,000 2 applied", "adjust -300 3 -> 2 applied", "level_up +2,600 1 -> 3 applied",
    ]  # fmt: skip
    assert levelq("check").code == 0 and levelq("verify", "--at-rest").code == 0


def test_send_waits_for_the_outcome(levelq: Levelq, start: Callable[..., Started], redis: Redis) -> None:
    start("worker")
    code, out, err = levelq("send", "level-up", 7, "COACH", "--xp", 1200, "--theory-hours", 2, "--timeout", 30)
    assert code == 0
    assert out.startswith("applied  COACH of user 7: level 1 -> 2\n")
    assert re.search(r"total_xp +0 -> 1,200", out) and re.search(r"theory_hours +0 -> 2", out)
    command_id = err.split()[-1]
    redis.delete(KEYS.reply(UUID(command_id).bytes))  # else the first send's outcome, still kept, is the answer
    again = levelq("send", "level-up", 7, "COACH", "--xp", 1200, "--theory-hours", 2, "--command-id", command_id)
    assert again.code == 0 and "(decided at an earlier send)" in again.out
    rejected = levelq("send", "set-level", 7, "COACH", "--level", 2, "--sessions", -1)
    assert rejected.code == 1
    assert rejected.out == "rejected  COACH of user 7: completed_sessions: 0 -1 would go below zero\n"
    synced = levelq("send", "sync", 7, "COACH", "--source", "license")
    assert synced.code == 0 and synced.out.startswith("applied  COACH of user 7: ")
    assert levelq.status()["workers"] == 1


def test_send_without_a_worker_says_so_in_time(levelq: Levelq) -> None:
    line = levelq.refused("send", "level-up", 1, "PLAYER", "--xp", 1, "--timeout", 0.1)
    assert re.search(r"command [0-9a-f-]{36} was not decided within 0.1 s.*it stays queued.*levelq status", line)


BAD_INPUT = {
    "an unknown kind": (
        "send fly 1 PLAYER", "KIND: expected one of level-up, set-level, sync, adjust, reset, got 'fly'",
    ),
    "an unknown specialization": ("send level-up 1 CHESS", "specialization: expected one of PLAYER, COACH, INTERNSHIP"),
    "no specialization": ("send level-up 1 a-b", "specialization: "),
    "user 0": ("send level-up 0 PLAYER", "'USER'"),
    "a user that is text": ("send level-up bob PLAYER", "'USER'"),
    "a negative gain": ("send level-up 1 PLAYER --xp -5", "xp_gained: "),
    "a huge number": ("send level-up 1 PLAYER --xp 2147483648", "xp_gained: "),
    "a broken number": ("send level-up 1 PLAYER --xp 1.5", "'--xp'"),
    "level 0": ("send set-level 1 PLAYER --level 0", "new_level: expected 1 to 8 for PLAYER, got 0"),
    "level 999": ("send set-level 1 PLAYER --level 999", "new_level: expected 1 to 8 for PLAYER, got 999"),
    "no level": ("send set-level 1 PLAYER --xp 5", "--level: missing"),
    "a level that is text": ("send set-level 1 PLAYER --level earned", "--level: expected a number, got 'earned'"),
    "a reset to a level that is text": (
        "send reset 1 PLAYER --level keep", "--level: expected a number or earned, got 'keep'",
    ),
    "a reset to level 9": ("send reset 1 PLAYER --level 9", "level: expected 'earned' or 1 to 8 for PLAYER, got 9"),
    "a reset below zero": ("send reset 1 PLAYER --xp -5", "total_xp: "),
    "an adjust to a level": ("send adjust 1 PLAYER --level 3", "level: "),
    "a reset of the source": ("send reset 1 PLAYER --source license", "--source: not an option of reset"),
    "hours for PLAYER": ("send level-up 1 PLAYER --theory-hours 1", "theory_hours: PLAYER does not track hours"),
    "an option of another kind": ("send level-up 1 PLAYER --level 3", "--level: not an option of level-up"),
    "a source that is none": ("send sync 1 PLAYER --source users", "'--source'"),
    "an id that is none": ("send level-up 1 PLAYER --command-id 7", "'--command-id'"),
    "a worker of what is not there": (
        "worker -s CHESS", "--specialization: expected one of PLAYER, COACH, INTERNSHIP, got 'CHESS'",
    ),
    "no processes": ("worker --processes 0", "'--processes'"),
    "a sync of what is not there": ("sync 1 CHESS --source license", "specialization: expected one of PLAYER"),
    "a sync without a source": ("sync 1 PLAYER", "--source"),
    "history of nobody": ("history 0", "'USER'"),
    "a command that is none": ("statsu", "No such command 'statsu'. Did you mean 'status'? (see levelq --help)"),
    "an option that is none": ("status --jsno", "No such option: --jsno"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_refused_in_one_line_and_nothing_is_sent(levelq: Levelq, redis: Redis, case: str) -> None:
    line, expected = BAD_INPUT[case]
    assert expected in levelq.refused(*line.split())
    assert redis.dbsize() == 0


REDIS_COMMANDS = ("status", "send level-up 1 PLAYER --xp 1", "worker --burst")
DATABASE_COMMANDS = (
    "history 1", "check", "sync 1 PLAYER --source license", "db upgrade", "db check", "worker --burst",
)  # fmt: skip


@pytest.mark.parametrize("command", REDIS_COMMANDS)
def test_an_unreachable_redis_is_named(levelq: Levelq, command: str) -> None:
    line = levelq.refused(*command.split(), LEVELQ_REDIS_URL=f"redis://ann:{SECRET}@{NOWHERE}/0", LEVELQ_RQ_URL="")
    assert "LEVELQ_REDIS_URL" in line and f"redis://ann:***@{NOWHERE}/0" in line and "refused" in line


@pytest.mark.parametrize("command", DATABASE_COMMANDS)
def test_an_unreachable_database_is_named(levelq: Levelq, command: str) -> None:
    line = levelq.refused(*command.split(), LEVELQ_DATABASE_URL=f"postgresql://ann:{SECRET}@{NOWHERE}/app")
    assert "LEVELQ_DATABASE_URL" in line and f"postgresql://ann:***@{NOWHERE}/app" in line and "refused" in line


@pytest.mark.parametrize("command", DATABASE_COMMANDS)
def test_without_a_database_url_the_setting_is_named(levelq: Levelq, command: str) -> None:
    line = levelq.refused(*command.split(), LEVELQ_DATABASE_URL="")
    assert line == "levelq: LEVELQ_DATABASE_URL: not set, expected postgresql://user@host/database\n"


@pytest.mark.parametrize("name", ["LEVELQ_REDIS_URL", "LEVELQ_RQ_URL", "LEVELQ_DATABASE_URL"])
@pytest.mark.parametrize("url", ["localhost", f"http://ann:{SECRET}@host/0", "://"])
def test_a_url_of_another_kind_is_refused(levelq: Levelq, name: str, url: str) -> None:
    assert f"{name}: " in levelq.refused("status", **{name: url})


UNREADABLE = {
    "a port that is none": ("LEVELQ_REDIS_URL", f"redis://:{SECRET}@host:x/0"),
    "a slash in the password": ("LEVELQ_REDIS_URL", f"redis://:/{SECRET}@host/0"),
    "an unknown option": ("LEVELQ_RQ_URL", f"redis://host/0?a={SECRET}"),
    "a slash in the database's password": ("LEVELQ_DATABASE_URL", f"postgresql://ann:/{SECRET}@host/app"),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_a_url_that_cannot_be_read_is_refused_without_quoting_it(levelq: Levelq, case: str) -> None:
    name, url = UNREADABLE[case]
    assert f"{name}: cannot be read; expected " in levelq.refused("status", **{name: url})


WRONG_OPTIONS = {
    "an unknown option of the database": ("LEVELQ_DATABASE_URL", "postgresql://h/d?unheard=1", "'unheard'"),
    "a mode of TLS that is none": ("LEVELQ_DATABASE_URL", "postgresql://h/d?sslmode=nonsense", "sslmode: expected"),
    "a time that is none, to listen": ("LEVELQ_LISTEN_URL", "postgresql://h/d?connect_timeout=x", "connect_timeout: "),
    "a time that is none, of Redis": ("LEVELQ_REDIS_URL", "redis://h?health_check_interval=x", "health_check_interval"),
    "an unescaped password of Sentinels": ("LEVELQ_RQ_URL", f"redis+sentinel://:{SECRET}#@h/lanes", "%23 %2F %3F %40"),
}


@pytest.mark.parametrize("case", WRONG_OPTIONS)
def test_worker_is_refused_a_url_with_an_option_that_cannot_work(levelq: Levelq, case: str) -> None:
    name, url, said = WRONG_OPTIONS[case]
    line = levelq.refused("worker", **{name: url})
    assert f"{name}: " in line and said in line


class Guarded(NamedTuple):
    """Servers that ask for a password; the URLs hold the wrong one."""

    redis_url: str
    database_url: str
    place: str


@pytest.fixture(scope="module")
def guarded() -> Iterator[Guarded]:
    with temporary_folder("levelq-tests-") as folder:
        yield from _guarded(Servers(folder))


def _guarded(both: Servers) -> Iterator[Guarded]:
    port = free_port()
    both.postgres.options = ("listen_addresses=127.0.0.1", f"port={port}")
    both.postgres.__class__ = type("Listening", (type(both.postgres),), {"url": property(lambda _: local)})
    local = f"postgresql://postgres@/postgres?host={both.sockets}&port={port}"
    with both, Redis.from_url(both.valkey.url) as redis:
        with psycopg.connect(local, autocommit=True) as connection:
            connection.execute("CREATE ROLE ann LOGIN PASSWORD 'right'")
            (rules,) = connection.execute("SHOW hba_file").fetchone() or ("",)
        Path(rules).write_text("local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n")
        both.postgres.stop()
        both.postgres.start()
        redis.config_set("requirepass", "right")
        url = both.valkey.url.replace("unix://", f"unix://:{SECRET}@")
        place = f"127.0.0.1:{port}"
        yield Guarded(url, f"postgresql://ann:{SECRET}@{place}/postgres", place)


def test_a_wrong_redis_password_is_told_without_showing_it(levelq: Levelq, guarded: Guarded) -> None:
    for command in REDIS_COMMANDS:
        line = levelq.refused(*command.split(), LEVELQ_REDIS_URL=guarded.redis_url)
        assert "LEVELQ_REDIS_URL" in line and "unix://:***@/" in line and "password" in line


def test_a_wrong_database_password_is_told_without_showing_it(levelq: Levelq, guarded: Guarded) -> None:
    for command in DATABASE_COMMANDS:
        line = levelq.refused(*command.split(), LEVELQ_DATABASE_URL=guarded.database_url)
        assert f"LEVELQ_DATABASE_URL: postgresql://ann:***@{guarded.place}/postgres: " in line
        assert "password authentication failed" in line


def test_the_doctor_tells_a_wrong_password(levelq: Levelq, guarded: Guarded) -> None:
    code, out, _ = levelq("doctor", LEVELQ_REDIS_URL=guarded.redis_url, LEVELQ_DATABASE_URL=guarded.database_url)
    assert code == 1
    assert out.count("FAIL") == 2 and "unix://:***@/" in out and f"ann:***@{guarded.place}" in out


def test_status_without_its_database_shows_the_rest(levelq: Levelq) -> None:
    elsewhere = f"postgresql://ann:{SECRET}@{NOWHERE}/app"
    code, out, err = levelq("status", "--json", LEVELQ_DATABASE_URL=elsewhere)
    found = json.loads(out)
    assert code == 1 and len(found["partitions"]) == 3
    assert found["rejected"] is None and found["quarantined"] is None
    assert err == "" and len(found["problems"]) == 1 and "LEVELQ_DATABASE_URL" in found["problems"][0]
    code, out, err = levelq("status", LEVELQ_DATABASE_URL="")
    assert (code, err) == (0, "") and "rejected -   quarantined -" in out


def test_a_database_without_tables_says_what_makes_them(levelq: Levelq, blank_database_url: str) -> None:
    assert "`levelq db upgrade`" in levelq.refused("history", 1, LEVELQ_DATABASE_URL=blank_database_url)


def test_rubbish_is_counted_and_shown_without_obeying_it(levelq: Levelq, redis: Redis) -> None:
    place = Partition("PLAYER")
    redis.rpush(KEYS.lane(place, 42), b"\x1b[31m[bold]rubbish")
    redis.zadd(KEYS.of(place, "ready"), {"42": 0})
    assert levelq("worker", "--burst").code == 0
    assert levelq.status()["quarantined"] == 1
    code, out, _ = levelq("history", 42)
    assert code == 0 and "quarantined: " in out and "\x1b" not in out
    assert r"b'\x1b[31m[bold]rubbish'" in "".join(out.split())


def test_pairs_out_of_step_are_found_and_mended(levelq: Levelq, settings: Settings) -> None:
    assert levelq("check").code == 0
    execute(
        settings,
        "INSERT INTO specialization_progress (student_id, specialization_id, current_level) "
        "VALUES (1, 'PLAYER', 5), (2, 'COACH', 4)",
        "INSERT INTO user_licenses (user_id, specialization_type, current_level) "
        "VALUES (1, 'PLAYER', 3), (3, 'COACH', 2)",
    )
    code, out, _ = levelq("check")
    assert code == 1 and "3 pairs out of step" in out
    for action in ("sync_to_higher_level", "create_license_from_progress", "create_progress_from_license"):
        assert action in out
    commands = re.findall(r"levelq (sync \d \w+ --source \w+)", out)
    assert commands == [
        "sync 1 PLAYER --source progress",
        "sync 2 COACH --source progress",
        "sync 3 COACH --source license",
    ]
    shown = levelq("check", "--limit", 1)
    assert "3 pairs out of step (the first 1 are shown; --limit shows more)" in shown.out
    for command in commands:
        done = levelq(*command.split())
        assert done.code == 0 and done.out.startswith("applied  ")
    assert levelq("check") == Result(0, "Every pair of levels is in step.\n", "")
    nothing = levelq("sync", 9, "PLAYER", "--source", "license")
    assert nothing.code == 1 and nothing.out.startswith("rejected  PLAYER of user 9: ")


def test_the_catalog_is_listed(levelq: Levelq, tmp_path: Path) -> None:
    code, out, _ = levelq("catalog", LEVELQ_REDIS_URL=f"redis://{NOWHERE}")
    assert code == 0 and re.search(r"PLAYER +8 +80,000", out) and "completed_sessions" not in out
    own = tmp_path / "own.toml"
    own.write_text("[referee]\nlevels = [0, {total_xp = 10, completed_sessions = 4}]\n")
    code, out, _ = levelq("catalog", LEVELQ_CATALOG=str(own))
    assert code == 0 and re.search(r"REFEREE +2 +10 +4", out)
    own.write_text("[referee]\nlevels = [5]\n")
    assert f"catalog {own}: REFEREE: level 1: " in levelq.refused("catalog", LEVELQ_CATALOG=str(own))


def test_the_doctor_finds_a_sound_installation_sound(levelq: Levelq) -> None:
    code, out, err = levelq("doctor")
    assert (code, err) == (0, "")
    assert [line.split()[0] for line in out.splitlines() if line[0] != " "] == ["ok"] * 9
    assert "appendfsync everysec" in out


def test_the_doctor_finds_what_would_lose_commands(levelq: Levelq, redis: Redis, settings: Settings) -> None:
    execute(settings, "ALTER TABLE user_licenses DROP CONSTRAINT user_licenses_pair_key")
    kept = {name: str(redis.config_get(name)[name]) for name in ("maxmemory-policy", "appendonly", "maxmemory")}
    try:
        redis.config_set("maxmemory-policy", "allkeys-lru")
        redis.config_set("appendonly", "no")
        redis.config_set("maxmemory", int(redis.info("memory")["used_memory"] * 1.15))
        code, out, _ = levelq("doctor", LEVELQ_RQ_URL=f"redis://{NOWHERE}")
    finally:
        for name, value in kept.items():
            redis.config_set(name, value)
    found = {line.split()[1]: line.split()[0] for line in out.splitlines() if line[0] != " "}
    assert code == 1
    assert found == {
        "settings": "ok", "redis": "ok", "eviction": "FAIL", "durability": "warn", "memory": "warn", "clock": "ok",
        "scripts": "ok", "rq": "FAIL", "database": "ok", "schema": "FAIL",
    }  # fmt: skip
    told = " ".join(out.split())
    for advice in ("CONFIG SET maxmemory-policy noeviction", "CONFIG SET appendonly yes", "levelq db check"):
        assert advice in told


def test_the_doctor_without_redis_looks_at_the_rest(levelq: Levelq) -> None:
    code, out, _ = levelq("doctor", LEVELQ_REDIS_URL="redis://redis.invalid/0", LEVELQ_DATABASE_URL="")
    told = " ".join(out.split())
    assert code == 1
    assert "FAIL redis LEVELQ_REDIS_URL: redis://redis.invalid/0: " in told
    assert "warn encryption LEVELQ_REDIS_URL: redis:// to redis.invalid is not encrypted; use rediss://" in told
    assert "ok database LEVELQ_DATABASE_URL is not set: enough to send, not to work" in told


def test_db_upgrade_tells_what_it_created_and_what_it_left(levelq: Levelq, blank_database_url: str) -> None:
    first = levelq("db", "upgrade", LEVELQ_DATABASE_URL=blank_database_url)
    assert first.code == 0 and first.out.count(" created") == 8 and "left as it was" not in first.out
    again = levelq("db", "upgrade", LEVELQ_DATABASE_URL=blank_database_url)
    assert again.code == 0 and again.out.count("left as it was") == 8 and " created" not in again.out


def test_db_check_prints_what_mends_each_finding(levelq: Levelq, settings: Settings) -> None:
    sound = levelq("db", "check")
    assert sound == Result(0, "The database has all that levelq needs, and commits are safe there.\n", "")
    execute(
        settings,
        "ALTER TABLE user_licenses DROP CONSTRAINT user_licenses_pair_key",
        "INSERT INTO user_licenses (user_id, specialization_type) VALUES (1, 'COACH'), (1, 'COACH')",
    )
    code, out, _ = levelq("db", "check")
    assert code == 1 and "2 errors, 1 warning. After mending: levelq db check\n" in out
    for statement in re.findall(r"^    ((?:UPDATE|DELETE|CREATE).*;)$", out, re.MULTILINE):
        execute(settings, statement)
    code, out, _ = levelq("db", "check")
    assert code == 0 and "0 errors, 1 warning" in out
    assert "    levelq sync 1 COACH --source license\n" in out


@pytest.mark.parametrize("columns", ["40", "60", "80"])
def test_narrow_terminals_get_every_word(levelq: Levelq, columns: str) -> None:
    assert levelq("send", "level-up", 42, "INTERNSHIP", "--xp", 20000, "--no-wait").code == 0
    assert levelq("worker", "--burst").code == 0
    for command, words in (
        ("status", ("INTERNSHIP:1:0", "Claimed")),
        ("history 42", ("INTERNSHIP", "1 -> 3", "+20,000")),
    ):
        out = levelq(*command.split(), COLUMNS=columns).out
        assert max(map(len, out.splitlines())) <= int(columns)
        assert all(word in out for word in words)


def test_a_reader_that_goes_away_is_no_error(levelq: Levelq, settings: Settings) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "levelq", "catalog"],
        env=os.environ | settings.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_a_missing_library_is_named_with_the_extra_that_brings_it(missing: str) -> None:
    program = f"import sys; sys.modules['{missing}'] = None; from levelq.cli import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"levelq: {missing} is not installed: pip install 'levelq[worker]'\n"


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Children obey Ctrl-C even if whoever started the tests ignores it, as a shell's background jobs do."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible", "unmeasured")
def test_ctrl_c_ends_quietly(start: Callable[..., Started], redis: Redis) -> None:
    sending = start("send", "level-up", "1", "PLAYER", "--xp", "1", "--timeout", "60")
    until(lambda: redis.info("clients")["blocked_clients"], what="a sender that waits for its outcome")
    sending.send_signal(signal.SIGINT)
    assert sending.communicate(timeout=30)[0] == ""
    assert sending.returncode == 130


def exported(process: Started) -> dict[str, str]:
    """The settings that `levelq up` tells to export, once it is up."""
    assert process.stdout is not None
    found: dict[str, str] = {}
    for line in process.stdout:
        if match := re.match(r"export (LEVELQ_\w+)=(.*)", line):
            found[match[1]] = match[2].strip("'")
        if len(found) == 2:
            return found
    pytest.fail(f"levelq up ended with {process.wait()}")


@pytest.mark.usefixtures("interruptible", "unmeasured")
def test_up_keeps_its_data_and_its_folder_to_itself(
    start: Callable[..., Started], levelq: Levelq, server_folder: Path
) -> None:
    data = str(server_folder / "data")
    up = start("up", "--data", data)
    urls = exported(up)
    assert levelq("send", "level-up", 42, "PLAYER", "--xp", 1000, "--no-wait", **urls).code == 0
    assert levelq("worker", "--burst", **urls).code == 0
    assert levelq("send", "level-up", 42, "PLAYER", "--xp", 500, "--no-wait", **urls).code == 0
    line = levelq.refused("up", "--data", data)
    assert line.startswith(f"levelq: --data {data}: in use by a `levelq up` (process {up.pid}); ")
    up.send_signal(signal.SIGINT)
    assert up.communicate(timeout=60)[0].endswith(f"Stopped. The data stays in {data}.\n")
    assert up.returncode == 0
    assert not Path(urls["LEVELQ_REDIS_URL"].removeprefix("unix://")).exists()

    up = start("up", "--data", data)
    urls = exported(up)
    assert "1 -> 2" in levelq("history", 42, **urls).out
    waiting = {row["specialization"]: row["waiting"] for row in levelq.status(**urls)["partitions"]}  # type: ignore[attr-defined]
    assert waiting["PLAYER"] == 1
    up.terminate()
    up.communicate(timeout=60)
    assert up.returncode == 0


def test_up_notices_that_a_server_died(start: Callable[..., Started], server_folder: Path) -> None:
    up = start("up", "--data", str(server_folder / "data"))
    with Redis.from_url(exported(up)["LEVELQ_REDIS_URL"]) as redis:
        redis.shutdown(nosave=True)
    out = up.communicate(timeout=60)[0]
    assert up.returncode == 2
    assert out.splitlines()[-1].startswith("levelq: valkey has ended by itself; ")


def test_up_says_why_a_folder_cannot_be_used(levelq: Levelq, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "File exists; give a folder that can be written" in levelq.refused("up", "--data", tmp_path / "file")


@pytest.mark.parametrize("command", [("cancel", 7, "PLAYER"), ("purge",), ("forget", 7)], ids=lambda c: c[0])
def test_command_that_erases_refuses_without_a_terminal_and_without_yes(
    levelq: Levelq, settings: Settings, redis: Redis, command: tuple[object, ...]
) -> None:
    with Producer(settings) as producer:
        producer.level_up(7, "PLAYER", 5)
    lane = KEYS.lane(Partition("PLAYER"), 7)
    code, out, err = levelq(*command)
    assert (code, err.count("\n")) == (2, 1) and "use --yes in scripts" in err
    assert "1 command in lanes" in out and redis.llen(lane) == 1
    assert levelq(*command, "--yes").code == 0
    assert redis.llen(lane) == 0
