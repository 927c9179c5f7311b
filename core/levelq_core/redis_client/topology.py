"""The servers behind a client: one, the primary that Sentinels name, or those of a Cluster.

They have one interface, and for asyncio it is AsyncNodePools. Only this package asks which of them it is.
"""

from __future__ import annotations

from typing import Any

from redis import Redis
from redis.exceptions import MovedError

from levelq_core.errors import ConfigurationError

from .cluster import UNCLUSTERED_URL
from .cluster_clients import Cluster


class SingleServer:
    """One server, or the primary that Sentinels name: it holds every key. `Cluster` has the same methods."""

    several_servers = False

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def at(self, key: str | bytes) -> Redis:
        """The client of the server that holds this key."""
        return self._redis

    def servers(self) -> list[Redis]:
        """The client of every server."""
        return [self._redis]

    def moved(self, error: MovedError) -> None:
        """Raise ConfigurationError: the server answered MOVED, but the URL names no cluster."""
        raise ConfigurationError(UNCLUSTERED_URL, setting="LEVELQ_REDIS_URL")

    def lost(self, server: Redis, error: BaseException) -> None:
        """A server is away; there is no other one to turn to."""


Topology = SingleServer | Cluster


def topology_of(redis: Redis) -> Topology:
    """The servers behind a client."""
    return redis if isinstance(redis, Cluster) else SingleServer(redis)


def server_of(redis: Redis, key: str | bytes) -> Redis:
    """The client of the server that holds a key. Raises NotConnected."""
    return topology_of(redis).at(key)


def time_ms(server: Redis) -> int:
    """A server's time in ms. Raises RedisError."""
    return ms_of(server.time())


def ms_of(answer: Any) -> int:
    """What TIME answers, in ms."""
    seconds, microseconds = answer
    return int(seconds) * 1000 + int(microseconds) // 1000


def servers_of(redis: Redis) -> list[Redis]:
    """The client of every server; of a cluster, of every primary. Raises NotConnected."""
    return topology_of(redis).servers()


def address_of(server: Redis) -> str:
    """Host and port of one server of a cluster, as the cluster names them."""
    named = server.connection_pool.connection_kwargs
    return f"{named['host']}:{named['port']}"


def hosts_of(redis: Redis) -> list[str]:
    """The hosts of the servers, as the cluster or the Sentinels name them. Raises RedisError."""
    pools: list[Any] = [server.connection_pool for server in servers_of(redis)]
    return [
        pool.get_master_address()[0] if hasattr(pool, "get_master_address") else pool.connection_kwargs["host"]
        for pool in pools
    ]
