"""Who calls the lanes' scripts: the connections to each server, the protocol and the names of the keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from redis import Redis
from redis.asyncio import Redis as AsyncRedis

from levelq_core.redis_client.async_pool import AsyncNodePools
from levelq_core.redis_client.node_pools import NodePools
from levelq_core.redis_client.pool import CONNECTIONS

from .pending_reply import PendingReply
from .protocol import Protocol
from .script_files import Call

if TYPE_CHECKING:
    from levelq_core.settings import Settings

T = TypeVar("T")


class ScriptCaller:
    """Runs scripts on the server that holds their partition. Raises redis-py's errors; a call is never repeated.

    At most `connections` to one server are used at once. A caller who wants another waits for one.
    """

    def __init__(self, redis: Redis, settings: Settings, *, connections: int = CONNECTIONS) -> None:
        self.redis = redis
        self.keys = settings.keys
        self._pools = NodePools(redis, connections)
        self._settings = settings
        self._protocol = Protocol(settings)

    @property
    def several_servers(self) -> bool:
        """Whether partitions may be on different servers."""
        return self._pools.only is None

    def close(self) -> None:
        """Keep no connection from now on; the client is the caller's to close."""
        self._pools.close()

    def _begin(self, call: Call, meaning: Callable[[Any], T]) -> PendingReply[T]:
        return PendingReply(self._pools, call, meaning)

    def _run(self, call: Call) -> Any:
        return self._begin(call, lambda reply: reply).result()


class AsyncScriptCaller:
    """The same for one event loop, where scripts are only pushed."""

    def __init__(self, redis: AsyncRedis, settings: Settings, *, connections: int = CONNECTIONS) -> None:
        self.redis = redis
        self._pools = AsyncNodePools(redis, connections)
        self._settings = settings
        self._protocol = Protocol(settings)

    @property
    def several_servers(self) -> bool:
        """Whether partitions may be on different servers."""
        return self._pools.only is None

    def close(self) -> None:
        """Keep no connection from now on; the client is the caller's to close."""
        self._pools.close()
