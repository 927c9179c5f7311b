"""A Redis or Valkey Cluster: which server holds which keys, and what an error means for the map. No I/O here.

docs/decisions.md explains why levelq does not use redis-py's client for clusters. A command is sent again only after
the answer MOVED, because then nothing ran.

Slots must move as a whole (CLUSTER MIGRATESLOTS of Valkey 9). While the keys of a slot move one by one, a script may
find only some of its keys, and stops midway.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, TypeVar

from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from redis.crc import key_slot
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import MovedError, RedisError, TimeoutError

from levelq_core.errors import ConfigurationError

from .urls import Address, RedisTarget

SILENT_SECONDS = 1.0  # for which a server that did not answer is not tried again
REDIRECTIONS = 5  # attempts at one command that is answered MOVED
LOST = (RedisConnectionError, TimeoutError)
UNCLUSTERED_URL = "LEVELQ_REDIS_URL: the server is one of a cluster, so expected redis+cluster://, not redis://"
_KEY = re.compile(r"[a-z][a-z0-9_-]{0,31}:")
_KEY_BYTES = re.compile(_KEY.pattern.encode())
C = TypeVar("C", bound=Redis | AsyncRedis)


class NotConnected(RedisConnectionError):
    """No connection could be made, so nothing was sent."""


def as_lost(error: Exception) -> RedisError:
    """Any failure of an exchange as an error of redis-py's: what the server did is unknown."""
    if isinstance(error, RedisError):
        return error
    lost = RedisConnectionError(f"{type(error).__name__}: {error}")
    lost.__cause__ = error
    return lost


class Slots:
    """The primaries by their ranges of slots. Immutable, so any thread may read it."""

    def __init__(self, ranges: Iterable[tuple[int, int, Address]], moved: dict[int, Address] | None = None) -> None:
        self._ranges = sorted(ranges)
        self._moved = moved or {}
        self.addresses = sorted({*(address for _, _, address in self._ranges), *self._moved.values()})

    @classmethod
    def read(cls, reply: Any, source: Address) -> Slots:
        """Read the reply of CLUSTER SLOTS. A server that does not know its own host is `source`."""

        def address(primary: Any) -> Address:
            return Address(primary[0].decode() if primary[0] else source.host, int(primary[1]))

        return cls((first, last, address(primary)) for first, last, primary, *_ in reply)

    def holder(self, key: str | bytes) -> Address | None:
        """The server of a key; None if its slot has none."""
        slot = key_slot(key.encode() if isinstance(key, str) else key)
        if slot in self._moved:
            return self._moved[slot]
        return next((address for first, last, address in self._ranges if first <= slot <= last), None)

    def with_moved(self, slot: int, address: Address) -> Slots:
        """The same table with one slot at another server, which the source of the table may not know yet."""
        return Slots(self._ranges, self._moved | {slot: address})


class ClusterTopology(Generic[C]):
    """The servers of a cluster: a client for each, and the table of slots. Threads and asyncio share it."""

    def __init__(self, target: RedisTarget, make_client: Callable[[str], C]) -> None:
        self._target = target
        self._make_client = make_client
        self._clients: dict[Address, C] = {}
        self._candidates = list(target.addresses)
        self._source: Address | None = None
        self._silent_until: dict[C, float] = {}
        self.slots: Slots | None = None

    def client(self, address: Address) -> C:
        """The client of one server."""
        if address not in self._clients:
            self._clients.setdefault(address, self._make_client(self._target.url_of(address)))
        return self._clients[address]

    @property
    def clients(self) -> list[C]:
        """The clients made so far."""
        return list(self._clients.values())

    def candidates(self) -> list[Address]:
        """The servers to ask for the table of slots, in turn: the known ones, and those in the URL."""
        known = self.slots.addresses if self.slots else []
        self._candidates = list(dict.fromkeys((*self._candidates, *known, *self._target.addresses)))
        return self._candidates

    def learn(self, reply: Any, source: Address) -> Slots | None:
        """Keep the table that a server gave; None if it knows no slot, as after a reset."""
        slots = Slots.read(reply, source)
        if not slots.addresses:
            return None
        self.slots, self._source = slots, source
        return slots

    def discovery_error(self, errors: dict[Address, RedisError]) -> RedisError | ConfigurationError:
        """What to raise if no server gave the table; `errors`: why each did not.

        A server without cluster support is a mistake in the URL, unless a table was known before.
        """
        for address, error in errors.items():
            if self._source is None and "cluster support disabled" in str(error):
                return ConfigurationError(
                    f"LEVELQ_REDIS_URL: expected a server of a cluster at {address}, and it runs without cluster "
                    "support; redis:// is for one server",
                    setting="LEVELQ_REDIS_URL",
                    value=str(address),
                )
        return NotConnected("; ".join(dict.fromkeys(map(str, errors.values()))) or "no server knows of any slot")

    def holder(self, slots: Slots, key: str | bytes) -> C:
        """The client of the server that holds a key. Raises NotConnected if there is none."""
        address = slots.holder(key)
        if address is None:
            raise NotConnected("no server of the cluster holds the slot of this key")
        client = self.client(address)
        if self._silent_until and self._silent_until.get(client, 0) > time.monotonic():
            raise NotConnected(f"{address} did not answer a moment ago")
        return client

    def lost(self, client: C, error: BaseException) -> None:
        """A server is away, silent, or in no cluster: forget the table. It and the source of the table are asked last.

        A silent server is not tried again for SILENT_SECONDS: each call would wait for its whole timeout.
        """
        self.slots = None
        last = [address for address, it in list(self._clients.items()) if it is client or address == self._source]
        self._candidates = [address for address in self._candidates if address not in last] + last
        if isinstance(error, TimeoutError):
            self._silent_until[client] = time.monotonic() + SILENT_SECONDS

    def moved(self, error: MovedError) -> None:
        """Note which server holds a slot now; the source of the table may not know it yet."""
        if self.slots and error.host:
            self.slots = self.slots.with_moved(error.slot_id, Address(error.host, error.port))


def key_of(command: Sequence[Any]) -> str | bytes | None:
    """The first key of a command. In every namespace a key of levelq begins with `<namespace>:`."""
    for argument in command[1:]:
        if isinstance(argument, str) and _KEY.match(argument):
            return argument
        if isinstance(argument, bytes) and _KEY_BYTES.match(argument):
            return argument
    return None
