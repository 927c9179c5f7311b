"""Direct calls on engines and connections that the application made in its own way."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from sqlalchemy import Connection, Engine, MetaData, Table, create_engine, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from levelq import Outbox, ProgressLicenseCoupler, TransactionMisuse, apply_commands, check, level_up_atomic
from levelq_core.database.schema import forget, schema_of
from levelq_core.settings import Settings
from tests.support.isolation import experience, level_up
from tests.support.orm import ID, User, new_users


def sqlalchemy_url(url: str) -> str:
    return Settings.load(database_url=url).sqlalchemy_url


@pytest.fixture
def made_engine(own_database_url: str) -> Iterator[Callable[..., Engine]]:
    """Make the application's engine, on a database in levelq's own schema."""
    made: list[Engine] = []

    def make(url: Any = None, **options: Any) -> Engine:
        made.append(create_engine(url or sqlalchemy_url(own_database_url), **options))
        return made[-1]

    yield make
    for engine in made:
        engine.dispose()


def run(code: str, *arguments: str) -> Any:
    """The JSON that code prints in an interpreter of its own, into which nothing was imported before."""
    done = subprocess.run([sys.executable, "-I", "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def called(bind: Any, **options: Any) -> Any:
    """The result of a call on a new session."""
    with Session(bind, **options) as session:
        return level_up_atomic(session, 1, "PLAYER", 10)


# The order of imports


ENGINE_FIRST = """
import json, sys
from sqlalchemy import create_engine
from sqlalchemy.orm import Session
engine = create_engine(sys.argv[1])
with engine.connect():
    pass
from levelq import LevelUp, ProgressLicenseCoupler, apply_commands, level_up_atomic
with Session(engine) as session:
    coupler = ProgressLicenseCoupler(session)
    results = [level_up_atomic(session, 1, "PLAYER", 2600), coupler.update_level_atomic(1, "PLAYER", 2)]
with engine.begin() as connection:
    outcomes = apply_commands(connection, [LevelUp(user_id=n, specialization="COACH", xp_gained=5) for n in (2, 3)])
print(json.dumps([r["message"] for r in results] + [o.status for o in outcomes]))
"""


def test_engine_made_before_levelq_is_imported_works(own_database_url: str) -> None:
    results = run(ENGINE_FIRST, sqlalchemy_url(own_database_url))
    assert results == ["level 1 -> 3", "level 3 -> 2", "applied", "applied"]


IMPORT_EVERYTHING = """
import gc, json, logging, pkgutil, signal, sys
from importlib import import_module
import psycopg, sqlalchemy.orm

def registered():
    adapters = psycopg.adapters
    return [dict(adapters._dumpers_by_oid[0]), dict(adapters._dumpers_by_oid[1])] + [
        {kind if isinstance(kind, str) else kind.__qualname__: d for kind, d in by.items()}
        for by in adapters._dumpers.values()
    ] + [dict(by) for by in adapters._loaders]

def state():
    return [
        registered(),
        [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM, signal.SIGCHLD)],
        [len(logging.root.handlers), logging.root.level, sys.excepthook, sys.unraisablehook, sys.getswitchinterval()],
        [gc.get_threshold(), gc.get_freeze_count()],
    ]

before = state()
names = []
for package in ("levelq", "levelq_core", "levelq_producer", "levelq_worker"):
    for found in pkgutil.walk_packages(import_module(package).__path__, f"{package}."):
        if not found.name.endswith(("__main__", "env")) and ".versions." not in found.name:
            import_module(found.name)
            names.append(found.name)
