"""The answer to a script call that was sent: to be heard while Redis is at it, or later."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from redis.exceptions import MovedError, NoScriptError, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from levelq_core.redis_client.cluster import REDIRECTIONS
from levelq_core.redis_client.node_pools import NodePools

from .script_files import Call

T = TypeVar("T")
_NOT_YET: Any = object()


class PendingReply(Generic[T]):
    """The answer to a call that was sent: Redis is at it while the caller does something else.

    To be read or dropped, once; until then it holds a connection.
    """

    def __init__(self, pools: NodePools, call: Call, meaning: Callable[[Any], T]) -> None:
        self._pools = pools
        self._call = call
        self._meaning = meaning
        self._taken_in = _NOT_YET
        self._failure: Exception | None = None  # of taking in
        self._send()

    def _send(self) -> None:
        self._connections = self._pools.at(self._call.key)
        self._connection = self._connections.acquire()
        with self._connections.ended_by_errors(self._connection):
            self._connections.send(self._connection, [self._call.command()])

    def poll(self) -> bool:
        """Take in what has come so far; whether that is all of it, if only that the connection is lost.

        A server sends a long answer 64 KiB at a time, and the next of it when some was read and no script is running:
        read in one go, that of a claim of a thousand lanes was waited for a tenth of a batch's time.
        """
        if self._taken_in is _NOT_YET and self._failure is None:
            try:
                self._taken_in = self._connections.receive_now(self._connection)
            except RedisTimeoutError:
                return False
            except (RedisError, OSError) as error:
                self._failure = error
        return True

    def result(self) -> T:
        """Wait for it. Raises redis-py's errors; unless Redis refused it, the call may have been done."""
        reply = self._hear()
        for _ in range(REDIRECTIONS):
            if not isinstance(reply, MovedError):
                break
            self._pools.moved(reply)
            self._send()
            reply = self._hear()
        if isinstance(reply, RedisError):
            raise reply
        return self._meaning(reply)

    def _hear(self) -> Any:
        with self._connections.ended_by_errors(self._connection):
            if self._failure is not None:
                raise self._failure
            reply, self._taken_in = self._taken_in, _NOT_YET
            if reply is _NOT_YET:
                reply = self._connections.receive(self._connection)
            if isinstance(reply, NoScriptError):  # nothing ran; after a restart the server knows no scripts
                source = self._call.command(known=False)
                (reply,) = self._connections.execute(self._connection, [source])
        self._connections.release(self._connection)
        return reply

    def cancel(self) -> None:
        """Go without it."""
        self._connections.discard(self._connection)
