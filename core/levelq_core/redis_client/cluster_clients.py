"""A cluster as one client, for threads and for asyncio: each command goes to the server that holds its key."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from redis.exceptions import ClusterDownError, MovedError, RedisError

from .cluster import LOST, REDIRECTIONS, ClusterTopology, NotConnected, Slots, key_of
from .per_process import PerProcess
from .urls import Address, RedisTarget


class Cluster(Redis):
    """The client for threads. `at(key)` is the plain client of one server, for what is more than a command."""

    several_servers = True

    def __init__(self, target: RedisTarget, make_client: Callable[[str], Redis]) -> None:
        self._topology = ClusterTopology(target, make_client)
        self._locks = PerProcess(threading.Lock)
        super().__init__(connection_pool=self._topology.client(target.addresses[0]).connection_pool)

    def at(self, key: str | bytes) -> Redis:
        """The server that holds this key. Raises NotConnected, and ConfigurationError if it is no cluster."""
        try:
            return self._topology.holder(self._slots(), key)
        except NotConnected:  # once more, with a new table
            return self._topology.holder(self._discover(self._topology.slots), key)

    def servers(self) -> list[Redis]:
        """Every primary. Raises NotConnected."""
        return [self._topology.client(address) for address in self._slots().addresses]

    def _slots(self) -> Slots:
        return self._topology.slots or self._discover(None)

    def _discover(self, seen: Slots | None) -> Slots:
        """Ask for the table of slots, unless another thread has since this one was `seen`. Raises NotConnected."""
        with self._locks.get():
            slots = self._topology.slots  # read once: another thread may forget it at any time
            if slots is not None and slots is not seen:
                return slots
            errors: dict[Address, RedisError] = {}
            for address in self._topology.candidates():
                server: Any = self._topology.client(address)
                try:
                    if slots := self._topology.learn(server.execute_command("CLUSTER", "SLOTS"), address):
                        return slots
                except RedisError as error:
                    errors[address] = error
            raise self._topology.discovery_error(errors)

    def moved(self, error: MovedError) -> None:
        """Note a MOVED reply: it names the server that holds a slot now."""
        self._discover(self._topology.slots)
        self._topology.moved(error)

    def lost(self, server: Redis, error: BaseException) -> None:
        """A server is away, does not answer in time, or is in no cluster that is up."""
        self._topology.lost(server, error)

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Send a command to the server of its key, or to any server if it has none."""
        key = key_of(args)
        for attempts_left in reversed(range(REDIRECTIONS)):
            server: Any = self.servers()[0] if key is None else self.at(key)
            try:
                return server.execute_command(*args, **options)
            except MovedError as error:
                if not attempts_left:
                    raise
                self.moved(error)
            except (*LOST, ClusterDownError) as error:
                self.lost(server, error)
                raise
        return None

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> Any:
        """Not available: a pipeline goes to one server."""
        raise NotImplementedError("a pipeline goes to one server: at(key).pipeline()")

    def close(self) -> None:
        """Close the connections."""
        for client in self._topology.clients:
            client.close()


class AsyncCluster(AsyncRedis):
    """The clients of a cluster's servers for asyncio; see Cluster. It sends no commands itself: node pools do."""

    def __init__(self, target: RedisTarget, make_client: Callable[[str], AsyncRedis]) -> None:
        self._topology = ClusterTopology(target, make_client)
        self._lock = asyncio.Lock()
        super().__init__(connection_pool=self._topology.client(target.addresses[0]).connection_pool)

    async def at(self, key: str | bytes) -> AsyncRedis:
        """The server that holds this key. Raises NotConnected, and ConfigurationError if it is no cluster."""
        try:
            return self._topology.holder(await self._slots(), key)
        except NotConnected:
            return self._topology.holder(await self._discover(self._topology.slots), key)

    async def servers(self) -> list[AsyncRedis]:
        """Every primary. Raises NotConnected."""
        return [self._topology.client(address) for address in (await self._slots()).addresses]

    async def _slots(self) -> Slots:
        return self._topology.slots or await self._discover(None)

    async def _discover(self, seen: Slots | None) -> Slots:
        async with self._lock:
            slots = self._topology.slots
            if slots is not None and slots is not seen:
                return slots
            errors: dict[Address, RedisError] = {}
            for address in self._topology.candidates():
                server: Any = self._topology.client(address)
                try:
                    if slots := self._topology.learn(await server.execute_command("CLUSTER", "SLOTS"), address):
                        return slots
                except RedisError as error:
                    errors[address] = error
            raise self._topology.discovery_error(errors)

    async def moved(self, error: MovedError) -> None:
        """Note a MOVED reply: it names the server that holds a slot now."""
        await self._discover(self._topology.slots)
        self._topology.moved(error)

    def lost(self, server: AsyncRedis, error: BaseException) -> None:
        """A server is away, does not answer in time, or is in no cluster that is up."""
        self._topology.lost(server, error)

    @property
    def clients(self) -> list[AsyncRedis]:
        """The clients of single servers made so far."""
        return self._topology.clients

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Not available."""
        raise NotImplementedError("a command goes to one server: (await at(key)).execute_command()")

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        """Close the connections."""
        for client in self._topology.clients:
            await client.aclose(close_connection_pool)
