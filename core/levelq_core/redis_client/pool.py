"""Clients of Redis from URLs, and pools that lend the connections of one client to one caller at a time."""

from __future__ import annotations

import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.connection import ConnectionPool
from redis.exceptions import ClusterDownError, RedisError, ResponseError
from redis.retry import Retry

from .cluster import LOST, NotConnected
from .cluster_clients import AsyncCluster, Cluster
from .connection_slots import TaskSlots, ThreadSlots
from .per_process import PerProcess
from .process_client import ProcessClient
from .sentinel import async_primary_of, primary_of
from .urls import RedisTarget, url_and_options
from .versions import OF_POOL, must_reconnect, parser_of

RedisCommand = tuple[Any, ...]  # the name of a command and its arguments
# As many as a server takes by default. At its own limit redis-py refuses a caller at once; this pool lets it wait.
CONNECTIONS = 10_000
# What the sends of one process, or of one event loop, share to one server. More do not make it faster, and a machine
# that is busy connecting mistakes that for a server that does not answer.
BOUND = 32
MAKING = 8  # connections of one client that are being made at once
SLOW_SECONDS = 0.1  # a connection that fails later than this failed because the server is silent
S = TypeVar("S", ThreadSlots, TaskSlots)


def connect(url: str, seconds: float, **options: Any) -> Redis:
    """A client that waits `seconds` at most and repeats no call; `options` are redis-py's.

    By default redis-py repeats up to ten times: one push whose reply was lost became eleven.
    No connection is made yet. See urls.py for the URLs. Raises ValueError for one that cannot be read.
    """
    options |= _options(seconds, Retry(NoBackoff(), 0)) | parser_of("redis.cluster")
    client: Redis = _client(url, options, _server_client, Cluster, primary_of)
    return client


def connect_async(url: str, seconds: float) -> AsyncRedis:
    """The same for asyncio."""
    options = _options(seconds, AsyncRetry(NoBackoff(), 0)) | parser_of("redis.asyncio.cluster")
    client: AsyncRedis = _client(url, options, _async_server_client, AsyncCluster, async_primary_of)
    return client


def _options(seconds: float, retry: Any) -> dict[str, Any]:
    timeouts = {"socket_timeout": seconds, "socket_connect_timeout": seconds}
    return timeouts | {"retry_on_error": [], "max_connections": CONNECTIONS, "retry": retry}


def _client(url: str, options: dict[str, Any], server_client: Any, cluster: Any, primary: Any) -> Any:
    target = RedisTarget.read(url)
    if target is None:
        return server_client(url, options)
    if target.kind == "cluster":
        return cluster(target, lambda server: server_client(server, options))
    return primary(target, options)


def _server_client(url: str, options: dict[str, Any]) -> Redis:
    server, given = url_and_options(url)
    return ProcessClient(lambda: ConnectionPool.from_url(server, **(options | given)))


def _async_server_client(url: str, options: dict[str, Any]) -> AsyncRedis:
    server, given = url_and_options(url)
    return AsyncRedis.from_url(server, **(options | given))


class PoolState(Generic[S]):
    """The idle connections of a client in one process or on one loop, and the slots that limit how many are used."""

    def __init__(self, redis: Redis | AsyncRedis, make_slots: Callable[[int], S], most: int) -> None:
        self.pool: Any = redis.connection_pool
        self.connections: deque[Any] = deque()
        self.slots: S = make_slots(most)
        self.making: S = make_slots(MAKING)
        self.answered_at = 0.0  # when the server last answered

    def refused(self, error: Exception, since: float) -> NotConnected:
        """The error to raise for a connection that could not be made `since` then.

        If the server is silent, all waiting callers are refused: each would wait as long, one after another.
        """
        refusal = NotConnected(str(error) or type(error).__name__)
        if self.answered_at < since < time.monotonic() - SLOW_SECONDS:
            self.making.refuse_waiting(refusal)
            self.slots.refuse_waiting(refusal)
        return refusal


