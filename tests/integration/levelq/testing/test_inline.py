"""InlineProducer and AsyncInlineProducer: the workers' outcomes, on the test's own session, rolled back with it."""

from collections.abc import Iterator
from typing import Any, get_args

import pytest
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, create_async_engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from levelq import (
    Adjust,
    Command,
    InvalidCommand,
    LevelUp,
    Outcome,
    OutcomeTimeout,
    Reset,
    SetLevel,
    SyncLevels,
    TransactionMisuse,
)
from levelq.testing import AsyncInlineProducer, InlineProducer
from tests.support.orm import ID, License, Progress
from tests.support.system import System

PLAYER: dict[str, Any] = {"user_id": 42, "specialization": "PLAYER"}
STORY: list[Command] = [
    SyncLevels(**PLAYER),  # neither row is there: refused
    LevelUp(**PLAYER, xp_gained=2600, reason="match", command_id=ID),
    LevelUp(**PLAYER, xp_gained=2600, reason="match", command_id=ID),  # a duplicate
    LevelUp(**PLAYER, xp_gained=1, command_id=ID),  # a conflict
    SetLevel(**PLAYER, new_level=2, xp_change=-100, advanced_by=7),
    Adjust(**PLAYER, xp_change=-2400, level="earned"),
    Adjust(**PLAYER, xp_change=-2400),  # below zero
    Reset(**PLAYER, total_xp=5000, level=4),
    LevelUp(user_id=8, specialization="PLAYER", xp_gained=70_000),  # a check constraint refuses it
    LevelUp(user_id=7, specialization="COACH", theory_hours=3),
    SyncLevels(user_id=7, specialization="COACH", source="license"),
]
TABLES = ("specialization_progress", "user_licenses", "license_progressions", "levelq_ledger")


@pytest.fixture
def session(own_engine: Engine) -> Iterator[Session]:
    with Session(own_engine) as session:
        yield session


def rows(session: Session) -> list[int]:
    """How many rows the tables hold."""
    return [session.execute(text(f"SELECT count(*) FROM {table}")).scalar_one() for table in TABLES]


def same(outcome: Outcome) -> Outcome:
    return outcome.model_copy(update={"duplicate": False})


@pytest.mark.parametrize("at_once", [True, False])
def test_outcomes_are_those_of_a_worker_and_rollback_leaves_nothing(system: System, at_once: bool) -> None:
    system.sql("ALTER TABLE specialization_progress ADD CONSTRAINT few CHECK (total_xp < 60000)")
    with Session(system.engine) as session:
        producer = InlineProducer(session)
        handles = producer.send_many(STORY, reply=True) if at_once else [producer.send(one) for one in STORY]
        inline = [handle.result() for handle in handles]
        assert rows(session)[0] == 2
        # Of the three sends with one id, the first was decided.
        assert producer.outcome(ID) == producer.handle(ID).result() == inline[1]
        session.rollback()
        assert rows(session) == [0, 0, 0, 0]
        assert producer.state(ID) == "unknown"
    sent = [system.producer.send(one) for one in STORY]
    system.drain("PLAYER", "COACH")
    # Which of two equal commands that are pushed in one millisecond is the duplicate, a real handle cannot tell.
    assert [same(outcome) for outcome in inline] == [same(handle.result()) for handle in sent]
    assert [outcome.duplicate for outcome in inline] == [n == 2 for n in range(len(STORY))]
    assert {outcome.error for outcome in inline} == {None, "validation_error", "conflict", "database_error"}
    assert {type(command) for command in STORY} == set(get_args(Command))


def test_sessions_objects_show_the_new_level_and_pending_ones_are_flushed(session: Session) -> None:
    session.add(Progress(student_id=42, specialization_id="PLAYER", current_level=1, total_xp=900))
    session.add(License(holder=42, specialization_type="PLAYER", level=1))
    handle = InlineProducer(session).level_up(42, "PLAYER", 150)
    assert handle.result().to_level == 2
    progress, license_ = session.query(Progress).one(), session.query(License).one()
    assert (progress.current_level, progress.total_xp, license_.level) == (2, 1050, 2)
    InlineProducer(session).level_up(42, "PLAYER", 1500)
    assert (progress.current_level, license_.level) == (3, 3)


