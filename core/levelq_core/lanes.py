"""The lanes in Redis: every step of the protocol is one script call, made here and nowhere else."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from uuid import uuid4

from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError, ResponseError
from redis.retry import Retry

from .faults import point
from .partitions import REGISTRY, Partition
from .scripts import Call, Claim, LaneEntries, Lease, Protocol, PushAnswer, Relayed, Status, load
from .settings import Settings

Batches = Sequence[tuple[Partition, Sequence[LaneEntries]]]
Question = tuple[Any, ...]  # a command of Redis's own, asked behind a push on the connection that pushed
# As many as a server takes by default. redis-py's limit of 100 would refuse the 101st of an event loop's
# tasks: each that waits for an outcome, or for a replica, holds a connection.
CONNECTIONS = 10_000


def connect(url: str, seconds: float, **options: Any) -> Redis:
    """A client that waits `seconds` at most and never repeats a call by itself; `options` are redis-py's.

    redis-py repeats up to ten times by default: where only the reply was lost, one push became eleven.
    """
    return Redis.from_url(url, retry=Retry(NoBackoff(), 0), **_options(seconds), **options)


def connect_async(url: str, seconds: float) -> AsyncRedis:
    """The same for asyncio."""
    return AsyncRedis.from_url(url, retry=AsyncRetry(NoBackoff(), 0), **_options(seconds))


def _options(seconds: float) -> dict[str, Any]:
    timeouts = {"socket_timeout": seconds, "socket_connect_timeout": seconds}
    return timeouts | {"retry_on_error": [], "max_connections": CONNECTIONS}


class NotReached(RedisError):
    """There was no connection to be had, so certainly nothing was sent."""


class Lanes:
    """The protocol over one Redis connection pool. Raises redis-py's errors; a call is never repeated."""

    def __init__(self, redis: Redis, settings: Settings, *, shebang: bool = True) -> None:
        self.redis = redis
        self._protocol = Protocol(settings)
        self._shebang = shebang

    def _run(self, call: Call) -> Any:
        script = load(call.name, shebang=self._shebang)
        try:
            return self.redis.evalsha(script.sha, 1, call.key, *call.args)
        except NoScriptError:  # nothing ran; after a restart the server knows no scripts
            return self.redis.eval(script.text, 1, call.key, *call.args)

    def push(self, batches: Batches) -> list[PushAnswer | RedisError]:
        """Append to many lanes of several partitions in one round trip; one answer or refusal per partition."""
        return self.push_and_ask(batches, ())[0]

    def push_and_ask(
        self, batches: Batches, questions: Sequence[Question]
    ) -> tuple[list[PushAnswer | RedisError], list[Any]]:
        """Push, and ask behind it on the same connection: also the answer or refusal to each question.

        Raises NotReached if there is no connection; after any other error nobody knows what was pushed.
        """
        calls = [self._protocol.push(partition, lanes) for partition, lanes in batches]
        with self._connection() as connection:
            point("push request")
            replies = self._exchange(connection, [*_commands(calls, shebang=self._shebang), *questions])
            replies, answers = replies[: len(calls)], replies[len(calls) :]
            if unknown := [i for i, reply in enumerate(replies) if isinstance(reply, NoScriptError)]:
                sources = _commands([calls[i] for i in unknown], shebang=self._shebang, known=False)
                again = self._exchange(connection, [*sources, *questions])
                answers = again[len(unknown) :]
                for i, reply in zip(unknown, again, strict=False):
                    replies[i] = reply
            point("push reply")
        return [self._protocol.pushed(reply) for reply in replies], answers

    def ask(self, questions: Sequence[Question]) -> list[Any]:
        """The answer or refusal to each question, all asked on one connection."""
        with self._connection() as connection:
            return self._exchange(connection, questions)

    @contextmanager
    def _connection(self) -> Iterator[Any]:
        """A connection that is there before anything is sent. redis-py's pipeline would do, for twice the time."""
        pool: Any = self.redis.connection_pool
        try:
            connection = pool.get_connection()
        except RedisError as error:
            raise NotReached(str(error)) from error
        try:
            yield connection
        except BaseException:
            connection.disconnect()  # what it says next would be taken for the answer to something else
            raise
        finally:
            pool.release(connection)

    def _exchange(self, connection: Any, commands: Sequence[Question]) -> list[Any]:
        connection.send_packed_command(connection.pack_commands(commands))
        replies: list[Any] = []
        for command in commands:
            try:
                replies.append(self.redis.parse_response(connection, command[0]))  # type: ignore[no-untyped-call]
            except ResponseError as error:
                replies.append(error)
        return replies

    def claim(self, partition: Partition, drain: str, token: str, commands: int, *, gated: bool = False) -> Claim:
        """Register the drain and take due lanes for it, `commands` at most; or retire it.

        `gated`: take nothing, and say so, until what Redis lost of the outbox was put back.
        """
        point("claim request")
        reply = self._run(self._protocol.claim(partition, drain, token, commands, gated))
        point("claim reply")
        return self._protocol.claimed(reply)

    def ack(self, partition: Partition, token: str, lanes: Sequence[tuple[bytes, int, bytes]]) -> list[int]:
        """Remove decided entries and release the lanes; see Protocol.ack. -1: the claim was no longer ours."""
        point("ack request")
        removed = list(self._run(self._protocol.ack(partition, token, lanes)))
        point("ack reply")
        return removed

    def renew(self, partition: Partition, drain: str, token: str, users: Sequence[bytes]) -> int:
        """Extend the claims; returns how many are still ours."""
        return int(self._run(self._protocol.renew(partition, drain, token, users)))

    def yield_(self, partition: Partition, drain: str) -> bool:
        """End a drain that has work left; True if its successor must be woken by the caller."""
        return bool(self._run(self._protocol.yield_(partition, drain)))

    def sweep(self, partition: Partition) -> tuple[bool, int]:
        """(a drain must be woken by the caller, how many expired claims were returned)."""
        wake, returned = self._run(self._protocol.sweep(partition))
        return bool(wake), int(returned)

    def lease(self, partition: Partition, mode: str, lease: bytes = b"") -> Lease:
        """Take, replace, seize or release the relay's lease; `lease` is the value that is held. See lease.lua."""
        return self._protocol.leased(self._run(self._protocol.lease(partition, mode, uuid4().hex, lease)))

    def relay(
        self, partition: Partition, lease: bytes, lanes: Sequence[LaneEntries], *, idle_only: bool = False
    ) -> Relayed:
        """Append outbox entries, unless Redis lost something in the meantime; see relay.lua."""
        return self._protocol.relayed(self._run(self._protocol.relay(partition, lease, lanes, idle_only=idle_only)))

    def refill(
        self, partition: Partition, lease: bytes, lanes: Sequence[LaneEntries], *, last: bool = False
    ) -> Relayed:
        """Put outbox entries back at the head of their lanes; `last` opens the gate. See refill.lua."""
        return self._protocol.refilled(self._run(self._protocol.refill(partition, lease, lanes, last=last)))

    def empty(self, partition: Partition, users: Sequence[int]) -> list[int]:
        """Those of these users whose lanes hold nothing at this moment."""
        pipeline = self.redis.pipeline(transaction=False)
        for user_id in users:
            pipeline.exists(partition.lane_key(user_id))
        return [user_id for user_id, there in zip(users, pipeline.execute(), strict=True) if not there]

    def status(self, partition: Partition) -> Status:
        """Count what the partition holds."""
        *counts, age_ms = self._run(self._protocol.status(partition))
        return Status._make((*counts, age_ms / 1000))

    def partitions(self) -> list[Partition]:
        """The partitions that any producer or worker ever woke."""
        names: Any = self.redis.zrange(REGISTRY, 0, -1)
        return [Partition.parse(name.decode()) for name in names]


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
            replies = await self._exchange(connection, [*_commands(calls, shebang=self._shebang), *questions])
            replies, answers = replies[: len(calls)], replies[len(calls) :]
            if unknown := [i for i, reply in enumerate(replies) if isinstance(reply, NoScriptError)]:
                sources = _commands([calls[i] for i in unknown], shebang=self._shebang, known=False)
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


def _commands(calls: Sequence[Call], *, shebang: bool, known: bool = True) -> list[Question]:
    """Calls as commands. `known`: the server has the scripts; after a restart it has none."""
    commands: list[Question] = []
    for call in calls:
        script = load(call.name, shebang=shebang)
        name, source = ("EVALSHA", script.sha) if known else ("EVAL", script.text)
        commands.append((name, source, 1, call.key, *call.args))
    return commands
