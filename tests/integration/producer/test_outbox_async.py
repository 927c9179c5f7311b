"""The outbox in a transaction on asyncio: through run_sync, with handles that are awaited."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import psycopg
import pytest
from redis import Redis
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from levelq import AsyncHandle, Outbox, OutcomeTimeout, SchemaError, Settings, TransactionMisuse
from tests.support.outbox import committed, in_outbox, level_up, relay_and_drain

Engines = Callable[..., AsyncEngine]


@pytest.fixture(params=["psycopg", "asyncpg"])
async def make_engine(request: pytest.FixtureRequest, url: str) -> AsyncIterator[Engines]:
    """Engines as an application makes them, on each driver that has asyncio."""
    made: list[AsyncEngine] = []

    def make(**options: Any) -> AsyncEngine:
        made.append(create_async_engine(url.replace("postgresql://", f"postgresql+{request.param}://"), **options))
        return made[-1]

    yield make
    for engine in made:
        await engine.dispose()


async def test_async_session_writes_in_its_transaction(make_engine: Engines, settings: Settings, url: str) -> None:
    async with AsyncSession(make_engine()) as session:
        for number, end in ((1, session.commit), (2, session.rollback)):
            await session.execute(text(f"INSERT INTO matches VALUES ({number})"))
            command = level_up(number)
            handle = await session.run_sync(lambda s: Outbox[AsyncHandle](s, settings=settings).send(command))  # noqa: B023
            assert isinstance(handle, AsyncHandle)
            await end()
    assert committed(url) == ([1], [1])


async def test_async_connection_writes_in_its_transaction(make_engine: Engines, url: str) -> None:
    with pytest.raises(ZeroDivisionError):
        async with make_engine().begin() as connection:
            await connection.run_sync(lambda c: Outbox[AsyncHandle](c).send_many([level_up(1), level_up(2)]))
            raise ZeroDivisionError
    async with make_engine().begin() as connection:
        handles = await connection.run_sync(
            lambda c: Outbox[AsyncHandle](c).send_many([level_up(3), level_up(4), level_up(3)])
        )
        assert [type(handle) for handle in handles] == [AsyncHandle] * 3
    assert in_outbox(url) == [3, 4]


async def test_handle_is_awaited_while_other_tasks_run(make_engine: Engines, settings: Settings, redis: Redis) -> None:
    async with AsyncSession(make_engine()) as session:
        handle = await session.run_sync(lambda s: Outbox[AsyncHandle](s, settings=settings).send(level_up(1)))
        waiting = asyncio.create_task(handle.result(timeout=30))
        await session.commit()
    assert await asyncio.to_thread(relay_and_drain, settings, redis) == [1]
    assert (await waiting).status == "applied"


@pytest.mark.parametrize("ledger", [True, False])
def test_handles_made_in_one_loop_are_awaited_in_another(
    settings: Settings, redis: Redis, url: str, ledger: bool
) -> None:
    """As with asyncio.run twice, and with a framework that has a loop per thread."""
    given = settings if ledger else settings.model_copy(update={"database_url": None})

    async def send(number: int) -> Any:
        engine = create_async_engine(url.replace("postgresql://", "postgresql+psycopg://"))
        async with AsyncSession(engine) as session:
            handle = await session.run_sync(lambda s: Outbox[AsyncHandle](s, settings=given).send(level_up(number)))
            await session.commit()
        with pytest.raises(OutcomeTimeout):
            await handle.result(timeout=0.01)
        await engine.dispose()
        return handle

    handles = [asyncio.run(send(1)), asyncio.run(send(2))]
    assert relay_and_drain(settings, redis) == [1, 2]

    async def outcomes(*handles: Awaitable[Any]) -> list[str]:
        return [outcome.status for outcome in await asyncio.gather(*handles)]

    assert asyncio.run(outcomes(*handles)) == ["applied", "applied"]  # a handle can be awaited as it is


@pytest.mark.parametrize("options", [{"isolation_level": "AUTOCOMMIT"}, {"schema_translate_map": {None: "tenant"}}])
async def test_what_a_session_refuses_an_async_session_refuses(
    make_engine: Engines, url: str, options: dict[str, Any]
) -> None:
    async with AsyncSession(make_engine(execution_options=options)) as session:
        with pytest.raises(TransactionMisuse, match=r"AUTOCOMMIT|schema_translate_map"):
            await session.run_sync(lambda s: Outbox[AsyncHandle](s).send(level_up(1)))
        await session.rollback()
    assert in_outbox(url) == []


async def test_errors_of_the_driver_are_explained(make_engine: Engines, url: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("DROP TABLE levelq_outbox")
    async with AsyncSession(make_engine()) as session:
        with pytest.raises(SchemaError, match=r'table levelq_outbox: .*relation "levelq_outbox" does not exist'):
            await session.run_sync(lambda s: Outbox[AsyncHandle](s).send(level_up(1)))
        with pytest.raises(TransactionMisuse, match="aborted by an earlier error"):
            await session.run_sync(lambda s: Outbox[AsyncHandle](s).send(level_up(1)))
