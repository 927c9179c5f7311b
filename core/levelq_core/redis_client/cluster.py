"""A Redis or Valkey Cluster as one client: each command goes to the server that holds its key.

redis-py has a client for clusters, too. This one does what levelq rests on and that one does not: it is made
without a connection, it never repeats a command that may have run, and its servers are plain clients whose
connections Lanes can lend. A command is sent again only where it was answered MOVED: then nothing ran.

Slots must move as a whole (CLUSTER MIGRATESLOTS of Valkey 9): while their keys are moved one by one, a script may
find some here and some there, and stops midway.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from redis.exceptions import ClusterDownError, MovedError, RedisError, TimeoutError
from redis.exceptions import ConnectionError as RedisConnectionError

from levelq_core.errors import ConfigurationError

from .per_process import PerProcess
from .slots import Slots
from .urls import Address, RedisTarget

SILENT_SECONDS = 1.0  # for which a server that was silent is not asked again
REDIRECTIONS = 5  # of one command, before its last MOVED is an error: a slot moves once in a while
LOST = (RedisConnectionError, TimeoutError)
_KEY = re.compile(r"[a-z][a-z0-9_-]{0,31}:")
_KEY_BYTES = re.compile(_KEY.pattern.encode())
C = TypeVar("C", bound=Redis | AsyncRedis)


class NotConnected(RedisConnectionError):
    """There was no connection to be had, so certainly nothing was sent."""


def as_lost(error: Exception) -> RedisError:
    """Any failure of an exchange as one of Redis's: whatever it was, it is unknown what the server did."""
    if isinstance(error, RedisError):
        return error
    lost = RedisConnectionError(f"{type(error).__name__}: {error}")
    lost.__cause__ = error
    return lost


class ClusterTopology(Generic[C]):
    """The servers of a cluster: a client for each, and the table of who holds what. It asks nobody itself."""

    def __init__(self, place: RedisTarget, client: Callable[[str], C]) -> None:
        self._place = place
        self._client = client
        self._clients: dict[Address, C] = {}
        self._asking = list(place.addresses)  # whom to ask for the table, in turn
        self._told_by: Address | None = None
        self._silent: dict[C, float] = {}
        self.slots: Slots | None = None

    def client(self, address: Address) -> C:
        """The client of one server."""
        if address not in self._clients:
            self._clients.setdefault(address, self._client(self._place.url_of(address)))
        return self._clients[address]

    @property
    def clients(self) -> list[C]:
        """Those there are so far."""
        return list(self._clients.values())

    def to_ask(self) -> list[Address]:
        """Whom to ask for the table: who was known last, and who is in the URL."""
        known = self.slots.addresses if self.slots else []
        self._asking = list(dict.fromkeys((*self._asking, *known, *self._place.addresses)))
        return self._asking

    def learn(self, reply: Any, asked: Address) -> Slots | None:
        """Take the table of a server; None if it knows of no slot, as after a reset."""
        found = Slots.read(reply, asked)
        if found.addresses:
            self.slots, self._told_by = found, asked
            return found
        return None

    def holder(self, slots: Slots, key: str | bytes) -> C:
        """The client of the server that holds a key. Raises NotConnected if there is none."""
        address = slots.holder(key)
        if address is None:
            raise NotConnected("no server of the cluster holds the slot of this key")
        client = self.client(address)
        if self._silent and self._silent.get(client, 0) > time.monotonic():
            raise NotConnected(f"{address} did not answer a moment ago")
        return client

    def discovery_error(self, asked: dict[Address, RedisError]) -> RedisError | ConfigurationError:
        """What to raise when no server gave the table; `asked`: why each did not.

        That one is in no cluster is a mistake, unless there was a cluster before.
        """
        for address, error in asked.items():
            if self._told_by is None and "cluster support disabled" in str(error):
                return ConfigurationError(
                    f"LEVELQ_REDIS_URL: expected a server of a cluster at {address}, and it runs without cluster "
                    "support; redis:// is for one server"
                )
        return NotConnected("; ".join(dict.fromkeys(map(str, asked.values()))) or "no server knows of any slot")

    def lost(self, client: C, error: BaseException) -> None:
        """A server does not answer, or knows of no cluster: ask others who has its slots, and last of all it and who
        sent us there. One that was silent is left alone for a moment: each call on it would wait as long again.
        """
        self.slots = None
        last = [
            address for address, known in list(self._clients.items()) if known is client or address == self._told_by
        ]
        self._asking = [address for address in self._asking if address not in last] + last
        if isinstance(error, TimeoutError):
            self._silent[client] = time.monotonic() + SILENT_SECONDS

    def moved(self, error: MovedError) -> None:
        """Note who holds a slot now, which may be news to the server that the table is from."""
        if self.slots and error.host:
            self.slots = self.slots.after({error.slot_id: Address(error.host, error.port)})


