"""The outbox writes in the application's own transaction: SQLAlchemy's or psycopg's, or it refuses."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import psycopg
import pytest
from psycopg.rows import dict_row
from redis import Redis
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from levelq import InvalidCommand, Outbox, SchemaError, Settings, TransactionMisuse
from tests.support.orm import Match
from tests.support.outbox import committed, in_outbox, level_up, query, relay_and_drain

Engines = Callable[..., Engine]
DRIVERS = pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])


@pytest.fixture
def make_engine(url: str) -> Iterator[Engines]:
    """Engines as an application makes them."""
    made: list[Engine] = []

    def make(driver: str = "psycopg", **options: Any) -> Engine:
        made.append(create_engine(url.replace("postgresql://", f"postgresql+{driver}://"), **options))
        return made[-1]

    yield make
    for engine in made:
        engine.dispose()


class Opened(NamedTuple):
    """A transaction of one kind: what the outbox is given, and what the application does with it."""

    given: Any
    execute: Callable[[Any], object]
    end: Callable[[bool], object]


@contextmanager
def opened(kind: str, make_engine: Engines, url: str) -> Iterator[Opened]:
    """Open "psycopg alone", or a kind of SQLAlchemy's and its driver."""
    name, _, driver = kind.partition(" on ")
    target: Any
    if name == "psycopg alone":
        target = psycopg.connect(url)
    elif name == "connection":
        target = make_engine(driver).connect()
    elif name == "session":
        target = Session(make_engine(driver))
    else:
        target = scoped_session(sessionmaker(make_engine(driver)))
    statement = (lambda sql: sql) if name == "psycopg alone" else text
    try:
        yield Opened(
            target,
            lambda sql: target.execute(statement(sql)),
            lambda commits: target.commit() if commits else target.rollback(),
        )
    finally:
        target.remove() if name == "scoped_session" else target.close()


SQLALCHEMY = [f"{name} on {driver}" for name in ("session", "connection") for driver in ("psycopg", "psycopg2")]


# What is sent, and what is not


@pytest.mark.parametrize("kind", [*SQLALCHEMY, "scoped_session on psycopg", "psycopg alone"])
def test_commit_sends_and_rollback_does_not(make_engine: Engines, settings: Settings, url: str, kind: str) -> None:
    with opened(kind, make_engine, url) as transaction:
        for number, commits in ((1, True), (2, False)):
            transaction.execute(f"INSERT INTO matches VALUES ({number})")
            Outbox(transaction.given, settings=settings).send(level_up(number))
            transaction.end(commits)
    assert committed(url) == ([1], [1])


def test_handle_has_the_outcome_after_the_commit(settings: Settings, redis: Redis, url: str) -> None:
    with psycopg.connect(url) as connection:
        handle = Outbox(connection, settings=settings).send(level_up(1))
    assert relay_and_drain(settings, redis) == [1]
    assert handle.result().status == "applied"


def test_connection_block_that_raises_sends_nothing(make_engine: Engines, url: str) -> None:
    with pytest.raises(IntegrityError), make_engine().begin() as connection:
        Outbox(connection).send(level_up(1))
        connection.execute(text("INSERT INTO matches VALUES (1), (1)"))
    assert committed(url) == ([], [])


def test_savepoint_that_is_rolled_back_takes_its_command_along(make_engine: Engines, url: str) -> None:
    with sessionmaker(make_engine()).begin() as session:
        Outbox(session).send(level_up(1))
        with pytest.raises(ZeroDivisionError), session.begin_nested():
            Outbox(session).send(level_up(2))
            raise ZeroDivisionError
        Outbox(session).send(level_up(3))
    assert in_outbox(url) == [1, 3]


def test_session_joined_to_a_connections_transaction_writes_in_it(make_engine: Engines, url: str) -> None:
    with make_engine().connect() as connection, connection.begin() as outer:
        with Session(connection, join_transaction_mode="create_savepoint") as session:
            Outbox(session).send(level_up(1))
            session.commit()
        outer.rollback()
    assert in_outbox(url) == []


def test_pending_objects_are_not_flushed(make_engine: Engines) -> None:
    with Session(make_engine()) as session:
        session.add(match := Match(id=1))
        Outbox(session).send(level_up(1))
        assert match in session.new


@pytest.mark.parametrize("where", ["engine", "connection", "session"])
@DRIVERS
def test_autocommit_is_refused(make_engine: Engines, url: str, driver: str, where: str) -> None:
    autocommit = {"isolation_level": "AUTOCOMMIT"}
    engine = make_engine(driver, **autocommit if where == "engine" else {})
    with Session(engine.execution_options(**autocommit) if where == "session" else engine) as session:
        target: Any = session.connection(execution_options=autocommit) if where == "connection" else session
        with pytest.raises(
            TransactionMisuse, match=r"expected one that can be rolled back, got autocommit.*AUTOCOMMIT"
        ):
            Outbox(target).send(level_up(1))
        session.rollback()
    assert in_outbox(url) == []


