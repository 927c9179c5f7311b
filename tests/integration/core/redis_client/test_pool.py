"""Connections between calls: used again, replaced when they are dead, and never leaked."""

import asyncio
import os
from contextlib import suppress
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import MaxConnectionsError

from levelq_core import Settings
from levelq_core.lanes.client import Lanes
from levelq_core.redis_client.async_pool import AsyncNodePool
from levelq_core.redis_client.pool import NodePool, _quiet, connect, connect_async
from tests.support.fixtures.waiting import until
from tests.support.isolation import PLAYER
from tests.support.producing import clients


@pytest.fixture
def client(settings: Settings) -> Any:
    """A client that may have three connections."""
    with Redis.from_url(settings.redis_url, max_connections=3) as client:
        yield client


@pytest.fixture
def pool(client: Redis) -> NodePool:
    return NodePool(client)


def number(pool: NodePool, connection: Any) -> int:
    """What the server calls the connection."""
    (found,) = pool.execute(connection, [("CLIENT ID",)])
    return int(found)


async def test_cancellation_that_connecting_swallows_ends_the_task_and_the_connection(
    settings: Settings, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As redis-py does before Python 3.12."""
    before, begun = clients(redis), asyncio.Event()
    async with connect_async(settings.redis_url, 5) as client:
        connecting: Any = client.connection_pool.get_connection

        async def swallowing(*given: Any) -> Any:
            begun.set()
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
            return await connecting(*given)

        monkeypatch.setattr(client.connection_pool, "get_connection", swallowing)
        task = asyncio.create_task(_use(AsyncNodePool(client, None, 1)))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.to_thread(until, lambda: clients(redis) == before, 10, "the end of the connection")


async def _use(pool: AsyncNodePool) -> None:
    async with pool.connection():
        raise AssertionError("the task was cancelled")


def test_released_connection_is_used_again(pool: NodePool) -> None:
    first = pool.acquire()
    was = number(pool, first)
    pool.release(first)
    second = pool.acquire()
    assert (second, number(pool, second)) == (first, was)


def test_two_callers_have_two_connections(pool: NodePool) -> None:
    assert number(pool, pool.acquire()) != number(pool, pool.acquire())


def test_connection_closed_by_the_server_is_replaced_before_a_send(pool: NodePool, redis: Redis) -> None:
    connection = pool.acquire()
    was = number(pool, connection)
    pool.release(connection)
    redis.client_kill_filter(_id=was)  # type: ignore[arg-type]
    until(lambda: not _quiet(connection), what="the end of the connection")
    assert number(pool, pool.acquire()) != was


def test_connection_with_an_unread_reply_is_not_used_again(pool: NodePool) -> None:
    connection = pool.acquire()
    with pytest.raises(KeyboardInterrupt), pool.ended_by_errors(connection):
        pool.send(connection, [("PING",)])
        raise KeyboardInterrupt
    assert pool.execute(pool.acquire(), [("ECHO", "mine")]) == [b"mine"]


def test_closed_client_opens_a_new_connection(pool: NodePool, client: Redis) -> None:
    pool.release(pool.acquire())
    client.close()
    assert number(pool, pool.acquire())


def test_connections_of_deleted_lanes_return_to_the_client(client: Redis, settings: Settings) -> None:
    for _ in range(10):
        assert Lanes(client, settings).status(PLAYER).waiting == 0


def test_limit_of_the_client_is_reported(pool: NodePool) -> None:
    held = [pool.acquire() for _ in range(3)]
    with pytest.raises(match="Too many connections") as caught:
        pool.acquire()
    assert isinstance(caught.value.__cause__, MaxConnectionsError)
    pool.release(held[0])
    assert pool.acquire() is held[0]


def test_forked_process_does_not_use_connections_of_its_parent(settings: Settings) -> None:
    with connect(settings.redis_url, 5) as client:
        pool = NodePool(client)
        connection = pool.acquire()
        was = number(pool, connection)
        pool.release(connection)
        child = os.fork()
        if not child:
            other = -1
            try:
                other = number(pool, pool.acquire())
            finally:
                os._exit(0 if other > was else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert number(pool, pool.acquire()) == was
