"""The lanes for asyncio: what a producer on an event loop needs of them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import Any

from redis.asyncio import Redis as AsyncRedis
from redis.exceptions import MovedError, RedisError, ResponseError

from levelq_core.errors import ConfigurationError
from levelq_core.failpoints import failpoint
from levelq_core.redis_client.async_pool import AsyncNodePool, AsyncNodePools
from levelq_core.redis_client.cluster import REDIRECTIONS, NotConnected, as_lost
from levelq_core.redis_client.pool import BOUND, DURABLE_BOUND, RedisCommand
from levelq_core.settings import Settings

from .client import Batches
from .protocol import Protocol, PushAnswer, PushError
from .push_batch import PushBatch
from .shard_layout import Layout, LayoutQuery


class AsyncLanes:
    """What an asyncio producer needs of Lanes, for one event loop. Its connections are bounded as a producer's are."""

    def __init__(self, redis: AsyncRedis, settings: Settings) -> None:
        self.redis = redis
        self._pools = AsyncNodePools(redis, BOUND)
        self._durable = AsyncNodePools(redis, DURABLE_BOUND)
        self._protocol = Protocol(settings)
        self._settings = settings

    def close(self) -> None:
        """Keep no connection from now on; the client is the caller's to close."""
        self._pools.close()
        self._durable.close()

    async def push(self, batches: Batches) -> list[PushAnswer | PushError]:
        """Append to many lanes of several partitions in one round trip to each server; see push_and_ask."""
        return (await self.push_and_ask(batches, ()))[0]

    async def push_and_ask(
        self, batches: Batches, questions: Sequence[RedisCommand]
    ) -> tuple[list[PushAnswer | PushError], list[list[Any]]]:
        """Push, and ask behind it on the same connections; returns what Lanes.push_and_ask does."""
        pushing = PushBatch([self._protocol.push(partition, lanes) for partition, lanes in batches])
        while pushing.left:
            pools = self._durable if questions else self._pools
            for connections, places in (await self._by_server(pools, pushing)).items():
                try:
                    async with connections.connection() as connection:
                        await self._push_some(connections, connection, pushing, places, questions)
                except Exception as error:  # whatever it was, something may have been sent
                    pushing.failed(places, as_lost(error))
                connections.note_loss(pushing.refusal(places))
            if pushing.moved:
                with suppress(NotConnected, ConfigurationError):
                    await self._pools.moved(pushing.moved)
        return [self._protocol.pushed(reply) for reply in pushing.replies], pushing.asked

    @staticmethod
    async def _by_server(pools: AsyncNodePools, pushing: PushBatch) -> dict[AsyncNodePool, list[int]]:
        found: dict[AsyncNodePool, list[int]] = {}
        for place in pushing.start():
            try:
                found.setdefault(await pools.at(pushing.key(place)), []).append(place)
            except (NotConnected, ConfigurationError) as error:
                pushing.failed([place], error)
        return found

    @staticmethod
    async def _push_some(
        connections: AsyncNodePool,
        connection: Any,
        pushing: PushBatch,
        places: Sequence[int],
        questions: Sequence[RedisCommand],
    ) -> None:
        failpoint("push request")
        answers = await connections.execute(connection, [*pushing.commands(places), *questions])
        if unknown := pushing.take(places, answers):
            answers = await connections.execute(connection, [*pushing.commands(unknown, known=False), *questions])
            pushing.take(unknown, answers)
        failpoint("push reply")

    async def ask(self, questions: Sequence[RedisCommand]) -> list[list[Any]]:
        """Per server the answer or refusal to each question, all asked on one connection."""
        found = []
        for connections in await self._pools.all():
            async with connections.connection() as connection:
                found.append(await connections.execute(connection, questions))
        return found

    async def _send(self, key: str, *command: Any) -> Any:
        """One command about one key, on a connection of ours. Raises NotConnected, and redis-py's errors."""
        answer: Any = None
        for _ in range(REDIRECTIONS):
            connections = await self._pools.at(key)
            async with connections.connection() as connection:
                (answer,) = await connections.execute(connection, [command])
            if not isinstance(answer, MovedError):
                break
            await self._pools.moved(answer)
        if isinstance(answer, RedisError):
            raise answer
        return answer

    async def layouts(self, specializations: Collection[str]) -> dict[str, Layout]:
        """How these specializations are sharded now; see Lanes.layouts."""
        return (await self._ask_layouts(specializations)).require()

    async def _ask_layouts(self, specializations: Collection[str]) -> LayoutQuery:
        asking = LayoutQuery(specializations, self._settings)
        try:
            if asking.names:
                asking.read(await self._send(asking.key, "HMGET", asking.key, *asking.names))
        except ResponseError as error:
            asking.refuse(error)
        return asking

    async def ensure_layouts(self, specializations: Collection[str]) -> LayoutQuery:
        """The same before a push; see Lanes.ensure_layouts."""
        asking = await self._ask_layouts(specializations)
        if asking.missing:
            for name in asking.missing:
                await self._send(asking.key, "HSETNX", asking.key, name, str(asking.first))
            asking.read(await self._send(asking.key, "HMGET", asking.key, *asking.names))
        return asking
