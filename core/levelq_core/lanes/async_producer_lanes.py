"""The producer's part of the protocol, for asyncio: push commands, and read how lanes are sharded."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import Any
from uuid import UUID

from redis.exceptions import MovedError, NoScriptError, RedisError, ResponseError

from levelq_core.domain.outcome import Outcome
from levelq_core.errors import ConfigurationError
from levelq_core.failpoints import failpoint
from levelq_core.keys import Partition
from levelq_core.redis_client.async_pool import AsyncNodePool
from levelq_core.redis_client.cluster import REDIRECTIONS, NotConnected, as_lost
from levelq_core.redis_client.pool import RedisCommand

from . import outcome_streams
from .lane_tail import LaneTail
from .protocol import FOUND_AMONG, LaneEntries, PushAnswer, PushError
from .push_batch import PushBatch
from .script_caller import AsyncScriptCaller
from .shard_layout import Layout, LayoutQuery


class AsyncProducerLanes(AsyncScriptCaller):
    """Pushes commands and reads layouts. Raises redis-py's errors; a push is never repeated by itself."""

    async def push(
        self, batches: Sequence[tuple[Partition, Sequence[LaneEntries]]], then: Sequence[RedisCommand] = ()
    ) -> list[PushAnswer | PushError]:
        """Append to lanes of one partition or several, in one round trip to each server.

        `then`: commands that follow on the same connection, and wait there for a disk or a replica; their replies are
        each answer's `durability_replies`. Returns per batch the answer or the error. After NotConnected
        and ResponseError, nothing of the batch was pushed; after other errors it is unknown.
        """
        push = PushBatch([self._protocol.push(partition, lanes) for partition, lanes in batches], then)
        while indexes := push.next_round():
            by_server = await self._by_server(push, indexes)
            for pool, some in by_server.items():
                try:
                    async with pool.connection() as connection:
                        failpoint("push request")
                        replies = await pool.execute(connection, push.commands(some))
                        if unknown := push.record(some, replies):
                            replies = await pool.execute(connection, push.commands(unknown, known=False))
                            push.record(unknown, replies)
                        failpoint("push reply")
                except Exception as error:  # whatever it was, something may have been sent
                    push.fail(some, as_lost(error))
            if push.moved:
                with suppress(NotConnected, ConfigurationError):
                    await self._pools.moved(push.moved)
        return push.answers()

    async def _by_server(self, push: PushBatch, indexes: Sequence[int]) -> dict[AsyncNodePool, list[int]]:
        found: dict[AsyncNodePool, list[int]] = {}
        for index in indexes:
            try:
                pool = await self._pools.at(push.key(index))
            except (NotConnected, ConfigurationError) as error:
                push.fail([index], error)
            else:
                found.setdefault(pool, []).append(index)
        return found

    async def execute_on_all(self, commands: Sequence[RedisCommand]) -> list[list[Any]]:
        """Per server the reply or refusal to each command, all on one connection."""
        replies = []
        for pool in await self._pools.all():
            async with pool.connection() as connection:
                replies.append(await pool.execute(connection, commands))
        return replies

    async def layouts(self, specializations: Collection[str]) -> dict[str, Layout]:
        """How these specializations are sharded now; LEVELQ_SHARDS where no layout is written yet.

        Raises RedisError, and ConfigurationError for a layout that cannot be read.
        """
        return (await self.read_layouts(specializations)).require()

    async def read_layouts(self, specializations: Collection[str]) -> LayoutQuery:
        """The same, with unwritten layouts as `missing` and those that cannot be read as `unreadable`."""
        query = LayoutQuery(specializations, self._settings)
        try:
            if query.names:
                query.read(await self._execute(query.key, "HMGET", query.key, *query.names))
        except ResponseError as error:
            query.refuse(error)
        return query

    async def ensure_layouts(self, specializations: Collection[str]) -> LayoutQuery:
        """Read the layouts before a push, and write down what is missing, so that all agree.

        Raises RedisError, also where Redis takes no writes.
        """
        query = await self.read_layouts(specializations)
        if query.missing:
            for name in query.missing:
                await self._execute(query.key, "HSETNX", query.key, name, str(query.first))
            query.read(await self._execute(query.key, "HMGET", query.key, *query.names))
        return query

    async def tail(self, partition: Partition, user_id: int, entry: bytes = b"") -> LaneTail:
        """Whether an entry of a lane still waits, and why; the lane's newest entry unless given. Raises RedisError."""
        call = self._protocol.tail(partition, user_id, entry)
        try:
            return LaneTail.read(await self._execute(call.key, *call.command()))
        except NoScriptError:  # after a restart the server knows no scripts
            return LaneTail.read(await self._execute(call.key, *call.command(known=False)))

    async def kept_outcome(self, command_id: UUID) -> Outcome | None:
        """The first decision on a command that Redis keeps for its sender, if it does. Raises RedisError."""
        key = self._settings.keys.reply(command_id.bytes)
        reply = await self._execute(key, "XREAD", "STREAMS", key, "0")
        entries = [entry for _, found in outcome_streams.streams(reply) for entry in found]
        return outcome_streams.read_entries(entries, None)[0]

    async def holds(self, partition: Partition, command_id: UUID, user_id: int | None = None) -> bool | None:
        """Whether a command waits in a user's lane of this partition, or in any; None if too many wait to look at all.

        Raises RedisError.
        """
        if user_id is None:
            lane = await self.lane_with(partition, command_id)
            return None if lane is None else bool(lane)
        newest = 0
        while True:
            call = self._protocol.find(partition, command_id.bytes, user_id, newest)
            found = await self._execute(call.key, *call.command(known=False))
            if found >= 0:
                return bool(found)
            newest += FOUND_AMONG

    async def lane_with(self, partition: Partition, command_id: UUID) -> bytes | None:
        """The name of the lane that holds a command; empty if none does, None if too many commands wait to look at all.

        Raises RedisError.
        """
        call = self._protocol.find(partition, command_id.bytes)
        found = await self._execute(call.key, *call.command(known=False))
        return found if isinstance(found, bytes) else b"" if found == 0 else None

    async def _execute(self, key: str, *command: Any) -> Any:
        """One command on the server of one key. Raises NotConnected, and redis-py's errors."""
        reply: Any = None
        for _ in range(REDIRECTIONS):
            pool = await self._pools.at(key)
            async with pool.connection() as connection:
                (reply,) = await pool.execute(connection, [command])
            if not isinstance(reply, MovedError):
                break
            await self._pools.moved(reply)
        if isinstance(reply, RedisError):
            raise reply
        return reply
