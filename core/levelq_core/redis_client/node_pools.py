"""Whose connections to take for a key: those of the only server, or those of one of a cluster's."""

from __future__ import annotations

from redis import Redis
from redis.exceptions import MovedError

from levelq_core.errors import ConfigurationError

from .cluster import Cluster
from .pool import CONNECTIONS, UNCLUSTERED_URL, NodePool


class NodePools:
    """The connections to whatever server holds a key: to the only one, or to those of a cluster; `most` to each."""

    def __init__(self, redis: Redis, most: int = CONNECTIONS) -> None:
        self._cluster = redis if isinstance(redis, Cluster) else None
        self._most = most
        self.only = None if isinstance(redis, Cluster) else NodePool(redis, most=most)
        self._of: dict[Redis, NodePool] = {}

    def at(self, key: str) -> NodePool:
        """Those to the server of this key. Raises NotConnected."""
        if self.only is not None:
            return self.only
        assert self._cluster is not None
        return self._at(self._cluster.at(key))

    def _at(self, server: Redis) -> NodePool:
        assert self._cluster is not None
        if server not in self._of:
            self._of.setdefault(server, NodePool(server, self._cluster.lost, self._most))
        return self._of[server]

    def all(self) -> list[NodePool]:
        """Those to every server. Raises NotConnected."""
        if self.only is not None:
            return [self.only]
        assert self._cluster is not None
        return [self._at(server) for server in self._cluster.servers()]

    def moved(self, error: MovedError) -> None:
        """A server has said that a key is another's. Raises ConfigurationError if we knew of no other."""
        if self._cluster is None:
            raise ConfigurationError(UNCLUSTERED_URL)
        self._cluster.moved(error)
