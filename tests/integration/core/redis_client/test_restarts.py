"""Servers that were restarted between two calls: the next call works, on a new connection."""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest

from levelq.embedded import Servers
from levelq_core import LevelUp, Outcome, Settings
from levelq_core.errors import ConfigurationError
from levelq_producer import AsyncProducer, Producer, QueueUnavailable
from levelq_worker.draining.context import Runtime
from tests.support.coupler import drain_all
from tests.support.fixtures.valkeys import Node, Valkeys
from tests.support.fixtures.waiting import until


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with ExitStack() as stack:
        yield Valkeys(tmp_path, stack).start()


def end_sessions(servers: Servers) -> None:
    """What a restart of PostgreSQL does to every connection: it is ended by the server (57P01)."""
    with psycopg.connect(servers.postgres.url, autocommit=True) as admin:
        ended = admin.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = 'levelq producer'"
        ).fetchall()
    assert ended


def test_first_result_after_a_restart_of_postgresql_is_read(
    servers: Servers, settings: Settings, worker: Runtime
) -> None:
    with Producer(settings) as producer:
        handle = producer.send(LevelUp(user_id=1, specialization="PLAYER", xp_gained=5), reply=False)
        drain_all(worker, "PLAYER")
        for _ in range(3):
            assert handle.result().status == "applied"
            end_sessions(servers)
        assert handle.result().status == "applied"


async def test_first_result_on_asyncio_after_a_restart_of_postgresql_is_read(
    servers: Servers, settings: Settings, worker: Runtime
) -> None:
    async with AsyncProducer(settings) as producer:
        handle = await producer.send(LevelUp(user_id=1, specialization="PLAYER", xp_gained=5), reply=False)
        await asyncio.to_thread(drain_all, worker, "PLAYER")
        assert (await handle.result()).status == "applied"
        await asyncio.to_thread(end_sessions, servers)
        assert (await handle.result()).status == "applied"


def test_database_that_is_away_is_an_error(settings: Settings) -> None:
    away = settings.model_copy(update={"database_url": "postgresql://u:s3cret@127.0.0.1:1/d"})
    with Producer(away) as producer:
        handle = producer.send(LevelUp(user_id=1, specialization="PLAYER"), reply=False)
        with pytest.raises(ConfigurationError, match=r"LEVELQ_DATABASE_URL: postgresql://u:\*\*\*@127\.0\.0\.1:1"):
            handle.result()


def test_first_send_after_a_restart_of_redis_is_queued(node: Node) -> None:
    with Producer.from_url(node.url) as producer:
        for user in range(1, 4):
            handle = producer.level_up(user, "PLAYER", 5)
            assert handle.error is None
            node.kill()
            node.restart()


async def test_first_send_on_asyncio_after_a_restart_of_redis_is_queued(node: Node) -> None:
    async with AsyncProducer.from_url(node.url) as producer:
        for user in range(1, 4):
            handle = await producer.level_up(user, "PLAYER", 5)
            assert handle.error is None
            await asyncio.to_thread(node.kill)
            await asyncio.to_thread(node.restart)


async def test_waiting_handles_are_unavailable_while_redis_restarts(node: Node) -> None:
    async with AsyncProducer.from_url(node.url) as producer:
        handles = await producer.send_many([LevelUp(user_id=n, specialization="PLAYER") for n in range(1, 51)], True)
        waiting = [asyncio.create_task(handle.result(timeout=60)) for handle in handles]
        await asyncio.to_thread(until, lambda: blocked(node) >= 1, 30, "the waiters")
        await asyncio.to_thread(node.kill)
        found: list[Outcome | BaseException] = await asyncio.gather(*waiting, return_exceptions=True)
        assert {type(error) for error in found} == {QueueUnavailable}
        await asyncio.to_thread(node.restart)
        assert (await producer.level_up(1, "PLAYER", 5)).error is None


def blocked(node: Node) -> int:
    info: Any = node.client.info("clients")
    return int(info["blocked_clients"])
