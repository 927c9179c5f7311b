"""The roles of docs/how-to/grant-rights.md: each is made by the page's own statements, works, and may do no more."""

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest
from psycopg.errors import InsufficientPrivilege
from redis import Redis
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from levelq.cli import screen
from levelq.cli.app import run
from levelq.embedded import Servers
from levelq_core import InvalidCommand, LevelUp, ProgressLicenseCoupler, Settings, apply_commands, level_up_atomic
from levelq_core.database.engine import engine_for
from levelq_producer import Outbox, Producer
from tests.support.db_check import execute
from tests.support.fixtures.databases import as_role

PAGE = Path(__file__).parents[4] / "docs" / "how-to" / "grant-rights.md"
SECTIONS = dict(re.findall(r"^## (.+?)\n(.+?)(?=^## |\Z)", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL))
ROLES = {
    "Workers": "levelq_worker",
    "An application with direct calls": "levelq_application",
    "An application with an outbox": "levelq_sender",
    "A consumer of level changes": "levelq_consumer",
    "An operator": "levelq_operator",
    "A reader": "levelq_reader",
    "A pruner": "levelq_pruner",
}
TABLES = (
    "specialization_progress", "user_licenses", "license_progressions",
    "levelq_ledger", "levelq_outbox", "levelq_quarantine", "levelq_identity",
)  # fmt: skip

Levelq = Callable[..., str]


def statements(section: str, *, users: bool) -> list[str]:
    """The page's statements for a role; those on the application's users only where there are any."""
    blocks = re.findall(r"```sql\n(.+?)```", SECTIONS[section], re.DOTALL)
    found = [statement.strip() for block in blocks for statement in block.split(";") if statement.strip()]
    return [statement for statement in found if users or not statement.endswith(f" users TO {ROLES[section]}")]


@pytest.fixture
def roles(engine: Engine) -> Iterator[None]:
    """All of them, in a database of either kind of schema."""
    with engine.connect() as connection:
        users = connection.exec_driver_sql("SELECT to_regclass('users') IS NOT NULL").scalar_one()
    try:
        for section in ROLES:
            execute(engine, *statements(section, users=users))
        yield
    finally:
        for role in ROLES.values():
            execute(engine, f"DROP OWNED BY {role}", f"DROP ROLE {role}")


@pytest.fixture
def settings(servers: Servers, redis: Redis, database_url: str) -> Settings:
    """Of the database in either kind of schema."""
    return Settings.load(redis_url=servers.valkey.url, database_url=database_url)


@pytest.fixture
def session_of(settings: Settings) -> Iterator[Callable[[str], Session]]:
    """Make sessions of a role."""
    with ExitStack() as stack:

        def make(role: str) -> Session:
            made = engine_for(as_role(settings, role))
            stack.callback(made.dispose)
            return stack.enter_context(Session(made))

        yield make