assert "levelq_core.database.pgbinary" in names and len(names) > 80, names
print(json.dumps([mine == after for mine, after in zip(before, state())]))
"""


def test_importing_every_module_changes_nothing_of_the_process() -> None:
    assert run(IMPORT_EVERYTHING) == [True] * 4


# What applications register and configure


def test_client_side_cursors_of_the_application_are_no_obstacle(made_engine: Callable[..., Engine]) -> None:
    assert called(made_engine(connect_args={"cursor_factory": psycopg.ClientCursor}))["success"]


@pytest.mark.parametrize("option", [{"stream_results": True}, {"yield_per": 10}], ids=str)
def test_server_side_cursors_of_the_application_are_no_obstacle(own_engine: Engine, option: dict[str, Any]) -> None:
    engine = own_engine.execution_options(**option)
    assert called(engine)["success"]
    with engine.connect() as connection:
        (outcome,) = apply_commands(connection, [level_up(1, 5)])
        assert Outbox(connection).send(level_up(2, 5)).error is None
        assert connection.scalar(text("SELECT user_id FROM levelq_outbox")) == 2
        connection.commit()
    assert outcome.status == "applied" and check(engine).total == 0
    assert experience(own_engine) == {1: 15}


def test_loaders_of_the_application_do_not_change_what_levelq_reads(made_engine: Callable[..., Engine]) -> None:
    """The application wants its ids and big numbers as text."""

    class AsText(psycopg.adapt.Loader):
        format = psycopg.pq.Format.BINARY

        def load(self, data: psycopg.abc.Buffer) -> str:
            return bytes(data).hex()

    engine = made_engine()
    with engine.connect() as connection:
        driver = connection.connection.driver_connection
        assert isinstance(driver, psycopg.Connection)
        for name in ("uuid", "int8", "text"):
            driver.adapters.register_loader(name, AsText)
    with Session(engine) as session:
        first = level_up_atomic(session, 1, "PLAYER", 10, command_id=ID)
        assert first["success"]
        assert level_up_atomic(session, 1, "PLAYER", 10, command_id=ID) == first


# Drivers and sessions that levelq cannot work on


OTHER_ENGINE = 'engine.url.set(drivername="postgresql+psycopg")'


def test_psycopg2_is_refused_with_the_engine_to_make(own_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the driver's name counts, so the driver itself need not be installed."""
    monkeypatch.setattr(own_engine.dialect, "driver", "psycopg2")
    result = called(own_engine)
    assert (result["success"], result.get("error_type")) == (False, "database_error")
    assert result["message"].startswith("driver: expected postgresql+psycopg, got postgresql+psycopg2: ")
    assert f"create_engine({OTHER_ENGINE})" in result["message"]


def test_engine_made_by_the_documented_recipe_works(own_database_url: str, made_engine: Callable[..., Engine]) -> None:
    url = make_url(own_database_url.replace("postgresql:", "postgresql+psycopg2:"))
    assert called(made_engine(url.set(drivername="postgresql+psycopg")))["success"]


