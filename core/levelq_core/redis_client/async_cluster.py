"""The cluster for asyncio: what cluster.py is for threads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from redis.asyncio import Redis as AsyncRedis
from redis.exceptions import ClusterDownError, MovedError, RedisError

from .cluster import LOST, REDIRECTIONS, ClusterTopology, NotConnected, key_of
from .slots import Slots
from .urls import Address, RedisTarget


class AsyncCluster(AsyncRedis):
    """One client for all servers; see Cluster."""

    def __init__(self, place: RedisTarget, client: Callable[[str], AsyncRedis]) -> None:
        self._members = ClusterTopology(place, client)
        self._lock = asyncio.Lock()
        super().__init__(connection_pool=self._members.client(place.addresses[0]).connection_pool)

    async def at(self, key: str | bytes) -> AsyncRedis:
        """The server that holds this key. Raises NotConnected, and ConfigurationError if it is no cluster."""
        try:
            return self._members.holder(self._members.slots or await self.ask(None), key)
        except NotConnected:  # once more, with a table that is surely new
            return self._members.holder(await self.ask(self._members.slots), key)

    async def servers(self) -> list[AsyncRedis]:
        """Every primary. Raises NotConnected."""
        slots = self._members.slots or await self.ask(None)
        return [self._members.client(address) for address in slots.addresses]

    async def ask(self, seen: Slots | None) -> Slots:
        """Ask for the table again, unless somebody has since it was `seen`. Raises NotConnected."""
        async with self._lock:
            if self._members.slots is not None and self._members.slots is not seen:
                return self._members.slots
            failed: dict[Address, RedisError] = {}
            for address in self._members.to_ask():
                server: Any = self._members.client(address)
                try:
                    found = self._members.learn(await server.execute_command("CLUSTER", "SLOTS"), address)
                except RedisError as error:
                    failed[address] = error
                else:
                    if found:
                        return found
            raise self._members.discovery_error(failed)

    async def moved(self, error: MovedError) -> None:
        """A server has said who holds a slot now."""
        await self.ask(self._members.slots)
        self._members.moved(error)

    def lost(self, server: AsyncRedis, error: BaseException) -> None:
        """A server does not answer, or not in time, or knows of no cluster that is up."""
        self._members.lost(server, error)

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Send one command to where its key is; one without a key to any server."""
        key = key_of(args)
        for left in reversed(range(REDIRECTIONS)):
            server: Any = (await self.servers())[0] if key is None else await self.at(key)
            try:
                return await server.execute_command(*args, **options)
            except MovedError as error:
                if not left:
                    raise
                await self.moved(error)
            except (*LOST, ClusterDownError) as error:
                self.lost(server, error)
                raise
        return None

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> Any:
        """Not of a cluster: a pipeline goes to one server."""
        raise NotImplementedError("a pipeline goes to one server: at(key).pipeline()")

    @property
    def clients(self) -> list[AsyncRedis]:
        """The plain clients there are so far."""
        return self._members.clients

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        """Give the connections back."""
        for client in self._members.clients:
            await client.aclose(close_connection_pool)
