"""NodePool to Redis for asyncio: those of one client on one loop, each lent to one task at a time."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Self

from redis.asyncio import Redis as AsyncRedis
from redis.exceptions import ClusterDownError, MovedError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from levelq_core.errors import ConfigurationError

from .async_cluster import AsyncCluster
from .cluster import LOST, NotConnected
from .connection_slots import ConnectionSlots
from .pool import CONNECTIONS, MAKING, SLOW_SECONDS, UNCLUSTERED_URL, RedisCommand
from .versions import OF_POOL, must_reconnect

_ATTEMPTS = 4  # to connect from a loop that is late
_LOOK_SECONDS = 0.05  # between two looks at how late a loop is
Waiting = asyncio.Future[Exception | None]  # its result: None for a slot, or why there is none


class _TaskSlots:
    """What ThreadSlots is for threads, for the tasks of one loop."""

    def __init__(self, most: int) -> None:
        self._slots: ConnectionSlots[Waiting] = ConnectionSlots(most)

    async def acquire(self) -> None:
        """Wait for a slot, without a limit in time. Raises what `refuse_waiting` was given."""
        if self._slots.acquire():
            return
        waiting: Waiting = asyncio.get_running_loop().create_future()
        self._slots.enqueue(waiting)
        try:
            refusal = await waiting
        except BaseException:
            queued = self._slots.withdraw(waiting)
            if not queued and waiting.done() and not waiting.cancelled() and waiting.result() is None:
                self.release()  # the slot had been given to this task
            raise
        if refusal is not None:
            raise refusal

    def release(self) -> None:
        """Free a slot."""
        while (waiting := self._slots.release()) is not None:
            if not waiting.done():  # else its task is cancelled
                waiting.set_result(None)
                return

    def refuse_waiting(self, refusal: Exception) -> None:
        """Raise this in every task that waits now."""
        for waiting in self._slots.refuse_waiting():
            if not waiting.done():
                waiting.set_result(refusal)


class _Lateness:
    """How many seconds late, at most, the loop ran what was due while this block ran."""

    def __init__(self) -> None:
        self.most = 0.0
        self._loop = asyncio.get_running_loop()

    def __enter__(self) -> Self:
        self._schedule()
        return self

    def _schedule(self) -> None:
        self._due = self._loop.time() + _LOOK_SECONDS
        self._timer = self._loop.call_at(self._due, self._look)

    def _look(self) -> None:
        self.most = max(self.most, self._loop.time() - self._due)
        self._schedule()

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()


class AsyncNodePool:
    """What NodePool is for threads. A task that is cancelled ends its connection, so no answer is left on one."""

    def __init__(
        self,
        redis: AsyncRedis,
        lost: Callable[[AsyncRedis, BaseException], None] | None = None,
        most: int = CONNECTIONS,
    ) -> None:
        self.redis = redis
        self._lost = lost
        self.closed = False  # once it is, each connection ends with the call that uses it
        self._pool: Any = redis.connection_pool
        self._idle: deque[Any] = deque()
        self._slots = _TaskSlots(most)
        self._making = _TaskSlots(MAKING)
        self._answered_at = 0.0

    async def acquire(self) -> Any:
        """A connection that is open, as far as can be seen. Raises NotConnected."""
        await self._slots.acquire()
        try:
            return await self._open()
        except BaseException:
            self._slots.release()
            raise

    async def _open(self) -> Any:
        while self._idle:
            connection = self._idle.pop()
            if await _quiet(connection):
                return connection
            await self._end(connection)
        await self._making.acquire()
        try:
            return await self._connect()
        finally:
            self._making.release()

    async def _connect(self) -> Any:
        """A new connection. If the time ran out while the loop was late, that says nothing of the server: try again."""
        attempts = _ATTEMPTS
        while True:
            attempts -= 1
            since = time.monotonic()
            with _Lateness() as lateness:
                try:
                    return await self._pool.get_connection(*OF_POOL)
                except Exception as error:
                    if isinstance(error, RedisTimeoutError) and lateness.most > SLOW_SECONDS and attempts:
                        continue
                    self.note_loss(error)
                    refusal = NotConnected(str(error) or type(error).__name__)
                    if self._answered_at < since < time.monotonic() - SLOW_SECONDS:
                        self._making.refuse_waiting(refusal)
                        self._slots.refuse_waiting(refusal)
                    raise refusal from error

    async def _end(self, connection: Any) -> None:
        with suppress(Exception):
            await connection.disconnect(nowait=True)
        await self._pool.release(connection)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Any]:
        """A connection for the length of this block, in which every answer must be read. Raises NotConnected."""
        connection = await self.acquire()
        try:
            yield connection
        except BaseException as error:
            self.note_loss(error)
            try:
                await self._end(connection)
            finally:
                self._slots.release()
            raise
        self._answered_at = time.monotonic()
        try:
            if self.closed:
                await self._end(connection)
            else:
                self._idle.append(connection)
        finally:
            self._slots.release()

    def note_loss(self, error: BaseException | None) -> None:
        """Tell the cluster that this server was lost, if that is what the error says."""
        if self._lost is not None and isinstance(error, (*LOST, ClusterDownError)):
            self._lost(self.redis, error)

    @staticmethod
    async def send(connection: Any, commands: Sequence[RedisCommand]) -> None:
        """Send commands."""
        task = asyncio.current_task()
        before = 0 if task is None else task.cancelling()
        await connection.send_packed_command(connection.pack_commands(commands))
        # redis-py sends within asyncio.wait_for, which before Python 3.12 may swallow a cancellation.
        if task is not None and task.cancelling() > before:
            raise asyncio.CancelledError

    async def receive(self, connection: Any, name: str) -> Any:
        """The next answer, to the command of this name, or Redis's refusal as a value."""
        try:
            return await self.redis.parse_response(connection, name)
        except ResponseError as error:
            self.note_loss(error)  # CLUSTERDOWN
            return error

    async def execute(self, connection: Any, commands: Sequence[RedisCommand]) -> list[Any]:
        """Send commands, and read what is answered or refused to each."""
        await self.send(connection, commands)
        return [await self.receive(connection, command[0]) for command in commands]


