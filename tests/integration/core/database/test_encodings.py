"""Texts are right whatever encoding the connection or the database has, or they are refused clearly."""

import asyncio
from collections.abc import Callable
from contextlib import suppress

import psycopg
import pytest
from redis import Redis
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from levelq.embedded import Servers
from levelq_core import Command, LevelUp, SchemaError, SetLevel, Settings, apply_commands, level_up_atomic
from levelq_core.keys import Partition
from levelq_core.operations.queries import outcome_of
from levelq_core.operations.readings.history import History
from levelq_producer import Outbox
from levelq_worker.relay.thread import Relay
from levelq_worker.support.preflight import preflight
from tests.support.coupler import drain_all, ledger, push, push_bare, runtime
from tests.support.db_check import findings
from tests.support.fixtures.keys import KEYS

REASON = "Müller, 勝利"
LATIN1_REASON = "Müller"
CYRILLIC = "Победа"


def up(user: int, reason: str, xp: int = 1000) -> LevelUp:
    return LevelUp(user_id=user, specialization="PLAYER", xp_gained=xp, reason=reason)


def reasons(url: str) -> list[str]:
    """The reasons as the server has them, read in UTF-8."""
    with psycopg.connect(url, client_encoding="utf8") as connection:
        return [row[0] for row in connection.execute("SELECT advancement_reason FROM license_progressions ORDER BY id")]


def in_environment(patch: pytest.MonkeyPatch, url: str) -> str:
    patch.setenv("PGCLIENTENCODING", "LATIN1")
    return url


def in_options(_: pytest.MonkeyPatch, url: str) -> str:
    return f"{url}&options=-c%20client_encoding%3DLATIN1"


def in_url(_: pytest.MonkeyPatch, url: str) -> str:
    return f"{url}&client_encoding=latin1"


def in_database(_: pytest.MonkeyPatch, url: str) -> str:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {connection.info.dbname} SET client_encoding = LATIN1")
    return url


def in_role(_: pytest.MonkeyPatch, url: str) -> str:
    with psycopg.connect(url, autocommit=True) as connection:
        name = connection.info.dbname  # of this database alone: other tests use the same role
        connection.execute(f"ALTER ROLE {connection.info.user} IN DATABASE {name} SET client_encoding = LATIN1")
    return url


Spoil = Callable[[pytest.MonkeyPatch, str], str]
SPOILT = pytest.mark.parametrize("spoil", [in_environment, in_options, in_url, in_database, in_role])


@SPOILT
def test_worker_writes_right_text_whatever_client_encoding_its_environment_names(
    spoil: Spoil, monkeypatch: pytest.MonkeyPatch, servers: Servers, redis: Redis, own_database_url: str
) -> None:
    settings = Settings.load(redis_url=servers.valkey.url, database_url=spoil(monkeypatch, own_database_url))
    with runtime(settings) as worker:
        push(worker, [up(1, REASON)])
        drain_all(worker, "PLAYER")
    assert reasons(own_database_url) == [REASON]


@SPOILT
def test_direct_call_writes_right_text_on_an_application_connection_of_another_encoding(
    spoil: Spoil, monkeypatch: pytest.MonkeyPatch, own_database_url: str
) -> None:
    spoilt = spoil(monkeypatch, own_database_url).replace("postgresql://", "postgresql+psycopg://")
    engine = create_engine(spoilt)
    try:
        with Session(engine) as session:
            assert session.execute(text("SHOW client_encoding")).scalar_one() == "LATIN1"
            assert level_up_atomic(session, 1, "PLAYER", 1000, reason=REASON)["success"]
            assert session.execute(text("SHOW client_encoding")).scalar_one() == "LATIN1"
            assert session.execute(text("SELECT 'ü'")).scalar_one() == "ü"
    finally:
        engine.dispose()
    assert reasons(own_database_url) == [REASON]


def test_direct_call_on_an_async_connection_of_another_encoding_writes_right_text(own_database_url: str) -> None:
    async def call() -> tuple[bool, str]:
        url = own_database_url.replace("postgresql://", "postgresql+psycopg://")
        engine = create_async_engine(url, client_encoding="latin1")
        try:
            async with AsyncSession(engine) as session:
                answer = await session.run_sync(level_up_atomic, 1, "PLAYER", 1000, reason=REASON)
                return answer["success"], (await session.execute(text("SHOW client_encoding"))).scalar_one()
        finally:
            await engine.dispose()

    assert asyncio.run(call()) == (True, "LATIN1")
    assert reasons(own_database_url) == [REASON]


def test_encoding_of_an_application_connection_is_kept_when_a_command_is_refused(own_database_url: str) -> None:
    engine = create_engine(own_database_url.replace("postgresql://", "postgresql+psycopg://"), client_encoding="latin1")
    try:
        with Session(engine) as session:
            assert not level_up_atomic(session, 1, "GOALIE", 1000, reason=REASON)["success"]
            assert session.execute(text("SHOW client_encoding")).scalar_one() == "LATIN1"
        with engine.connect() as connection:
            with connection.begin():
                apply_commands(connection, [up(2, REASON)])
                with suppress(Exception):
                    connection.exec_driver_sql("SELECT 1/0")
            assert connection.exec_driver_sql("SHOW client_encoding").scalar_one() == "LATIN1"
    finally:
        engine.dispose()


