"""What the command line refuses, each in one line that names what is wrong and never shows a password."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psycopg
import pytest
from redis import Redis

from levelq.embedded import Servers
from levelq.server_account import temporary_folder
from tests.support.fixtures.command_line import NOWHERE, SECRET, Levelq
from tests.support.fixtures.ports import free_port

BAD_INPUT = {
    "an unknown kind": (
        "send fly 1 PLAYER", "KIND: expected one of level-up, set-level, sync, adjust, reset, got 'fly'",
    ),
    "a demo beyond memory": ("demo --commands 100000000", "'--commands'"),
    "a demo of more users than any": ("demo --users 100000000", "'--users'"),
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
    "a specialization that is no UTF-8": (
        "history 1 -s \udcff", r"specialization: expected a text in UTF-8 without NUL, got '\udcff'",
    ),
    "an explanation of what is no UTF-8": ("explain 1 \udcff", "specialization: expected a text in UTF-8"),
    "rejections of what is no UTF-8": ("rejected list -s \udcff", "specialization: expected a text in UTF-8"),
    "a reason that is no UTF-8": ("quarantine list --reason \udcff", "reason: expected a text in UTF-8"),
    "an action with NUL": ("audit --action a\0b", r"action: expected a text in UTF-8 without NUL, got 'a\x00b'"),
    "an entry beyond the greatest id": ("quarantine show 9223372036854775808", "'ID'"),
    "entry 0": ("quarantine discard 0 --yes", "'ID'"),
}  # fmt: skip


REDIS_COMMANDS = ("status", "send level-up 1 PLAYER --xp 1", "worker --burst")
DATABASE_COMMANDS = (
    "history 1", "check", "sync 1 PLAYER --source license", "db upgrade", "db check", "worker --burst",
)  # fmt: skip
REDIS, RQ, DATABASE = "LEVELQ_REDIS_URL", "LEVELQ_RQ_URL", "LEVELQ_DATABASE_URL"
AWAY = {
    REDIS: {REDIS: f"redis://ann:{SECRET}@{NOWHERE}/0", RQ: ""},
    DATABASE: {DATABASE: f"postgresql://ann:{SECRET}@{NOWHERE}/app"},
}
UNREADABLE = "cannot be read; expected "
WRONG_URLS = (
    ("a port that is none", "status", REDIS, f"redis://:{SECRET}@host:x/0", f"{REDIS}: {UNREADABLE}"),
    ("a slash in the password", "status", REDIS, f"redis://:/{SECRET}@host/0", f"{REDIS}: {UNREADABLE}"),
    ("an unknown option", "status", RQ, f"redis://host/0?a={SECRET}", f"{RQ}: {UNREADABLE}"),
    ("a slash in a password", "status", DATABASE, f"postgresql://ann:/{SECRET}@host/app", f"{DATABASE}: {UNREADABLE}"),
    ("an option of libpq that is none", "worker", DATABASE, "postgresql://h/d?unheard=1", "'unheard'"),
    ("a mode of TLS that is none", "worker", DATABASE, "postgresql://h/d?sslmode=nonsense", "sslmode: expected"),
    ("a time to listen", "worker", "LEVELQ_LISTEN_URL", "postgresql://h/d?connect_timeout=x", "connect_timeout: "),
    ("a time of Redis", "worker", REDIS, "redis://h?health_check_interval=x", "health_check_interval"),
    ("an unescaped password", "worker", RQ, f"redis+sentinel://:{SECRET}#@h/lanes", "%23 %2F %3F %40"),
)
KINDS = ("localhost", f"http://ann:{SECRET}@host/0", "://")
REFUSED: dict[str, tuple[str, dict[str, str], tuple[str, ...]]] = {
    **{name: (command, {}, (expected,)) for name, (command, expected) in BAD_INPUT.items()},
    **{
        f"{command}, {name} unreachable": (
            command, AWAY[name], (name, AWAY[name][name].replace(SECRET, "***"), "refused"),
        )
        for name, commands in ((REDIS, REDIS_COMMANDS), (DATABASE, DATABASE_COMMANDS))
        for command in commands
    },
    **{
        f"{command} without a database URL": (
            command, {DATABASE: ""}, (f"levelq: {DATABASE}: not set, expected postgresql://user@host/database\n",),
        )
        for command in DATABASE_COMMANDS
    },
    **{f"{name} {url}": ("status", {name: url}, (f"{name}: ",)) for name in (REDIS, RQ, DATABASE) for url in KINDS},
    **{case: (command, {name: url}, (f"{name}: ", message)) for case, command, name, url, message in WRONG_URLS},
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_command_is_refused_in_one_line_and_nothing_is_sent(levelq_here: Levelq, redis: Redis, case: str) -> None:
    command, environment, expected = REFUSED[case]
    line = levelq_here.refused(*command.split(), **environment)
    assert all(part in line for part in expected), line
    assert redis.dbsize() == 0


class Guarded(NamedTuple):
    """Servers that ask for a password; the URLs hold the wrong one."""

    redis_url: str
    database_url: str
    address: str


@pytest.fixture(scope="module")
def guarded() -> Iterator[Guarded]:
    port = free_port()
    place = f"127.0.0.1:{port}"
    with temporary_folder("levelq-tests-") as folder:
        both = Servers(folder)
        local = f"postgresql://postgres@/postgres?host={both.sockets}&port={port}"
        both.postgres.options = ("listen_addresses=127.0.0.1", f"port={port}")
        both.postgres.__class__ = type("Listening", (type(both.postgres),), {"url": property(lambda _: local)})
        with both, Redis.from_url(both.valkey.url) as redis:
            with psycopg.connect(local, autocommit=True) as connection:
                connection.execute("CREATE ROLE ann LOGIN PASSWORD 'right'")
                (rules,) = connection.execute("SHOW hba_file").fetchone() or ("",)
            Path(rules).write_text("local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n")
            both.postgres.stop()
            both.postgres.start()
            redis.config_set("requirepass", "right")
            url = both.valkey.url.replace("unix://", f"unix://:{SECRET}@")
            yield Guarded(url, f"postgresql://ann:{SECRET}@{place}/postgres", place)


def test_wrong_redis_password_is_reported_without_showing_it(levelq_here: Levelq, guarded: Guarded) -> None:
    for command in REDIS_COMMANDS:
        line = levelq_here.refused(*command.split(), LEVELQ_REDIS_URL=guarded.redis_url)
        assert "LEVELQ_REDIS_URL" in line and "unix://:***@/" in line and "password" in line


def test_wrong_database_password_is_reported_without_showing_it(levelq_here: Levelq, guarded: Guarded) -> None:
    for command in DATABASE_COMMANDS:
        line = levelq_here.refused(*command.split(), LEVELQ_DATABASE_URL=guarded.database_url)
        assert f"LEVELQ_DATABASE_URL: postgresql://ann:***@{guarded.address}/postgres: " in line
        assert "password authentication failed" in line


def test_doctor_reports_wrong_passwords(levelq_here: Levelq, guarded: Guarded) -> None:
    code, out, _ = levelq_here("doctor", LEVELQ_REDIS_URL=guarded.redis_url, LEVELQ_DATABASE_URL=guarded.database_url)
    assert code == 1
    assert out.count("FAIL") == 2 and "unix://:***@/" in out and f"ann:***@{guarded.address}" in out