class AsyncNodePools:
    """The connections to each server of a cluster, or to the only server; what NodePools is for threads."""

    def __init__(self, redis: AsyncRedis, most: int = CONNECTIONS) -> None:
        self._cluster = redis if isinstance(redis, AsyncCluster) else None
        self._most = most
        self.only = None if isinstance(redis, AsyncCluster) else AsyncNodePool(redis, most=most)
        self._of: dict[AsyncRedis, AsyncNodePool] = {}
        self._closed = False

    def close(self) -> None:
        """Keep no connection from now on. Calls under way go on, and may open some, which they end."""
        self._closed = True
        for connections in [*self._of.values(), *([self.only] if self.only else [])]:
            connections.closed = True

    async def at(self, key: str) -> AsyncNodePool:
        """Those to the server of this key. Raises NotConnected, and ConfigurationError if it is no cluster."""
        if self._cluster is None:
            assert self.only is not None
            return self.only
        return self._at(self._cluster, await self._cluster.at(key))

    def _at(self, cluster: AsyncCluster, server: AsyncRedis) -> AsyncNodePool:
        if server not in self._of:
            self._of[server] = AsyncNodePool(server, cluster.lost, self._most)
            self._of[server].closed = self._closed
        return self._of[server]

    async def all(self) -> list[AsyncNodePool]:
        """Those to every server. Raises NotConnected."""
        if self._cluster is None:
            assert self.only is not None
            return [self.only]
        return [self._at(self._cluster, server) for server in await self._cluster.servers()]

    async def moved(self, error: MovedError) -> None:
        """A server has said that a key is another's. Raises ConfigurationError if we knew of no other."""
        if self._cluster is None:
            raise ConfigurationError(UNCLUSTERED_URL)
        await self._cluster.moved(error)


async def _quiet(connection: Any) -> bool:
    """Whether nothing came while it was idle, such as its end. One that its client has closed is opened again."""
    try:
        if not connection.is_connected or must_reconnect(connection):
            return False
        look = connection.can_read if hasattr(connection, "can_read") else connection.can_read_destructive
        return not await look()
    except (RedisError, OSError):
        return False