def test_session_after_a_failed_flush_is_refused(make_engine: Engines, url: str) -> None:
    with Session(make_engine()) as session:
        session.execute(text("INSERT INTO matches VALUES (1)"))
        session.commit()
        session.add(Match(id=1))
        with pytest.raises(IntegrityError):
            session.flush()
        with pytest.raises(TransactionMisuse, match=r"expected one that is open, got: .*rollback\(\)"):
            Outbox(session).send(level_up(1))
        session.rollback()
        Outbox(session).send(level_up(2))
        session.commit()
    assert committed(url) == ([1], [2])


def test_session_whose_block_has_ended_is_refused(make_engine: Engines) -> None:
    with Session(make_engine()) as session, session.begin():
        session.commit()
        with pytest.raises(TransactionMisuse, match="expected one that is open, got: Can't operate on closed"):
            Outbox(session).send(level_up(1))


@pytest.mark.parametrize("kind", [*SQLALCHEMY[2:], "psycopg alone"])
def test_aborted_transaction_is_refused(make_engine: Engines, url: str, kind: str) -> None:
    with opened(kind, make_engine, url) as transaction:
        with pytest.raises((IntegrityError, psycopg.errors.UniqueViolation)):
            transaction.execute("INSERT INTO matches VALUES (1), (1)")
        with pytest.raises(TransactionMisuse, match="aborted by an earlier error; roll it back"):
            Outbox(transaction.given).send(level_up(1))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("connection on psycopg", "expected one that is open, got: This Connection is closed"),
        ("psycopg alone", "the psycopg connection is closed"),
    ],
)
def test_closed_connection_is_refused(make_engine: Engines, url: str, kind: str, expected: str) -> None:
    with opened(kind, make_engine, url) as transaction:
        transaction.given.close()
        with pytest.raises(TransactionMisuse, match=expected):
            Outbox(transaction.given).send(level_up(1))


@pytest.mark.parametrize("kind", [*SQLALCHEMY[:2], "psycopg alone"])
def test_database_without_levelqs_tables_names_the_table_and_the_command(
    make_engine: Engines, url: str, kind: str
) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("DROP TABLE levelq_outbox")
    expected = r'table levelq_outbox: relation "levelq_outbox" does not exist: .* `levelq db upgrade`'
    with opened(kind, make_engine, url) as transaction, pytest.raises(SchemaError, match=expected):
        Outbox(transaction.given).send(level_up(1))


def test_schema_translate_map_for_tables_without_a_schema_is_refused(make_engine: Engines, url: str) -> None:
    options = {"schema_translate_map": {None: "tenant_1"}}
    refused = pytest.raises(TransactionMisuse, match=r"schema_translate_map: expected none.*search_path")
    with Session(make_engine().execution_options(**options)) as session, refused:
        Outbox(session).send(level_up(1))
    with make_engine(execution_options=options).connect() as connection, refused:
        Outbox(connection).send(level_up(1))
    assert in_outbox(url) == []


def test_schema_translate_map_for_other_schemas_changes_nothing(make_engine: Engines, url: str) -> None:
    engine = make_engine().execution_options(schema_translate_map={"tenant": "tenant_1"})
    with Session(engine) as session:
        Outbox(session).send(level_up(1))
        session.commit()
    assert in_outbox(url) == [1]


