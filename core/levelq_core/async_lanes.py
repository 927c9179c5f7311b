"""The lanes for asyncio: what a producer on an event loop needs of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from redis.asyncio import Redis as AsyncRedis
from redis.exceptions import NoScriptError, RedisError, ResponseError

from .connections import NotReached, Question
from .faults import point
from .lanes import Batches
from .scripts import Protocol, PushAnswer
from .settings import Settings


class AsyncLanes:
    """What an asyncio producer needs of Lanes."""

    def __init__(self, redis: AsyncRedis, settings: Settings, *, shebang: bool = True) -> None:
        self.redis = redis
        self._protocol = Protocol(settings)
        self._shebang = shebang

    async def push(self, batches: Batches) -> list[PushAnswer | RedisError]:
        """Append to many lanes of several partitions in one round trip; one answer or refusal per partition."""
        return (await self.push_and_ask(batches, ()))[0]

    async def push_and_ask(
        self, batches: Batches, questions: Sequence[Question]
    ) -> tuple[list[PushAnswer | RedisError], list[Any]]:
        """Push, and ask behind it on the same connection: also the answer or refusal to each question.

        Raises NotReached if there is no connection; after any other error nobody knows what was pushed.
        """
        calls = [self._protocol.push(partition, lanes) for partition, lanes in batches]
        async with self._connection() as connection:
            point("push request")
            commands = [call.command(shebang=self._shebang) for call in calls]
            replies = await self._exchange(connection, [*commands, *questions])
            replies, answers = replies[: len(calls)], replies[len(calls) :]
            if unknown := [i for i, reply in enumerate(replies) if isinstance(reply, NoScriptError)]:
                sources = [calls[i].command(shebang=self._shebang, known=False) for i in unknown]
                again = await self._exchange(connection, [*sources, *questions])
                answers = again[len(unknown) :]
                for i, reply in zip(unknown, again, strict=False):
                    replies[i] = reply
            point("push reply")
        return [self._protocol.pushed(reply) for reply in replies], answers

    async def ask(self, questions: Sequence[Question]) -> list[Any]:
        """The answer or refusal to each question, all asked on one connection."""
        async with self._connection() as connection:
            return await self._exchange(connection, questions)

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Any]:
        pool: Any = self.redis.connection_pool
        try:
            connection = await pool.get_connection()
        except RedisError as error:
            raise NotReached(str(error)) from error
        try:
            yield connection
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        finally:
            await pool.release(connection)

    async def _exchange(self, connection: Any, commands: Sequence[Question]) -> list[Any]:
        await connection.send_packed_command(connection.pack_commands(commands))
        replies: list[Any] = []
        for command in commands:
            try:
                replies.append(await self.redis.parse_response(connection, command[0]))
            except ResponseError as error:
                replies.append(error)
        return replies
