"""Connections to Redis: how they are made, and how those of one client are lent out."""

from __future__ import annotations

import os
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError
from redis.retry import Retry

Question = tuple[Any, ...]  # a command of Redis's: its name and arguments
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


class NotReached(RedisConnectionError):
    """There was no connection to be had, so certainly nothing was sent."""


class Connections:
    """The connections of one client, each lent to one caller at a time; for any thread, and after a fork.

    redis-py's pool makes them, counts them, and ends them when the client is closed. Between two calls they wait here:
    giving one back to the pool and taking it again was an eighth of what a send costs.
    """

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._pool: Any = redis.connection_pool
        self._idle: deque[Any] = deque()
        self._pid = os.getpid()
        weakref.finalize(self, _release, self._pool, self._idle).atexit = False

    def take(self) -> Any:
        """A connection that is open, as far as can be seen. Raises NotReached."""
        if self._pid != os.getpid():  # those were our parent's, who still talks on them
            self._idle.clear()
            self._pid = os.getpid()
        while self._idle:
            try:
                connection = self._idle.pop()
            except IndexError:  # another thread had the last one
                break
            if _quiet(connection):
                return connection
            self.drop(connection)
        try:
            return self._pool.get_connection()
        except RedisError as error:
            raise NotReached(str(error)) from error

    def give(self, connection: Any) -> None:
        """Have a connection back on which every answer was read."""
        self._idle.append(connection)

    def drop(self, connection: Any) -> None:
        """End a connection: what it says next would be taken for the answer to something else."""
        connection.disconnect()
        self._pool.release(connection)

    @contextmanager
    def ended_by_errors(self, connection: Any) -> Iterator[None]:
        """Drop the connection if this block raises, whatever it raises."""
        try:
            yield
        except BaseException:
            self.drop(connection)
            raise

    @contextmanager
    def lent(self) -> Iterator[Any]:
        """A connection for the length of this block, in which every answer must be heard. Raises NotReached."""
        connection = self.take()
        with self.ended_by_errors(connection):
            yield connection
        self.give(connection)

    @staticmethod
    def say(connection: Any, commands: Sequence[Question]) -> None:
        """Send commands. redis-py's pipeline would do, for twice the time."""
        connection.send_packed_command(connection.pack_commands(commands))

    def hear(self, connection: Any, name: str = "EVALSHA") -> Any:
        """The next answer, to the command of this name, or Redis's refusal as a value."""
        try:
            return self._redis.parse_response(connection, name)  # type: ignore[no-untyped-call]
        except ResponseError as error:
            return error

    def exchange(self, connection: Any, commands: Sequence[Question]) -> list[Any]:
        """Send commands, and hear what is answered or refused to each."""
        self.say(connection, commands)
        return [self.hear(connection, command[0]) for command in commands]


def _release(pool: Any, idle: deque[Any]) -> None:
    """Give all back to the pool."""
    while idle:
        pool.release(idle.pop())


def _quiet(connection: Any) -> bool:
    """Whether nothing came while it was idle, such as its end. One that its client has closed is opened again."""
    try:
        return not (connection.should_reconnect() or connection.can_read())
    except (RedisError, OSError):
        return False