@pytest.fixture
def levelq(settings: Settings, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Levelq:
    """Run `levelq ...` as a role; returns its output."""

    def command(role: str, *arguments: str, code: int = 0) -> str:
        for name, value in as_role(settings, role).environment().items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(screen.out, "width", 200)
        capfd.readouterr()
        ended = run(arguments)
        printed = "".join(capfd.readouterr())
        assert ended == code, printed
        return printed

    return command


def refused(settings: Settings, role: str, *attempts: str) -> None:
    """Each statement is refused to this role, for lack of rights."""
    assert settings.database_url is not None
    with psycopg.connect(as_role(settings, role).database_url or "", autocommit=True) as connection:
        for statement in attempts:
            with pytest.raises(InsufficientPrivilege):
                connection.execute(statement.encode())


@pytest.mark.usefixtures("roles")
def test_worker_role_does_all_that_a_worker_does_and_no_more(
    engine: Engine, settings: Settings, redis: Redis, levelq: Levelq
) -> None:
    worker = "levelq_worker"
    assert "FAIL" not in (printed := levelq(worker, "doctor")) and "warn" not in printed
    assert "has all that levelq needs" in levelq(worker, "db", "check")
    execute(
        engine,
        "INSERT INTO specialization_progress (student_id, specialization_id, current_level, created_at) "
        "VALUES (2, 'PLAYER', 1, now())",
    )
    with Producer(settings) as producer:
        producer.level_up(1, "PLAYER", 1000)
        producer.set_level(2, "PLAYER", 1, xp_change=-5)  # rejected: the license row is made and deleted again
        producer.sync(3, "PLAYER", "progress")
    redis.rpush("levelq:{PLAYER:1:0}:lane:4", b"no command")
    redis.zadd("levelq:{PLAYER:1:0}:ready", {"4": 0})
    levelq(worker, "worker", "--burst")
    assert "applied" in levelq(worker, "history", "1")
    assert "rejected 2   quarantined 1" in levelq(worker, "status")
    levelq(worker, "check", code=1)  # user 2 has no license
    levelq("levelq_operator", "sync", "2", "PLAYER", "--source", "progress")
    levelq(worker, "check")
    levelq(worker, "namespace", "show")
    refused(
        settings,
        worker,
        "UPDATE levelq_ledger SET xp = 0",
        "DELETE FROM levelq_ledger",
        "TRUNCATE levelq_ledger",
        "UPDATE license_progressions SET to_level = 1",
        "DELETE FROM license_progressions",
        "DELETE FROM levelq_quarantine",
        "INSERT INTO levelq_outbox (command_id) VALUES (gen_random_uuid())",
        "UPDATE levelq_identity SET identity = gen_random_uuid()",
        "CREATE TABLE own (id int)",
        "ALTER TABLE user_licenses ADD COLUMN own int",
    )


@pytest.mark.usefixtures("roles")
def test_application_role_makes_direct_calls_and_changes_no_decision(
    settings: Settings, session_of: Callable[[str], Session]
) -> None:
    session = session_of("levelq_application")
    assert level_up_atomic(session, 1, "PLAYER", 1000)["success"]
    coupler = ProgressLicenseCoupler(session)
    assert coupler.update_level_atomic(1, "PLAYER", 5, reason="a promotion")["success"]
    assert coupler.sync_existing_records_atomic(1, "PLAYER")["success"]
    assert coupler.validate_consistency(1, "PLAYER")["consistent"]  # type: ignore[typeddict-item]
    batch = [LevelUp(user_id=user, specialization="PLAYER", xp_gained=10) for user in (1, 2)]
    assert {outcome.status for outcome in apply_commands(session.connection(), batch)} == {"applied"}
    session.commit()
    refused(
        settings,
        "levelq_application",
        "DELETE FROM levelq_ledger",
        "UPDATE levelq_ledger SET xp = 0",
        "UPDATE license_progressions SET to_level = 1",
        "INSERT INTO levelq_outbox (command_id) VALUES (gen_random_uuid())",
        "SELECT FROM levelq_quarantine",
    )


@pytest.mark.usefixtures("roles")
def test_sender_role_writes_the_outbox_and_reads_outcomes_alone(
    settings: Settings, session_of: Callable[[str], Session], levelq: Levelq
) -> None:
    session = session_of("levelq_sender")
    outbox = Outbox(session, settings=as_role(settings, "levelq_sender"))
    command = LevelUp(user_id=1, specialization="PLAYER", xp_gained=1000)
    sent = outbox.send(command, reply=False)
    other = command.model_copy(update={"xp_gained": 7})
    with pytest.raises(InvalidCommand, match="is in the outbox with other content"):
        outbox.send_many([LevelUp(user_id=2, specialization="PLAYER", xp_gained=1), other])
    session.commit()
    levelq("levelq_worker", "worker", "--burst")
    assert sent.result(timeout=5).to_level == 2
    with Producer(as_role(settings, "levelq_sender")) as producer:
        producer.wait_until_applied(1, "PLAYER")
    refused(
        settings,
        "levelq_sender",
        "SELECT FROM specialization_progress",
        "UPDATE user_licenses SET current_level = 8",
        "UPDATE levelq_outbox SET payload = ''",
        "INSERT INTO levelq_ledger (command_id) VALUES (gen_random_uuid())",
        "DELETE FROM levelq_ledger",
    )


@pytest.mark.usefixtures("roles")
def test_reader_role_reads_everything_and_writes_nothing(
    settings: Settings, session_of: Callable[[str], Session], levelq: Levelq
) -> None:
    reader = "levelq_reader"
    level_up_atomic(session_of("levelq_application"), 1, "PLAYER", 1000)
    assert "applied" in levelq(reader, "history", "1")
    assert "unknown" not in (explained := levelq(reader, "explain", "1")) and "1 -> 2" in explained
    assert "1 -> 2" in levelq(reader, "events")
    assert "wrong" not in levelq(reader, "status")
    levelq(reader, "check")
    assert "Every invariant holds" in levelq(reader, "verify")
    printed = levelq(reader, "db", "check", code=1)
    assert levelq(reader, "rejected", "list") and levelq(reader, "quarantine", "list") and levelq(reader, "audit")
    assert printed.count("which a worker needs") == 6 and "role levelq_reader lacks INSERT" in printed
    assert "levelq_reader lacks" in levelq(reader, "doctor", code=1)
    refused(
        settings,
        reader,
        *(f"DELETE FROM {table}" for table in TABLES),
        "UPDATE user_licenses SET current_level = 8",
        "INSERT INTO levelq_outbox (command_id) VALUES (gen_random_uuid())",
    )


@pytest.mark.usefixtures("roles")
def test_consumer_role_reads_events_and_moves_its_position_alone(
    settings: Settings, session_of: Callable[[str], Session], levelq: Levelq
) -> None:
    level_up_atomic(session_of("levelq_application"), 1, "PLAYER", 1000)
    assert "1 -> 2" in levelq("levelq_consumer", "events", "--consumer", "mails")
    assert levelq("levelq_consumer", "events", "--consumer", "mails") == ""
    refused(
        settings,
        "levelq_consumer",
        "SELECT FROM specialization_progress",
        "DELETE FROM levelq_event_positions",
        "UPDATE levelq_ledger SET xp = 0",
        "INSERT INTO levelq_ledger (command_id) VALUES (gen_random_uuid())",
    )


@pytest.mark.usefixtures("roles")
def test_pruner_role_removes_old_decisions_alone(
    engine: Engine, settings: Settings, session_of: Callable[[str], Session], levelq: Levelq
) -> None:
    level_up_atomic(session_of("levelq_application"), 1, "PLAYER", 1000)
    execute(
        engine,
        "UPDATE levelq_ledger SET applied_at = now() - interval '2 days'",
        "INSERT INTO levelq_quarantine (specialization, reason, raw, length, sha256, at) "
        "VALUES ('PLAYER', 'old', '', 0, sha256(''), now() - interval '2 days')",
    )
    printed = levelq("levelq_pruner", "prune", "--older-than", "1d", "--quarantine")
    assert "levelq_ledger: 1 row removed" in printed and "levelq_quarantine: 1 row removed" in printed
    refused(
        settings,
        "levelq_pruner",
        "SELECT FROM specialization_progress",
        "DELETE FROM license_progressions",
        "DELETE FROM levelq_outbox",
        "UPDATE levelq_ledger SET xp = 0",
        "INSERT INTO levelq_ledger (command_id) VALUES (gen_random_uuid())",
    )
