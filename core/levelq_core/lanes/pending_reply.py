"""The reply to a script call that was sent: the caller receives it when it has done something else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from redis.exceptions import MovedError, NoScriptError, RedisError

from levelq_core.redis_client.cluster import REDIRECTIONS
from levelq_core.redis_client.node_pools import NodePools

from .script_files import Call

T = TypeVar("T")


class PendingReply(Generic[T]):
    """The reply to a call, which is sent here. Call `result` or `cancel`, once; until then it holds a connection."""

    def __init__(self, pools: NodePools, call: Call, meaning: Callable[[Any], T]) -> None:
        self._pools = pools
        self._call = call
        self._meaning = meaning
        self._send()

    def _send(self) -> None:
        self._connections = self._pools.at(self._call.key)
        self._connection = self._connections.acquire()
        with self._connections.ended_by_errors(self._connection):
            self._connections.send(self._connection, [self._call.command()])

    def result(self) -> T:
        """Wait for it. Raises redis-py's errors; unless Redis refused it, the call may have been done."""
        reply = self._receive()
        for _ in range(REDIRECTIONS):
            if not isinstance(reply, MovedError):
                break
            self._pools.moved(reply)
            self._send()
            reply = self._receive()
        if isinstance(reply, RedisError):
            raise reply
        return self._meaning(reply)

    def _receive(self) -> Any:
        with self._connections.ended_by_errors(self._connection):
            reply = self._connections.receive(self._connection)
            if isinstance(reply, NoScriptError):  # nothing ran; after a restart the server knows no scripts
                source = self._call.command(known=False)
                (reply,) = self._connections.execute(self._connection, [source])
        self._connections.release(self._connection)
        return reply

    def cancel(self) -> None:
        """Discard the reply."""
        self._connections.discard(self._connection)
