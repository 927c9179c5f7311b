"""NodePool to Redis: how they are made, and how those of one client are lent out."""

from __future__ import annotations

import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.connection import ConnectionPool
from redis.exceptions import ClusterDownError, RedisError, ResponseError
from redis.retry import Retry

from .async_cluster import AsyncCluster
from .cluster import LOST, Cluster, NotConnected
from .connection_slots import ThreadSlots
from .per_process import PerProcess
from .process_client import ProcessClient
from .sentinel import async_primary_of, primary_of
from .urls import RedisTarget, url_and_options
from .versions import OF_POOL, must_reconnect, parser_of

RedisCommand = tuple[Any, ...]  # a command of Redis's: its name and arguments
# As many as a server takes by default: redis-py's own limit refuses a caller at once, where ours lets it wait.
CONNECTIONS = 10_000
# What the sends of one process, or of one event loop, share to one server. More do not make it faster, and a machine
# that is busy with making connections takes that for a server that does not answer.
BOUND = 32
# The same for sends that wait for a disk or a replica: each holds its connection for as long as that takes.
DURABLE_BOUND = 256
MAKING = 8  # connections of one client that are being made at once
SLOW_SECONDS = 0.1  # after which a connection that cannot be made is a server's silence, not its refusal
UNCLUSTERED_URL = "LEVELQ_REDIS_URL: the server is one of a cluster, so expected redis+cluster://, not redis://"


def connect(url: str, seconds: float, **options: Any) -> Redis:
    """A client that waits `seconds` at most and never repeats a call by itself; `options` are redis-py's.

    redis-py repeats up to ten times by default: where only the reply was lost, one push became eleven.
    No connection is made yet. See addresses.py for the URLs. Raises ValueError for one that cannot be read.
    """
    options |= _options(seconds) | {"retry": Retry(NoBackoff(), 0)} | parser_of("redis.cluster")
    place = RedisTarget.read(url)
    if place is None:
        return _client(url, options)
    if place.kind == "cluster":
        return Cluster(place, lambda server: _client(server, options))
    return primary_of(place, _options(seconds) | {"retry": options["retry"]}, options)


def _client(url: str, options: dict[str, Any]) -> Redis:
    server, given = url_and_options(url)
    return ProcessClient(lambda: ConnectionPool.from_url(server, **(options | given)))


def _async_client(url: str, options: dict[str, Any]) -> AsyncRedis:
    server, given = url_and_options(url)
    return AsyncRedis.from_url(server, **(options | given))


def connect_async(url: str, seconds: float) -> AsyncRedis:
    """The same for asyncio."""
    options = _options(seconds) | {"retry": AsyncRetry(NoBackoff(), 0)} | parser_of("redis.asyncio.cluster")
    place = RedisTarget.read(url)
    if place is None:
        return _async_client(url, options)
    if place.kind == "cluster":
        return AsyncCluster(place, lambda server: _async_client(server, options))
    return async_primary_of(place, _options(seconds) | {"retry": options["retry"]}, options)


def _options(seconds: float) -> dict[str, Any]:
    timeouts = {"socket_timeout": seconds, "socket_connect_timeout": seconds}
    return timeouts | {"retry_on_error": [], "max_connections": CONNECTIONS}


class _Idle:
    """One process's idle connections of a client, and the slots that limit how many are used."""

    __slots__ = ("answered_at", "connections", "making", "pool", "slots")

    def __init__(self, redis: Redis, most: int) -> None:
        self.pool: Any = redis.connection_pool
        self.connections: deque[Any] = deque()
        self.slots = ThreadSlots(most)
        self.making = ThreadSlots(MAKING)
        self.answered_at = 0.0  # when the server last answered