async def test_asyncpg_is_refused_with_the_engine_to_make(
    own_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = create_async_engine(sqlalchemy_url(own_database_url))
    monkeypatch.setattr(engine.dialect, "driver", "asyncpg")
    async with AsyncSession(engine) as session:
        result = await session.run_sync(level_up_atomic, 1, "PLAYER", 10)
    assert "got postgresql+asyncpg: " in result["message"]
    assert f"create_async_engine({OTHER_ENGINE})" in result["message"]


def test_session_bound_by_model_is_refused_with_what_to_use(own_engine: Engine) -> None:
    result = called(None, binds={Table("mine", MetaData()): own_engine})
    assert result.get("error_type") == "database_error"
    assert result["message"].endswith("use one of their engine, as in Session(engine)")


def test_sqlite_is_refused() -> None:
    assert called(create_engine("sqlite://"))["message"] == (
        "driver: expected postgresql+psycopg, got sqlite+pysqlite: levelq's tables are in PostgreSQL"
    )


def test_async_session_passed_directly_is_a_type_error_that_names_run_sync(own_database_url: str) -> None:
    session: Any = AsyncSession(create_async_engine(sqlalchemy_url(own_database_url)))
    expected = r"expected a SQLAlchemy Session, got AsyncSession; use: await session.run_sync\(level_up_atomic"
    with pytest.raises(TypeError, match=expected):
        level_up_atomic(session, 1, "PLAYER", 10)
    with pytest.raises(TypeError, match=expected):
        ProgressLicenseCoupler(session)
    asyncio.run(session.close())


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")  # SQLAlchemy's, of every such mistake
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_sync_half_of_an_async_session_outside_run_sync_is_refused_with_the_call_to_make(own_database_url: str) -> None:
    async def call(used_before: bool) -> None:
        engine = create_async_engine(sqlalchemy_url(own_database_url))
        async with AsyncSession(engine) as session:
            if used_before:
                await session.execute(text("SELECT 1"))
                lost: Any = (await (await session.connection()).get_raw_connection()).driver_connection
            result = level_up_atomic(session.sync_session, 1, "PLAYER", 10)
            assert result.get("error_type") == "database_error"
            assert "await session.run_sync(level_up_atomic" in result["message"]
        if used_before:  # a session that was so misused does not give its connection back
            await lost.close()
        await engine.dispose()

    for used_before in (False, True):
        asyncio.run(call(used_before))


@pytest.mark.parametrize("given", ["session", None, 7, object(), Engine, Connection])
def test_other_object_than_a_session_is_a_type_error(own_engine: Engine, given: Any) -> None:
    with own_engine.connect() as connection:
        wrong: Any = {Engine: own_engine, Connection: connection}.get(given, given)
        with pytest.raises(TypeError, match=f"expected a SQLAlchemy Session, got {type(wrong).__name__}"):
            level_up_atomic(wrong, 1, "PLAYER", 10)


@pytest.mark.parametrize("given", ["an engine", "a session"])
def test_apply_commands_on_what_is_no_connection_is_a_type_error(own_engine: Engine, given: str) -> None:
    wrong: Any = own_engine if given == "an engine" else Session(own_engine)
    with pytest.raises(TypeError, match=r"connection: expected a SQLAlchemy Connection, got .*session\.connection"):
        apply_commands(wrong, [])


def test_closed_session_or_connection_is_reported(own_engine: Engine) -> None:
    session = Session(own_engine, close_resets_only=False)
    session.close()
    assert "permanently closed" in level_up_atomic(session, 1, "PLAYER", 10)["message"]
    connection = own_engine.connect()
    connection.close()
    assert "Connection is closed" in called(connection)["message"]
    reusable = Session(own_engine)
    reusable.close()
    assert level_up_atomic(reusable, 1, "PLAYER", 10)["success"]
    reusable.close()


# Schemas that are translated


MAP = {"schema_translate_map": {None: "tenant_7"}}


@pytest.mark.parametrize("owner", ["engine", "session", "connection"])
def test_schema_translate_map_is_refused_and_nothing_is_written(own_engine: Engine, owner: str) -> None:
    engine = own_engine.execution_options(**MAP) if owner == "engine" else own_engine
    with Session(engine, execution_options=MAP if owner == "session" else {}) as session:
        if owner == "connection":
            session.connection(execution_options=MAP)
        result = level_up_atomic(session, 1, "PLAYER", 10)
        assert result.get("error_type") == "database_error"
        assert result["message"].startswith(
            "schema_translate_map: expected none for tables without a schema, got {None: 'tenant_7'}"
        )
        if owner != "connection":  # there it ended with the transaction
            checked = ProgressLicenseCoupler(session).validate_consistency(1, "PLAYER")
            assert checked["message"].startswith("schema_translate_map: ")
    assert experience(own_engine) == {}


def test_schema_translate_map_is_refused_by_apply_commands_and_when_the_schema_is_read(own_engine: Engine) -> None:
    with own_engine.connect().execution_options(**MAP) as connection:
        with pytest.raises(TransactionMisuse, match="schema_translate_map"):
            apply_commands(connection, [level_up(1, 1)])
        with pytest.raises(TransactionMisuse, match="schema_translate_map"):
            schema_of(connection)


# Transactions that levelq cannot work in


@pytest.mark.parametrize("level", ["SERIALIZABLE", "REPEATABLE READ", "AUTOCOMMIT"])
@pytest.mark.parametrize("owned", [False, True])
def test_other_isolation_level_is_reported(own_engine: Engine, level: Any, owned: bool) -> None:
    with Session(own_engine.execution_options(isolation_level=level)) as session:
        if owned:
            session.begin()
        result = level_up_atomic(session, 1, "PLAYER", 10)
        message = f"isolation level: expected READ COMMITTED, got {level}"
        assert result["message"] == message
        assert owned or result == {"success": False, "message": message, "error_type": "database_error"}
        if owned:
            assert session.execute(text("SELECT 1")).scalar_one() == 1
            session.commit()
    assert experience(own_engine) == {}


def test_pending_rows_of_an_autocommit_session_are_not_flushed(application_engine: Engine) -> None:
    with Session(application_engine.execution_options(isolation_level="AUTOCOMMIT")) as session:
        session.add(User(id=4000, name="new"))
        assert level_up_atomic(session, 1, "PLAYER", 10)["success"] is False
    assert new_users(application_engine) == {}


@pytest.mark.parametrize("owned", [False, True])
def test_read_only_transaction_is_reported(own_engine: Engine, owned: bool) -> None:
    with Session(own_engine.execution_options(postgresql_readonly=True)) as session:
        if owned:
            session.begin()
        result = level_up_atomic(session, 1, "PLAYER", 10)
        assert result["message"] == "transaction: expected READ WRITE, got READ ONLY"
        if owned:
            assert session.execute(text("SELECT 1")).scalar_one() == 1


@pytest.mark.parametrize("owned", [False, True])
def test_aborted_transaction_is_reported(own_engine: Engine, owned: bool) -> None:
    with Session(own_engine) as session:
        if owned:
            session.begin()
        with pytest.raises(Exception, match="division by zero"):
            session.execute(text("SELECT 1 / 0"))
        result = level_up_atomic(session, 1, "PLAYER", 10)
        assert result.get("error_type") == "database_error"
        assert "current transaction is aborted by an earlier error (SQLSTATE 25P02)" in result["message"]
        if owned:
            session.rollback()
        assert "committed" not in level_up_atomic(session, 1, "PLAYER", 10)


def test_apply_commands_in_an_aborted_transaction_is_a_misuse(own_engine: Engine) -> None:
    with own_engine.connect() as connection:
        with pytest.raises(Exception, match="division by zero"):
            connection.execute(text("SELECT 1 / 0"))
        with pytest.raises(TransactionMisuse, match="25P02"):
            apply_commands(connection, [])


def test_engines_of_one_pool_read_the_schema_once(own_engine: Engine) -> None:
    """An application may make one with other options for each request."""
    called(own_engine)
    statements: list[str] = []
    event.listen(own_engine, "before_cursor_execute", lambda *arguments: statements.append(arguments[2]))
    assert called(own_engine.execution_options(isolation_level="READ COMMITTED"))["success"]
    assert statements == []


def test_failure_to_read_the_schema_leaves_the_callers_block_usable(own_engine: Engine) -> None:
    with own_engine.begin() as connection:
        connection.execute(text("ALTER TABLE levelq_ledger RENAME TO elsewhere"))
        with Session(bind=connection) as session:
            forget(own_engine)
            result = level_up_atomic(session, 1, "PLAYER", 10)
            assert result["message"].startswith("table levelq_ledger does not exist")
            assert session.execute(text("SELECT 1")).scalar_one() == 1
        connection.rollback()


def test_connection_lost_before_an_invalid_call_raises_nothing(own_database_url: str, engines: Any) -> None:
    with Session(engines(own_database_url)) as session:
        pid = session.execute(text("SELECT pg_backend_pid()")).scalar_one()
        with psycopg.connect(own_database_url, autocommit=True) as admin:
            admin.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))
        assert level_up_atomic(session, 1, "PLAYER", -1).get("error_type") == "validation_error"
        assert level_up_atomic(session, 1, "PLAYER", 1)["success"]