def test_search_path_finds_the_outbox_or_the_error_names_it(make_engine: Engines, url: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("CREATE SCHEMA tenant")
    with Session(make_engine(connect_args={"options": "-c search_path=tenant,public"})) as session:
        Outbox(session).send(level_up(1))
        session.commit()
    assert in_outbox(url) == [1]
    elsewhere = make_engine(connect_args={"options": "-c search_path=tenant"})
    with Session(elsewhere) as session, pytest.raises(SchemaError, match="along its search_path"):
        Outbox(session).send(level_up(2))


@pytest.mark.parametrize("notify", [False, True])
def test_two_phase_session_can_be_prepared(make_engine: Engines, settings: Settings, url: str, notify: bool) -> None:
    """PostgreSQL refuses to prepare a transaction that has executed NOTIFY."""
    notifying = settings.model_copy(update={"notify": notify})
    for number, commits in ((1, True), (2, False)):
        with Session(make_engine(), twophase=True) as session:
            session.add(Match(id=number))
            Outbox(session, settings=notifying).send(level_up(number))
            session.prepare()
            if commits:
                session.commit()
            else:
                session.rollback()
    assert committed(url) == ([1], [1])


def test_session_bound_by_model_is_refused_and_its_connection_is_taken(make_engine: Engines, url: str) -> None:
    with Session(binds={Match: make_engine()}) as session:
        with pytest.raises(TransactionMisuse, match=r"Outbox\(session.connection\(bind_arguments="):
            Outbox(session).send(level_up(1))
        session.add(Match(id=1))
        Outbox(session.connection(bind_arguments={"mapper": Match})).send(level_up(1))
        session.commit()
    assert committed(url) == ([1], [1])


def test_database_that_is_not_postgresql_is_refused() -> None:
    refused = pytest.raises(TransactionMisuse, match="database: expected PostgreSQL, got sqlite")
    with Session(create_engine("sqlite://")) as session, refused:
        Outbox(session).send(level_up(1))


def test_id_with_other_content_is_refused_and_the_transaction_goes_on(url: str) -> None:
    with psycopg.connect(url) as connection:
        outbox = Outbox(connection)
        outbox.send(level_up(1))
        with pytest.raises(InvalidCommand, match="is in the outbox with other content"):
            outbox.send_many([level_up(2), level_up(1, reason="another"), level_up(3)])
        outbox.send_many([level_up(1), level_up(4)])
    assert in_outbox(url) == [1, 4]


# psycopg alone


def test_psycopg_autocommit_is_refused_outside_a_transaction_block(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        with pytest.raises(TransactionMisuse, match=r"got autocommit.*inside `with connection.transaction\(\):`"):
            Outbox(connection).send(level_up(1))
        with connection.transaction():
            Outbox(connection).send(level_up(2))
        with pytest.raises(ZeroDivisionError), connection.transaction():
            Outbox(connection).send(level_up(3))
            raise ZeroDivisionError
        with connection.pipeline(), connection.transaction():
            connection.execute("INSERT INTO matches VALUES (1)")
            Outbox(connection).send(level_up(4))
        with connection.pipeline(), pytest.raises(TransactionMisuse, match="got autocommit"):
            connection.execute("INSERT INTO matches VALUES (2)")  # not yet answered
            Outbox(connection).send(level_up(5))
    assert committed(url) == ([1, 2], [2, 4])


def test_psycopg_connection_with_its_own_rows_cursors_and_encoding_is_no_obstacle(url: str) -> None:
    options: dict[str, Any] = {"row_factory": dict_row, "cursor_factory": psycopg.RawCursor}
    for number, encoding in enumerate(("UTF8", "LATIN1", "SQL_ASCII"), 1):
        with psycopg.connect(url, client_encoding=encoding, **options) as connection:
            Outbox(connection).send(level_up(number, reason="Bravó"))
            Outbox(connection).send(level_up(number, reason="Bravó"))
    assert in_outbox(url) == [1, 2, 3]
    assert len(set(query(url, "SELECT substring(payload, 37) FROM levelq_outbox"))) == 1


# Something else


@contextmanager
def cursor(url: str) -> Iterator[Any]:
    with psycopg.connect(url) as connection, connection.cursor() as made:
        yield made


def test_what_has_no_transaction_is_refused_by_type(make_engine: Engines, url: str) -> None:
    expected = "outbox: expected a SQLAlchemy Session or Connection, a psycopg Connection or Django's connection"
    engine = make_engine()
    with pytest.raises(TypeError, match=rf"{expected}.*got sqlalchemy.*Engine; pass a connection of it"):
        Outbox(engine)
    with cursor(url) as made, pytest.raises(TypeError, match=rf"{expected}.*got psycopg.Cursor"):
        Outbox(made)
    for thing in (None, url, sessionmaker(engine)):
        with pytest.raises(TypeError, match=expected):
            Outbox(thing)


async def test_asyncio_kinds_are_refused_with_the_call_that_works(url: str) -> None:
    engine = create_async_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    with pytest.raises(TypeError, match=r"AsyncEngine; pass a connection of it.*run_sync"):
        Outbox(engine)
    with pytest.raises(TransactionMisuse, match=r"got AsyncSession: `await session.run_sync\(lambda s: Outbox\(s\)"):
        Outbox(AsyncSession(engine))
    async with engine.connect() as connection:
        with pytest.raises(TransactionMisuse, match=r"got AsyncConnection: `await connection.run_sync"):
            Outbox(connection)
    await engine.dispose()
    async with await psycopg.AsyncConnection.connect(url) as raw:
        with pytest.raises(TransactionMisuse, match="got AsyncConnection: on asyncio use SQLAlchemy's"):
            Outbox(raw)
