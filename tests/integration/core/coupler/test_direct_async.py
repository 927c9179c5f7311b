"""Direct calls on asyncio: through run_sync of an AsyncSession or an AsyncConnection, on psycopg's async driver."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine

from levelq import LevelUpRefused, ProgressLicenseCoupler, apply_commands, level_up_atomic
from levelq_core.settings import Settings
from tests.support.coupler import ledger, tables
from tests.support.isolation import MISSING, level_up
from tests.support.orm import ID, REFUSED, Progress, User


@pytest.fixture
async def engine(application_database_url: str) -> AsyncIterator[AsyncEngine]:
    made = create_async_engine(Settings.load(database_url=application_database_url).sqlalchemy_url)
    yield made
    await made.dispose()


@pytest.fixture
async def session(engine: AsyncEngine) -> AsyncIterator[AsyncSession]:
    async with AsyncSession(engine) as made:
        yield made


async def totals(engine: AsyncEngine) -> dict[int, int]:
    async with engine.connect() as connection:
        found = await connection.run_sync(tables)
    return {user: row["total_xp"] for (user, _), row in found.progress.items()}


async def recorded(engine: AsyncEngine) -> list[tuple[str, str | None]]:
    async with engine.connect() as connection:
        return [(row["status"], row["error"]) for row in await connection.run_sync(ledger)]


async def users(engine: AsyncEngine) -> set[int]:
    async with engine.connect() as connection:
        return set((await connection.execute(text("SELECT id FROM users WHERE id >= 4000"))).scalars())


async def rise(engine: AsyncEngine, user: int) -> bool:
    async with AsyncSession(engine) as session:
        return (await session.run_sync(level_up_atomic, user, "PLAYER", 10))["success"]


async def test_all_four_calls_work_through_run_sync(engine: AsyncEngine, session: AsyncSession) -> None:
    raised = await session.run_sync(level_up_atomic, 1, "PLAYER", 2600, command_id=ID)
    assert raised["success"] and raised["message"] == "level 1 -> 3" and "committed" not in raised
    assert await session.run_sync(level_up_atomic, 1, "PLAYER", 2600, command_id=ID) == raised
    set_back = await session.run_sync(lambda s: ProgressLicenseCoupler(s).update_level_atomic(1, "PLAYER", 2))
    assert set_back["message"] == "level 3 -> 2"
    synced = await session.run_sync(lambda s: ProgressLicenseCoupler(s).sync_existing_records_atomic(1, "PLAYER"))
    assert synced["success"] and synced["action"] == "none"
    found = await session.run_sync(lambda s: ProgressLicenseCoupler(s).validate_consistency(1, "PLAYER"))
    assert found.get("level") == 2
    assert await totals(engine) == {1: 2600}


async def test_rejection_is_recorded_and_rolls_back_what_the_session_holds(
    engine: AsyncEngine, session: AsyncSession
) -> None:
    session.add(User(id=4000, name="new"))
    result = await session.run_sync(level_up_atomic, 4000, "GOALIE", 10)
    assert (result["success"], result.get("error_type")) == (False, "validation_error")
    assert await users(engine) == set()
    assert await recorded(engine) == [("rejected", "validation_error")]


async def test_what_the_database_refuses_is_isolated(engine: AsyncEngine, session: AsyncSession) -> None:
    refused = await session.run_sync(level_up_atomic, 1, "PLAYER", REFUSED)
    assert "ck_not_the_beast" in refused["message"]
    with pytest.raises(LevelUpRefused, match=f"user {MISSING} is not in users"):
        await session.run_sync(level_up_atomic, MISSING, "PLAYER", 1, raise_on_failure=True)
    assert await recorded(engine) == [("rejected", "database_error")] * 2


async def test_callers_block_is_neither_committed_nor_rolled_back(engine: AsyncEngine, session: AsyncSession) -> None:
    async with session.begin():
        session.add(User(id=4000, name="new"))
        for user in (4000, 1):
            assert (await session.run_sync(level_up_atomic, user, "PLAYER", 10))["committed"] is False
        assert (await session.run_sync(level_up_atomic, 1, "GOALIE", 10))["success"] is False
        assert await totals(engine) == {}
    assert await totals(engine) == {1: 10, 4000: 10}
    assert await recorded(engine) == [("applied", None)] * 2 + [("rejected", "validation_error")]


async def test_usual_fixture_takes_three_calls(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        outer = await connection.begin()
        make = async_sessionmaker(connection, join_transaction_mode="create_savepoint", expire_on_commit=False)
        for xp in (10, 20, 30):
            async with make() as session:
                result = await session.run_sync(level_up_atomic, 1, "PLAYER", 10)
                assert result["success"] and result["progress"]["total_xp"] == xp
        await outer.rollback()
    assert await totals(engine) == {}


async def test_loaded_objects_of_a_session_that_does_not_expire_are_read_again(engine: AsyncEngine) -> None:
    async with AsyncSession(engine, expire_on_commit=False) as session:
        await session.run_sync(level_up_atomic, 1, "PLAYER", 10)
        row = (await session.scalars(select(Progress))).one()
        await session.run_sync(level_up_atomic, 1, "PLAYER", 10)
        assert row.total_xp == 20


async def test_apply_commands_works_through_run_sync_of_a_connection(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        outcomes = await connection.run_sync(apply_commands, [level_up(MISSING), level_up(2, REFUSED), level_up(3)])
        again = await connection.run_sync(apply_commands, [level_up(1)])
    assert [o.error for o in outcomes] == ["database_error", "database_error", None]
    assert [o.status for o in again] == ["applied"]
    assert await totals(engine) == {1: 10, 3: 10}


async def test_apply_commands_on_an_async_connection_itself_names_run_sync(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        wrong: Any = connection
        with pytest.raises(TypeError, match=r"got AsyncConnection; use: await connection\.run_sync"):
            apply_commands(wrong, [])


async def test_copy_that_fails_is_reported_and_leaves_the_block_usable(engine: AsyncEngine) -> None:
    """The ledger's COPY is the one statement that is not an execute."""
    async with engine.begin() as connection:
        await connection.execute(text("ALTER TABLE levelq_ledger ADD CONSTRAINT full_up CHECK (user_id <> 9)"))
    async with engine.begin() as connection:
        with pytest.raises(DBAPIError, match="full_up"):
            await connection.run_sync(apply_commands, [level_up(9)])
        assert [o.status for o in await connection.run_sync(apply_commands, [level_up(1)])] == ["applied"]
    assert await totals(engine) == {1: 10}


