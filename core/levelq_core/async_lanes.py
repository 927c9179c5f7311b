"""The lanes for asyncio: what a producer on an event loop needs of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from redis.asyncio import Redis as AsyncRedis
from redis.exceptions import ClusterDownError, MovedError, RedisError, ResponseError

from .async_cluster import AsyncCluster
from .cluster import LOST, NotReached
from .connections import Question
from .errors import ConfigurationError
from .faults import point
from .lanes import Batches
from .layouts import Asking, Layout
from .pushing import Pushing
from .scripts import Protocol, PushAnswer, PushError
from .settings import Settings


class AsyncLanes:
    """What an asyncio producer needs of Lanes."""

    def __init__(self, redis: AsyncRedis, settings: Settings, *, shebang: bool = True) -> None:
        self.redis = redis
        self._protocol = Protocol(settings)
        self._settings = settings
        self._shebang = shebang

    async def push(self, batches: Batches) -> list[PushAnswer | PushError]:
        """Append to many lanes of several partitions in one round trip to each server; see push_and_ask."""
        return (await self.push_and_ask(batches, ()))[0]

    async def push_and_ask(
        self, batches: Batches, questions: Sequence[Question]
    ) -> tuple[list[PushAnswer | PushError], list[list[Any]]]:
        """Push, and ask behind it on the same connections; returns what Lanes.push_and_ask does."""
        pushing = Pushing([self._protocol.push(partition, lanes) for partition, lanes in batches], self._shebang)
        while pushing.left:
            for server, places in (await self._by_server(pushing)).items():
                try:
                    async with self._connection(server) as connection:
                        await self._push_some(connection, pushing, places, questions)
                except RedisError as error:
                    pushing.failed(places, error)
                self._note_loss(server, pushing.refusal(places))
            if pushing.moved:
                await self._follow(pushing.moved)
        return [self._protocol.pushed(reply) for reply in pushing.replies], pushing.asked

    async def _by_server(self, pushing: Pushing) -> dict[AsyncRedis, list[int]]:
        found: dict[AsyncRedis, list[int]] = {}
        for place in pushing.start():
            try:
                found.setdefault(await self._server(pushing.key(place)), []).append(place)
            except (NotReached, ConfigurationError) as error:
                pushing.failed([place], error)
        return found

    async def _server(self, key: str) -> AsyncRedis:
        return await self.redis.at(key) if isinstance(self.redis, AsyncCluster) else self.redis

    async def _follow(self, moved: MovedError) -> None:
        if isinstance(self.redis, AsyncCluster):
            with suppress(NotReached):
                await self.redis.moved(moved)

    async def _push_some(
        self, connection: Any, pushing: Pushing, places: Sequence[int], questions: Sequence[Question]
    ) -> None:
        point("push request")
        answers = await self._exchange(connection, [*pushing.commands(places), *questions])
        if unknown := pushing.take(places, answers):
            answers = await self._exchange(connection, [*pushing.commands(unknown, known=False), *questions])
            pushing.take(unknown, answers)
        point("push reply")

    async def ask(self, questions: Sequence[Question]) -> list[list[Any]]:
        """Per server the answer or refusal to each question, all asked on one connection."""
        servers = await self.redis.servers() if isinstance(self.redis, AsyncCluster) else [self.redis]
        found = []
        for server in servers:
            async with self._connection(server) as connection:
                found.append(await self._exchange(connection, questions))
        return found

    async def layouts(self, specializations: Collection[str]) -> dict[str, Layout]:
        """How these specializations are sharded now; see Lanes.layouts."""
        asking = Asking(specializations, self._settings)
        asking.read(await self.redis.hmget(asking.key, asking.names))
        return asking.found

    async def note_layouts(self, specializations: Collection[str]) -> dict[str, Layout]:
        """The same for whoever is about to push; see Lanes.note_layouts."""
        asking = Asking(specializations, self._settings)
        asking.read(await self.redis.hmget(asking.key, asking.names))
        if asking.missing:
            for name in asking.missing:
                await self.redis.hsetnx(asking.key, name, str(asking.first))
            asking.read(await self.redis.hmget(asking.key, asking.names))
        return asking.found

    @asynccontextmanager
    async def _connection(self, server: AsyncRedis) -> AsyncIterator[Any]:
        pool: Any = server.connection_pool
        try:
            connection = await pool.get_connection()
        except RedisError as error:
            self._note_loss(server, error)
            raise NotReached(str(error)) from error
        try:
            yield connection
        except BaseException as error:
            self._note_loss(server, error)
            await connection.disconnect(nowait=True)
            raise
        finally:
            await pool.release(connection)

    def _note_loss(self, server: AsyncRedis, error: BaseException | None) -> None:
        if isinstance(error, (*LOST, ClusterDownError)) and isinstance(self.redis, AsyncCluster):
            self.redis.lost(server, error)

    async def _exchange(self, connection: Any, commands: Sequence[Question]) -> list[Any]:
        await connection.send_packed_command(connection.pack_commands(commands))
        replies: list[Any] = []
        for command in commands:
            try:
                replies.append(await self.redis.parse_response(connection, command[0]))
            except ResponseError as error:
                replies.append(error)
        return replies
