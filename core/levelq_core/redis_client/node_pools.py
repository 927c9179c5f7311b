"""The pools of connections to the servers behind a client."""

from __future__ import annotations

from redis import Redis
from redis.exceptions import MovedError

from .pool import CONNECTIONS, NodePool
from .topology import topology_of


class NodePools:
    """One NodePool for each server behind a client, `most` connections in each.

    `only`: the pool of the only server; None if there are several.
    """

    def __init__(self, redis: Redis, most: int = CONNECTIONS) -> None:
        self._topology = topology_of(redis)
        self._most = most
        self._pools: dict[Redis, NodePool] = {}
        self._closed = False
        self.only = None if self._topology.several_servers else self._pool(redis)

    def _pool(self, server: Redis) -> NodePool:
        if server not in self._pools:
            pool = self._pools.setdefault(server, NodePool(server, self._topology.lost, self._most))
            pool.closed = self._closed
        return self._pools[server]

    def close(self) -> None:
        """Keep no connection from now on. Calls under way go on, and may open some, which they end."""
        self._closed = True
        for pool in list(self._pools.values()):
            pool.closed = True

    def at(self, key: str) -> NodePool:
        """The pool of the server that holds this key. Raises NotConnected."""
        return self.only or self._pool(self._topology.at(key))

    def all(self) -> list[NodePool]:
        """The pool of every server. Raises NotConnected."""
        return [self._pool(server) for server in self._topology.servers()]

    def moved(self, error: MovedError) -> None:
        """Note a MOVED reply: another server holds a key. Raises ConfigurationError outside a cluster."""
        self._topology.moved(error)