@pytest.mark.parametrize("mode", ["create_savepoint", "rollback_only", "conditional_savepoint"])
def test_outer_transaction_of_a_test_takes_everything_back(own_engine: Engine, mode: Any) -> None:
    with own_engine.connect() as connection:
        outer = connection.begin()
        with Session(connection, join_transaction_mode=mode) as session:
            InlineProducer(session).level_up(42, "PLAYER", 1500)
            session.commit()  # as the code under test does
            assert session.query(Progress).one().current_level == 2
        with Session(connection, join_transaction_mode=mode) as other:
            assert InlineProducer(other).level_up(42, "PLAYER", 1500).result().to_level == 3
        outer.rollback()
        with Session(connection) as session:
            assert rows(session) == [0, 0, 0, 0]


def test_refused_command_leaves_the_session_usable(own_engine: Engine) -> None:
    scoped = scoped_session(sessionmaker(own_engine))
    scoped.add(Progress(student_id=1, specialization_id="PLAYER", current_level=1))
    producer = InlineProducer(scoped)
    refused = producer.sync(42, "PLAYER")
    assert (refused.error, refused.result().status) == (None, "rejected")
    with pytest.raises(InvalidCommand):
        producer.level_up(42, "CHESS", 1)
    assert producer.level_up(42, "PLAYER", 1500).result().to_level == 2
    assert producer.state(refused.command_id) == "decided"
    assert rows(scoped()) == [2, 1, 1, 2]
    scoped.remove()


def test_handle_on_a_command_of_other_code_answers_from_the_ledger(session: Session) -> None:
    sent = InlineProducer(session).level_up(42, "PLAYER", 1500)
    other = InlineProducer(session)
    assert other.handle(sent.command_id).result() == other.outcome(sent.command_id) == sent.result()
    assert other.state(ID) == "unknown"
    with pytest.raises(OutcomeTimeout, match="not in the ledger that this session sees"):
        other.handle(ID).result()


def test_command_that_a_worker_would_park_has_no_outcome(system: System) -> None:
    system.sql(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "IF NEW.student_id = 42 THEN RAISE 'closed on Sundays'; END IF; RETURN NEW; END $$",
        "CREATE TRIGGER refuse BEFORE INSERT ON specialization_progress FOR EACH ROW EXECUTE FUNCTION refuse()",
    )
    with Session(system.engine) as session:
        producer = InlineProducer(session)
        parked, applied = producer.send_many(
            (LevelUp(user_id=n, specialization="PLAYER", xp_gained=5) for n in (42, 43)), reply=True
        )
        assert applied.result().status == "applied"
        with pytest.raises(OutcomeTimeout, match=r"would park its lane: .*closed on Sundays"):
            parked.result()
        assert producer.state(parked.command_id) == "queued"


async def test_async_session_shows_the_new_level(own_engine: Engine) -> None:
    engine = create_async_engine(own_engine.url)
    async with AsyncSession(engine) as session:
        producer = AsyncInlineProducer(session)
        progress = Progress(student_id=42, specialization_id="PLAYER", current_level=1)
        session.add(progress)
        handle = await producer.level_up(42, "PLAYER", 1500)
        assert (await handle).to_level == 2
        factory: Any = lambda: session  # noqa: E731
        scoped: async_scoped_session[AsyncSession] = async_scoped_session(factory, lambda: None)
        assert (await AsyncInlineProducer(scoped).handle(handle.command_id)).to_level == 2
        assert progress.current_level == 2  # loaded: an expired one would need an await
        await session.rollback()
        assert await session.run_sync(rows) == [0, 0, 0, 0]
    await engine.dispose()


def test_session_that_cannot_work_is_an_error_with_what_to_do(own_engine: Engine) -> None:
    async_session = AsyncSession(create_async_engine(own_engine.url))
    with pytest.raises(TypeError, match="got AsyncSession; use AsyncInlineProducer"):
        InlineProducer(async_session)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="got Session; use InlineProducer"):
        AsyncInlineProducer(Session(own_engine))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="got Engine"):
        InlineProducer(own_engine)  # type: ignore[arg-type]
    with Session(create_engine("sqlite://")) as session, pytest.raises(TransactionMisuse, match="PostgreSQL"):
        InlineProducer(session).level_up(42, "PLAYER", 1)