def key_of(command: Sequence[Any]) -> str | bytes | None:
    """The first key of a command: whatever its namespace, a key of levelq's begins with `<namespace>:`."""
    for argument in command[1:]:
        if isinstance(argument, str) and _KEY.match(argument):
            return argument
        if isinstance(argument, bytes) and _KEY_BYTES.match(argument):
            return argument
    return None


class Cluster(Redis):
    """The cluster for threads. `at(key)` is the plain client of one server, for what is more than a command."""

    def __init__(self, place: RedisTarget, client: Callable[[str], Redis]) -> None:
        self._members = ClusterTopology(place, client)
        self._locks = PerProcess(threading.Lock)
        super().__init__(connection_pool=self._members.client(place.addresses[0]).connection_pool)

    def at(self, key: str | bytes) -> Redis:
        """The server that holds this key. Raises NotConnected, and ConfigurationError if it is no cluster."""
        try:
            return self._members.holder(self._table(), key)
        except NotConnected:  # once more, with a table that is surely new
            return self._members.holder(self.ask(self._members.slots), key)

    def servers(self) -> list[Redis]:
        """Every primary. Raises NotConnected."""
        return [self._members.client(address) for address in self._table().addresses]

    def _table(self) -> Slots:
        return self._members.slots or self.ask(None)

    def ask(self, seen: Slots | None) -> Slots:
        """Ask for the table again, unless somebody has since it was `seen`. Raises NotConnected."""
        with self._locks.get():
            if self._members.slots is not None and self._members.slots is not seen:
                return self._members.slots
            failed: dict[Address, RedisError] = {}
            for address in self._members.to_ask():
                server: Any = self._members.client(address)
                try:
                    found = self._members.learn(server.execute_command("CLUSTER", "SLOTS"), address)
                except RedisError as error:
                    failed[address] = error
                else:
                    if found:
                        return found
            raise self._members.discovery_error(failed)

    def moved(self, error: MovedError) -> None:
        """A server has said who holds a slot now."""
        self.ask(self._members.slots)
        self._members.moved(error)

    def lost(self, server: Redis, error: BaseException) -> None:
        """A server does not answer, or not in time, or knows of no cluster that is up."""
        self._members.lost(server, error)

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Send one command to where its key is; one without a key to any server."""
        key = key_of(args)
        for left in reversed(range(REDIRECTIONS)):
            server = self.servers()[0] if key is None else self.at(key)
            try:
                return server.execute_command(*args, **options)  # type: ignore[no-untyped-call]
            except MovedError as error:
                if not left:
                    raise
                self.moved(error)
            except (*LOST, ClusterDownError) as error:
                self.lost(server, error)
                raise
        return None

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> Any:
        """Not of a cluster: a pipeline goes to one server."""
        raise NotImplementedError("a pipeline goes to one server: at(key).pipeline()")

    def close(self) -> None:
        """Give the connections back."""
        for client in self._members.clients:
            client.close()


def servers_of(redis: Redis) -> list[Redis]:
    """The plain clients behind a client: itself, or one for each primary. Raises NotConnected."""
    return redis.servers() if isinstance(redis, Cluster) else [redis]


def server_of(redis: Redis, key: str | bytes) -> Redis:
    """The plain client for what concerns one key. Raises NotConnected."""
    return redis.at(key) if isinstance(redis, Cluster) else redis
