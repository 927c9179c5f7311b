"""Direct calls and outboxes on sessions that have an engine for each class or table, or choose one themselves."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import Engine, MetaData, Table, Update, create_engine, select
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Mapped, Session, declarative_base, mapped_column, scoped_session, sessionmaker
from sqlalchemy.sql import Delete, Insert

from levelq import LevelUp, Outbox, ProgressLicenseCoupler, Settings, TransactionMisuse, level_up_atomic
from tests.support.db_check import query
from tests.support.isolation import experience
from tests.support.orm import Base, License, Progress

OldBase: Any = declarative_base()


class Notes(OldBase):  # type: ignore[misc]
    """What the application keeps in another database."""

    __tablename__ = "notes"
    id: Mapped[int] = mapped_column(primary_key=True)


@pytest.fixture
def unreachable() -> Iterator[Engine]:
    """An engine that nothing may use."""
    engine = create_engine("postgresql+psycopg://nobody@/none?host=/nowhere")
    yield engine
    engine.dispose()


BINDS: dict[str, Callable[[Engine, Engine], dict[Any, Any]]] = {
    "the base of the classes": lambda right, wrong: {Base: right, OldBase: wrong},
    "each class": lambda right, wrong: {Progress: right, License: right, Notes: wrong},
    "each mapper": lambda right, wrong: {Progress.__mapper__: right, License.__mapper__: right},
    "each table": lambda right, wrong: {Progress.__table__: right, License.__table__: right, OldBase: wrong},
    "a table without a class": lambda right, wrong: {Table("user_licenses", MetaData()): right, OldBase: wrong},
    "one of the two classes": lambda right, wrong: {Progress: right, OldBase: wrong},
}


@pytest.mark.parametrize("how", BINDS)
def test_session_bound_by_class_or_table_is_accepted(application_engine: Engine, unreachable: Engine, how: str) -> None:
    for make in (Session, sessionmaker(), scoped_session(sessionmaker())):
        session: Any = make(binds=BINDS[how](application_engine, unreachable))
        coupler = ProgressLicenseCoupler(db=session)
        assert level_up_atomic(db=session, user_id=1, specialization="PLAYER", xp_gained=10)["success"]
        assert coupler.update_level_atomic(1, "PLAYER", 2)["success"]
        assert coupler.validate_consistency(1, "PLAYER")["message"] == "Both at level 2"
        assert coupler.update_level_atomic(1, "PLAYER", 99)["success"] is False
        with session.begin():
            assert coupler.level_up_atomic(1, "PLAYER", 10).get("committed") is False
        session.close()
    assert experience(application_engine) == {1: 60}


def test_what_is_bound_by_class_goes_before_the_sessions_own_bind(
    application_engine: Engine, unreachable: Engine
) -> None:
    with Session(unreachable, binds={Progress: application_engine, License: application_engine}) as session:
        assert level_up_atomic(session, 1, "PLAYER", 10)["success"]
    assert experience(application_engine) == {1: 10}


def test_rows_flushed_by_the_session_are_in_the_same_transaction(application_engine: Engine) -> None:
    with Session(binds={Base: application_engine}) as session:
        level_up_atomic(session, 1, "PLAYER", 10)
        row = session.scalars(select(Progress)).one()
        row.total_xp = 500
        result = level_up_atomic(session, 1, "PLAYER", 10)
        assert result["success"] and result["progress"]["total_xp"] == 510
        assert row.total_xp == 510


class Routing(Session):
    """Writes go to one engine and reads to another, as SQLAlchemy's documentation shows."""

    leader: Engine
    follower: Engine

    def get_bind(self, mapper: Any = None, *, clause: Any = None, bind: Any = None, **others: Any) -> Any:
        """The leader for what writes."""
        writes = self._flushing or isinstance(clause, Update | Delete | Insert)
        return bind or (self.leader if writes else self.follower)


@pytest.mark.parametrize("keep", [False, True])
def test_session_that_sends_reads_to_a_replica_levels_up_where_it_writes(
    application_engine: Engine, unreachable: Engine, keep: bool
) -> None:
    make = type("Routed", (Routing,), {"leader": application_engine, "follower": unreachable})
    with make(expire_on_commit=not keep) as session:
        for xp in (10, 20):
            result = level_up_atomic(session, 1, "PLAYER", 10)
            assert result["success"] and result["progress"]["total_xp"] == xp
            session.scalars(select(Progress), bind_arguments={"bind": application_engine}).one()
    assert experience(application_engine) == {1: 20}


