"""NodePool and NodePools for asyncio: the connections of one client on one loop, each lent to one task at a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Self

from redis.asyncio import Redis as AsyncRedis
from redis.connection import HiredisRespSerializer
from redis.exceptions import ClusterDownError, MovedError, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from levelq_core.errors import ConfigurationError

from .cluster import LOST, UNCLUSTERED_URL
from .cluster_clients import AsyncCluster
from .connection_slots import TaskSlots
from .pool import CONNECTIONS, SLOW_SECONDS, PoolState, RedisCommand
from .versions import OF_POOL, must_reconnect

_pack = HiredisRespSerializer().pack  # in C; redis-py packs in Python for asyncio
_ATTEMPTS = 4  # to connect while the loop is late
_MEASURE_SECONDS = 0.05  # between two measurements of how late the loop is


class _Lateness:
    """Measures by how many seconds, at most, the loop was late while this block ran."""

    def __init__(self) -> None:
        self.most = 0.0
        self._loop = asyncio.get_running_loop()

    def __enter__(self) -> Self:
        self._schedule()
        return self

    def _schedule(self) -> None:
        self._due = self._loop.time() + _MEASURE_SECONDS
        self._timer = self._loop.call_at(self._due, self._measure)

    def _measure(self) -> None:
        self.most = max(self.most, self._loop.time() - self._due)
        self._schedule()

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()


class AsyncNodePool:
    """NodePool for asyncio. A task that is cancelled closes its connection, so no reply is left on one."""

    def __init__(self, redis: AsyncRedis, lost: Callable[[AsyncRedis, BaseException], None] | None, most: int) -> None:
        self.redis = redis
        self._lost = lost
        self._state = PoolState(redis, TaskSlots, most)
        self.closed = False  # once closed, each connection ends with the call that uses it

    async def acquire(self) -> Any:
        """A connection that is open, as far as can be seen. Raises NotConnected."""
        await self._state.slots.acquire()
        try:
            return await self._idle() or await self._connect()
        except BaseException:
            self._state.slots.release()
            raise

    async def _idle(self) -> Any | None:
        while self._state.connections:
            connection = self._state.connections.pop()
            if await _quiet(connection):
                return connection
            await self._end(connection)
        return None

    async def _connect(self) -> Any:
        """A new connection. A timeout while the loop was late may not be the server's fault: try again."""
        await self._state.making.acquire()
        try:
            for attempts_left in reversed(range(_ATTEMPTS)):
                since = time.monotonic()
                with _Lateness() as lateness:
                    try:
                        return await self._state.pool.get_connection(*OF_POOL)
                    except Exception as error:
                        if isinstance(error, RedisTimeoutError) and lateness.most > SLOW_SECONDS and attempts_left:
                            continue
                        self.note_loss(error)
                        raise self._state.refused(error, since) from error
        finally:
            self._state.making.release()

    async def _end(self, connection: Any) -> None:
        with suppress(Exception):
            await connection.disconnect(nowait=True)
        await self._state.pool.release(connection)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Any]:
        """A connection for the length of this block, in which every reply must be read. Raises NotConnected."""
        swallowed = _swallowed_cancellation()
        connection = await self.acquire()
        try:
            try:
                swallowed()
                yield connection
            except BaseException as error:
                self.note_loss(error)
                await self._end(connection)
                raise
            self._state.answered_at = time.monotonic()
            if self.closed:
                await self._end(connection)
            else:
                self._state.connections.append(connection)
        finally:
            self._state.slots.release()

    def note_loss(self, error: BaseException | None) -> None:
        """Note that this server is away, if the error means that."""
        if self._lost is not None and isinstance(error, (*LOST, ClusterDownError)):
            self._lost(self.redis, error)

    @staticmethod
    async def send(connection: Any, commands: Sequence[RedisCommand]) -> None:
        """Send commands."""
        swallowed = _swallowed_cancellation()
        await connection.send_packed_command([part for command in commands for part in _pack(*command)])
        swallowed()

    async def receive(self, connection: Any, name: str) -> Any:
        """The next reply, to the command of this name; an error that Redis replied is returned."""
        since = time.monotonic()
        try:
            return await self.redis.parse_response(connection, name)
        except ResponseError as error:
            self.note_loss(error)
            return error
        except RedisTimeoutError as error:
            late = time.monotonic() - since - (connection.socket_timeout or 0)
            if late < SLOW_SECONDS:
                raise
            # The reply may have come meanwhile, so the server does not count as silent.
            raise RedisConnectionError(f"{error}: this process's event loop was late by {late:.1f} s") from error

    async def execute(self, connection: Any, commands: Sequence[RedisCommand]) -> list[Any]:
        """Send commands, and return the reply or the error to each."""
        await self.send(connection, commands)
        return [await self.receive(connection, command[0]) for command in commands]


class AsyncNodePools:
    """NodePools for asyncio."""

    def __init__(self, redis: AsyncRedis, most: int = CONNECTIONS) -> None:
        self._cluster: Any = redis if isinstance(redis, AsyncCluster) else None
        self._most = most
        self._pools: dict[AsyncRedis, AsyncNodePool] = {}
        self._closed = False
        self.only = self._pool(redis) if self._cluster is None else None

    def _pool(self, server: AsyncRedis) -> AsyncNodePool:
        if server not in self._pools:
            self._pools[server] = AsyncNodePool(server, self._cluster and self._cluster.lost, self._most)
            self._pools[server].closed = self._closed
        return self._pools[server]

    def close(self) -> None:
        """Keep no connection from now on. Calls under way go on, and may open some, which they end."""
        self._closed = True
        for pool in self._pools.values():
            pool.closed = True

    async def at(self, key: str) -> AsyncNodePool:
        """The pool of the server that holds this key. Raises NotConnected."""
        return self.only or self._pool(await self._cluster.at(key))

    async def all(self) -> list[AsyncNodePool]:
        """The pool of every server. Raises NotConnected."""
        return [self.only] if self.only else [self._pool(server) for server in await self._cluster.servers()]

    async def moved(self, error: MovedError) -> None:
        """Note a MOVED reply: another server holds a key. Raises ConfigurationError outside a cluster."""
        if self.only:
            raise ConfigurationError(UNCLUSTERED_URL, setting="LEVELQ_REDIS_URL")
        await self._cluster.moved(error)


def _swallowed_cancellation() -> Callable[[], None]:
    """What raises CancelledError if this task was cancelled since, and goes on.

    redis-py sends within asyncio.wait_for, which before Python 3.12 may swallow a cancellation.
    """
    task = asyncio.current_task()
    before = 0 if task is None else task.cancelling()

    def check() -> None:
        if task is not None and task.cancelling() > before:
            raise asyncio.CancelledError

    return check


async def _quiet(connection: Any) -> bool:
    """Whether nothing came while it was idle, such as its end. False for a connection that its client has closed."""
    try:
        if not connection.is_connected or must_reconnect(connection):
            return False
        can_read = connection.can_read if hasattr(connection, "can_read") else connection.can_read_destructive
        return not await can_read()
    except (RedisError, OSError):
        return False