class NodePool:
    """The connections of one client, each lent to one caller at a time; for any thread, and after a fork.

    At most `most` are lent at once: who wants another waits for one, without a limit in time, in the order of coming.

    redis-py's pool makes them, counts them, and ends them when the client is closed. Between two calls they wait here:
    giving one back to the pool and taking it again was an eighth of what a send costs.
    """

    def __init__(
        self,
        redis: Redis,
        lost: Callable[[Redis, BaseException], None] | None = None,
        most: int = CONNECTIONS,
    ) -> None:
        self.redis = redis
        self._lost = lost
        self._idle: PerProcess[_Idle] = PerProcess(partial(_Idle, redis, most))
        weakref.finalize(self, _release, self._idle).atexit = False

    def acquire(self) -> Any:
        """A connection that is open, as far as can be seen. Raises NotConnected."""
        idle = self._idle.get()
        idle.slots.acquire()
        try:
            return self._open(idle)
        except BaseException:
            idle.slots.release()
            raise

    def _open(self, idle: _Idle) -> Any:
        while idle.connections:
            try:
                connection = idle.connections.pop()
            except IndexError:  # another thread had the last one
                break
            if _quiet(connection):
                return connection
            _end(idle, connection)
        idle.making.acquire()
        since = time.monotonic()
        try:
            return idle.pool.get_connection(*OF_POOL)
        except Exception as error:
            self._note_loss(error)
            refusal = NotConnected(str(error) or type(error).__name__)
            if idle.answered_at < since < time.monotonic() - SLOW_SECONDS:
                # A silent server: each of those who wait would wait as long, one after the other.
                idle.making.refuse_waiting(refusal)
                idle.slots.refuse_waiting(refusal)
            raise refusal from error
        finally:
            idle.making.release()

    def release(self, connection: Any) -> None:
        """Have a connection back on which every answer was read."""
        idle = self._idle.get()
        idle.answered_at = time.monotonic()
        idle.connections.append(connection)
        idle.slots.release()

    def discard(self, connection: Any) -> None:
        """End a connection: what it says next would be taken for the answer to something else."""
        idle = self._idle.get()
        _end(idle, connection)
        idle.slots.release()

    @contextmanager
    def ended_by_errors(self, connection: Any) -> Iterator[None]:
        """Drop the connection if this block raises, whatever it raises.

        Those at hand go with it if the server is lost: they are as old, and each would have to be found out.
        """
        try:
            yield
        except BaseException as error:
            self.discard(connection)
            self._note_loss(error)
            raise

    def _note_loss(self, error: BaseException) -> None:
        if not isinstance(error, LOST):
            return
        if self._lost is not None:
            self._lost(self.redis, error)
        idle = self._idle.get()
        while idle.connections:
            try:
                connection = idle.connections.pop()
            except IndexError:
                return
            _end(idle, connection)

    @contextmanager
    def connection(self) -> Iterator[Any]:
        """A connection for the length of this block, in which every answer must be heard. Raises NotConnected."""
        connection = self.acquire()
        with self.ended_by_errors(connection):
            yield connection
        self.release(connection)

    @staticmethod
    def send(connection: Any, commands: Sequence[RedisCommand]) -> None:
        """Send commands. redis-py's pipeline would do, for twice the time."""
        connection.send_packed_command(connection.pack_commands(commands))

    def receive(self, connection: Any, name: str = "EVALSHA") -> Any:
        """The next answer, to the command of this name, or Redis's refusal as a value."""
        try:
            return self.redis.parse_response(connection, name)  # type: ignore[no-untyped-call]
        except ResponseError as error:
            if isinstance(error, ClusterDownError) and self._lost is not None:
                self._lost(self.redis, error)
            return error

    def execute(self, connection: Any, commands: Sequence[RedisCommand]) -> list[Any]:
        """Send commands, and hear what is answered or refused to each."""
        self.send(connection, commands)
        return [self.receive(connection, command[0]) for command in commands]


def _end(idle: _Idle, connection: Any) -> None:
    connection.disconnect()
    idle.pool.release(connection)


def _release(idles: PerProcess[_Idle]) -> None:
    """Give all back to the pool."""
    idle = idles.get()
    while idle.connections:
        idle.pool.release(idle.connections.pop())


def _quiet(connection: Any) -> bool:
    """Whether nothing came while it was idle, such as its end. One that its client has closed is opened again."""
    try:
        return not (must_reconnect(connection) or connection.can_read())
    except (RedisError, OSError):
        return False