class NodePool:
    """The connections of one client, each lent to one caller at a time; for any thread, and after a fork.

    At most `most` are lent at once. Further callers wait in order, without a limit in time. `lost` is called with the
    client and the error when its server is away.

    redis-py's pool makes the connections, counts them, and ends them when the client is closed. Idle ones wait here:
    to give one back to that pool and take it again costs an eighth of a send.
    """

    def __init__(
        self,
        redis: Redis,
        lost: Callable[[Redis, BaseException], None] = lambda redis, error: None,
        most: int = CONNECTIONS,
    ) -> None:
        self.redis = redis
        self._lost = lost
        self.closed = False  # once closed, each connection ends with the call that uses it
        self._state: PerProcess[PoolState[ThreadSlots]] = PerProcess(lambda: PoolState(redis, ThreadSlots, most))
        weakref.finalize(self, _return_idle, self._state).atexit = False

    def acquire(self) -> Any:
        """A connection that is open, as far as can be seen. Raises NotConnected."""
        state = self._state.get()
        state.slots.acquire()
        try:
            return _idle(state) or self._connect(state)
        except BaseException:
            state.slots.release()
            raise

    def _connect(self, state: PoolState[ThreadSlots]) -> Any:
        state.making.acquire()
        since = time.monotonic()
        try:
            return state.pool.get_connection(*OF_POOL)
        except Exception as error:
            self._note_loss(error)
            raise state.refused(error, since) from error
        finally:
            state.making.release()

    def release(self, connection: Any) -> None:
        """Take back a connection on which every reply was read."""
        if self.closed:
            self.discard(connection)
            return
        state = self._state.get()
        state.answered_at = time.monotonic()
        state.connections.append(connection)
        state.slots.release()

    def discard(self, connection: Any) -> None:
        """Close a connection on which a reply may still come, which would be taken for the reply to another call."""
        state = self._state.get()
        _end(state, connection)
        state.slots.release()

    @contextmanager
    def ended_by_errors(self, connection: Any) -> Iterator[None]:
        """Close the connection if this block raises anything."""
        try:
            yield
        except BaseException as error:
            self.discard(connection)
            self._note_loss(error)
            raise

    def _note_loss(self, error: BaseException) -> None:
        """If the server is gone, drop idle connections too: they would all fail."""
        if isinstance(error, LOST):
            self._lost(self.redis, error)
            state = self._state.get()
            while (connection := _pop(state)) is not None:
                _end(state, connection)

    @contextmanager
    def connection(self) -> Iterator[Any]:
        """A connection for the length of this block, in which every reply must be read. Raises NotConnected."""
        connection = self.acquire()
        with self.ended_by_errors(connection):
            yield connection
        self.release(connection)

    @staticmethod
    def send(connection: Any, commands: Sequence[RedisCommand]) -> None:
        """Send commands. redis-py's pipeline takes twice the time."""
        connection.send_packed_command(connection.pack_commands(commands))

    def receive(self, connection: Any, name: str = "EVALSHA") -> Any:
        """The next reply, to the command of this name; an error that Redis replied is returned."""
        try:
            return self.redis.parse_response(connection, name)  # type: ignore[no-untyped-call]
        except ResponseError as error:
            if isinstance(error, ClusterDownError):
                self._lost(self.redis, error)
            return error

    def execute(self, connection: Any, commands: Sequence[RedisCommand]) -> list[Any]:
        """Send commands, and return the reply or the error to each."""
        self.send(connection, commands)
        return [self.receive(connection, command[0]) for command in commands]


def _pop(state: PoolState[ThreadSlots]) -> Any | None:
    try:
        return state.connections.pop()
    except IndexError:
        return None


def _idle(state: PoolState[ThreadSlots]) -> Any | None:
    while (connection := _pop(state)) is not None:
        if _quiet(connection):
            return connection
        _end(state, connection)
    return None


def _end(state: PoolState[ThreadSlots], connection: Any) -> None:
    connection.disconnect()
    state.pool.release(connection)


def _return_idle(states: PerProcess[PoolState[ThreadSlots]]) -> None:
    state = states.get()
    while (connection := _pop(state)) is not None:
        state.pool.release(connection)


def _quiet(connection: Any) -> bool:
    """Whether nothing came while it was idle, such as its end. If its client has closed it, this opens it again."""
    try:
        return not (must_reconnect(connection) or connection.can_read())
    except (RedisError, OSError):
        return False