def batch() -> list[Command]:
    return [
        up(1, LATIN1_REASON),
        up(1, CYRILLIC, xp=1500),
        up(1, "after", xp=1500),
        SetLevel(user_id=2, specialization="PLAYER", new_level=3, reason=LATIN1_REASON),
    ]


def test_reason_that_a_latin1_database_cannot_hold_costs_its_command_alone(
    database_in: Callable[[str], str], engines: Callable[..., Engine]
) -> None:
    url = database_in("LATIN1")
    with engines(url).begin() as connection:
        outcomes = apply_commands(connection, batch())
        rows = ledger(connection)
    assert [outcome.status for outcome in outcomes] == ["applied", "rejected", "applied", "applied"]
    assert outcomes[1].error == "database_error"
    assert 'has no equivalent in encoding "LATIN1"' in outcomes[1].message
    assert rows[1]["message"] == outcomes[1].message
    assert reasons(url) == [LATIN1_REASON, "after", LATIN1_REASON]


def test_worker_on_a_latin1_database_rejects_what_it_cannot_hold_and_goes_on(
    database_in: Callable[[str], str], servers: Servers, redis: Redis
) -> None:
    url = database_in("LATIN1")
    with runtime(Settings.load(redis_url=servers.valkey.url, database_url=url)) as worker:
        push(worker, batch())
        drain_all(worker, "PLAYER")
        shown = [(entry.status, entry.to_level) for entry in History(worker.engine).of(1)]
    assert shown == [("applied", 3), ("rejected", None), ("applied", 2)]
    assert reasons(url) == [LATIN1_REASON, "after", LATIN1_REASON]


def test_malformed_entries_of_any_characters_are_quarantined_in_a_latin1_database(
    database_in: Callable[[str], str], servers: Servers, redis: Redis
) -> None:
    url = database_in("LATIN1")
    with runtime(Settings.load(redis_url=servers.valkey.url, database_url=url)) as worker:
        push_bare(redis, "PLAYER", CYRILLIC, CYRILLIC.encode())
        redis.zadd(KEYS.of(Partition("PLAYER"), "ready"), {CYRILLIC: 1})
        push(worker, [up(1, "beside it")])
        drain_all(worker, "PLAYER")
        with worker.engine.connect() as connection:
            (raw,) = connection.execute(text("SELECT raw FROM levelq_quarantine")).scalars()
    assert raw == CYRILLIC.encode()
    assert reasons(url) == ["beside it"]


@pytest.mark.parametrize("encoding", ["LATIN1", "UTF8"])
def test_command_keeps_its_reason_through_the_outbox_of_a_connection_of_another_encoding(
    encoding: str, database_in: Callable[[str], str], servers: Servers, redis: Redis
) -> None:
    url = database_in(encoding)
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"), client_encoding="latin1")
    settings = Settings.load(redis_url=servers.valkey.url, database_url=url)
    command = up(1, LATIN1_REASON)
    try:
        with Session(engine) as session:
            Outbox(session, settings=settings).send(command)
            session.commit()
    finally:
        engine.dispose()
    relay = Relay(settings, ["PLAYER"])
    with runtime(settings) as worker:
        relay.poll()
        drain_all(worker, "PLAYER")
        with worker.engine.connect() as connection:
            outcome = outcome_of(connection, command.command_id)
    relay.release()
    assert outcome is not None
    assert outcome.status == "applied"
    assert reasons(url) == [LATIN1_REASON]


def test_latin1_database_is_a_warning_of_db_check(
    database_in: Callable[[str], str], engines: Callable[..., Engine]
) -> None:
    (finding,) = findings(engines(database_in("LATIN1")))
    assert finding.severity == "warning"
    assert "LATIN1" in finding.problem


def test_sql_ascii_database_is_refused_by_direct_calls_db_check_and_worker_start(
    database_in: Callable[[str], str], engines: Callable[..., Engine], servers: Servers, redis: Redis
) -> None:
    url = database_in("SQL_ASCII")
    engine = engines(url)
    (finding,) = findings(engine)
    assert finding.severity == "error"
    assert finding.problem.startswith("the database's encoding is SQL_ASCII, expected UTF8")
    with Session(engine) as session:
        answer = level_up_atomic(session, 1, "PLAYER", 1000)
    assert not answer["success"]
    assert (answer["error_type"], "SQL_ASCII" in answer["message"]) == ("database_error", True)
    with pytest.raises(SchemaError, match="encoding is SQL_ASCII, expected UTF8"):
        preflight(Settings.load(redis_url=servers.valkey.url, database_url=url))