def test_object_of_a_session_with_a_replica_is_read_where_it_was_written(
    application_engine: Engine, unreachable: Engine
) -> None:
    make = type("Routed", (Routing,), {"leader": application_engine, "follower": unreachable})
    with make(expire_on_commit=False) as session:
        level_up_atomic(session, 1, "PLAYER", 10)
        row = session.scalars(select(Progress), bind_arguments={"bind": application_engine}).one()
        level_up_atomic(session, 1, "PLAYER", 10)
    assert row.total_xp == 20


def test_session_that_chooses_an_engine_by_class_is_asked_for_the_two_classes(
    application_engine: Engine, unreachable: Engine
) -> None:
    class ByClass(Session):
        def get_bind(self, mapper: Any = None, *, clause: Any = None, **others: Any) -> Any:
            return application_engine if mapper is not None and issubclass(mapper.class_, Base) else unreachable

    with ByClass() as session:
        assert level_up_atomic(session, 1, "PLAYER", 10)["success"]
    assert experience(application_engine) == {1: 10}


def test_two_tables_that_lead_to_two_engines_are_an_answer_that_names_both(
    application_engine: Engine, unreachable: Engine
) -> None:
    with Session(binds={Progress: application_engine, License: unreachable}) as session:
        coupler = ProgressLicenseCoupler(session)
        for result in (
            level_up_atomic(session, 1, "PLAYER", 10),
            coupler.sync_existing_records_atomic(1, "PLAYER"),
            coupler.validate_consistency(1, "PLAYER"),
        ):
            assert result.get("error_type") == "database_error"
            assert result["message"].startswith(
                "session: expected one engine for specialization_progress and user_licenses"
            )
            assert str(application_engine.url.database) in result["message"] and "nowhere" in result["message"]
        with pytest.raises(TransactionMisuse, match="expected one engine"):
            Outbox(session).send(LevelUp(user_id=1, specialization="PLAYER", xp_gained=1))


def test_password_of_an_engine_is_not_shown(application_engine: Engine) -> None:
    secret = create_engine("postgresql+psycopg://u:geheim@/none")
    with Session(binds={Progress: application_engine, License: secret}) as session:
        assert "geheim" not in level_up_atomic(session, 1, "PLAYER", 10)["message"]


# The original's keyword


def test_session_is_given_once_by_either_name(application_engine: Engine) -> None:
    with Session(application_engine) as session:
        for coupler in (
            ProgressLicenseCoupler(session),
            ProgressLicenseCoupler(db=session),
            ProgressLicenseCoupler(session=session),
        ):
            assert coupler.level_up_atomic(1, "PLAYER", 10)["success"]
        with pytest.raises(TypeError, match="session, db: expected one of the two, got both"):
            ProgressLicenseCoupler(session, db=session)
    with pytest.raises(TypeError, match="session or db: expected a SQLAlchemy Session, got NoneType"):
        ProgressLicenseCoupler()
    with pytest.raises(TypeError, match="expected a SQLAlchemy Session, got Engine"):
        ProgressLicenseCoupler(db=application_engine)  # type: ignore[arg-type]


# Outboxes and asyncio


@pytest.mark.parametrize("how", BINDS)
def test_outbox_takes_a_session_bound_by_class_or_table(
    application_engine: Engine, unreachable: Engine, how: str
) -> None:
    for make in (Session, scoped_session(sessionmaker())):
        session: Any = make(binds=BINDS[how](application_engine, unreachable))
        Outbox(session).send(LevelUp(user_id=1, specialization="PLAYER", xp_gained=1))
        session.commit()
        session.close()
    assert query(application_engine, "SELECT count(*) FROM levelq_outbox") == [(2,)]


async def test_async_session_bound_by_class_is_accepted(application_engine: Engine) -> None:
    url = application_engine.url
    engine = create_async_engine(Settings.load(database_url=url.render_as_string(False)).sqlalchemy_url)
    async with AsyncSession(binds={Base: engine}) as session:
        assert (await session.run_sync(level_up_atomic, 1, "PLAYER", 10))["success"]
        coupler = await session.run_sync(lambda sync: ProgressLicenseCoupler(db=sync).level_up_atomic(1, "PLAYER", 10))
        assert coupler["success"]
        await session.run_sync(lambda sync: Outbox(sync).send(LevelUp(user_id=1, specialization="PLAYER", xp_gained=1)))
        await session.commit()
    await engine.dispose()
    assert experience(application_engine) == {1: 20}