async def test_other_isolation_level_is_reported(engine: AsyncEngine) -> None:
    async with AsyncSession(engine.execution_options(isolation_level="AUTOCOMMIT")) as session:
        result = await session.run_sync(level_up_atomic, 1, "PLAYER", 10)
    assert result["message"] == "isolation level: expected READ COMMITTED, got AUTOCOMMIT"


async def test_lost_connection_is_reported_and_the_next_call_gets_another(
    engine: AsyncEngine, session: AsyncSession
) -> None:
    pid = (await session.execute(text("SELECT pg_backend_pid()"))).scalar_one()
    async with engine.connect() as admin:
        await admin.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})
    assert (await session.run_sync(level_up_atomic, 1, "PLAYER", 10)).get("error_type") == "database_error"
    assert (await session.run_sync(level_up_atomic, 1, "PLAYER", 10))["success"]


async def test_calls_of_many_tasks_share_one_loop(engine: AsyncEngine) -> None:
    """A call that waits for a lock must let the loop run the others, or this test would not end."""
    async with AsyncSession(engine) as holder, holder.begin():
        await holder.run_sync(level_up_atomic, 1, "PLAYER", 10)
        waiting = asyncio.create_task(rise(engine, 1))
        assert all(await asyncio.gather(*(rise(engine, user) for user in (2, 3, 4))))
        assert not waiting.done()
    assert await waiting
    assert await totals(engine) == {1: 20, 2: 10, 3: 10, 4: 10}


async def test_cancelled_call_leaves_nothing(engine: AsyncEngine) -> None:
    async with AsyncSession(engine) as holder, holder.begin():
        await holder.run_sync(level_up_atomic, 1, "PLAYER", 10)
        async with engine.connect() as observer:
            waiting = asyncio.create_task(rise(engine, 1))
            while not (await observer.execute(text("SELECT count(*) FROM pg_locks WHERE NOT granted"))).scalar_one():
                await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
    assert await totals(engine) == {1: 10}
    assert await recorded(engine) == [("applied", None)]
