"""Unreadable content that other programs left in levelq's keys: `status` and `verify` name it, `rebuild` removes it.

Readers skip what they cannot read, so nothing stops at such a key. Lanes are not examined here: drains quarantine
malformed entries, and park a lane whose key holds another type.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from redis import Redis

from levelq_core.errors import ConfigurationError
from levelq_core.keys import Keys, Partition
from levelq_core.lanes.client import Lanes
from levelq_core.lanes.namespace_binding import DatabaseIdentity
from levelq_core.lanes.parked import is_note
from levelq_core.lanes.shard_layout import Layout
from levelq_core.lanes.worker_alerts import read_alert
from levelq_core.redis_client.topology import server_of
from levelq_core.untrusted_text import quoted

MOST_MEMBERS = 1_000  # of one key that are examined
REMEDY = "`levelq rebuild` removes it"
_TYPES: Mapping[str, bytes] = {
    "ready": b"zset",
    "claimed": b"zset",
    "tokens": b"hash",
    "parked": b"hash",
    "drains": b"zset",
    "wake": b"string",
    "count": b"string",
    "progress": b"string",
    "closed": b"string",
    "filled": b"string",
    "relay": b"string",
}
_USER = re.compile(rb"[1-9][0-9]{0,18}")
_NAMES = {
    b"zset": "a sorted set", b"hash": "a hash", b"string": "a string", b"list": "a list", b"set": "a set"
}  # fmt: skip
_RQ_TYPES: Mapping[str, bytes] = {"rq:workers": b"set", "rq:queues": b"set"}
_RQ_QUEUE_TYPES: Mapping[str, bytes] = {
    "rq:queue:": b"list", "rq:workers:": b"set", "rq:wip:": b"zset", "rq:failed:": b"zset", "rq:finished:": b"zset"
}  # fmt: skip


class KeyFault(NamedTuple):
    """A key, or one member of it, that cannot be read. `member` is None for the whole key."""

    key: str
    what: str
    member: bytes | None = None

    def __str__(self) -> str:
        return f"{self.key}: {self.what}; {REMEDY}"


def find(lanes: Lanes, partitions: Iterable[Partition]) -> list[KeyFault]:
    """The faults of the namespace's own keys and of these partitions. Raises RedisError."""
    redis, keys, partitions = lanes.redis, lanes.keys, list(partitions)
    found = [
        *_registry(redis, keys),
        *_hash(redis, keys.shards, Layout.read, "generation:shards"),
        *_hash(redis, keys.notices, read_alert, "since, until and a reason"),
        *_binding(redis, keys),
    ]
    for partition in partitions:
        found += _partition(redis, keys, partition)
    return [*found, *_closed(lanes, partitions)]


def find_in_rq(rq: Redis, queues: Iterable[str]) -> list[KeyFault]:
    """RQ's own keys of another type without which no worker of these queues can take wake-ups. Raises RedisError."""
    wanted = {**_RQ_TYPES, **{begins + name: kind for name in queues for begins, kind in _RQ_QUEUE_TYPES.items()}}
    return list(_wrong_types(rq, wanted))


def _closed(lanes: Lanes, partitions: Sequence[Partition]) -> Iterator[KeyFault]:
    """Partitions with a `closed` key, which refuse pushes, although their layout says that they are open.

    A change of shards writes the layout first and then closes its partitions, so the layout is read last.
    """
    closed = []
    for partition in partitions:
        key = lanes.keys.of(partition, "closed")
        if server_of(lanes.redis, key).exists(key):
            closed.append(partition)
    layouts = lanes.read_layouts({partition.specialization for partition in closed}).found if closed else {}
    for partition in closed:
        layout = layouts.get(partition.specialization)
        if layout is not None and layout.steady and layout.generation == partition.generation:
            yield KeyFault(
                lanes.keys.of(partition, "closed"), f"closed, though the layout {layout} says that it is open"
            )


def remove(redis: Redis, fault: KeyFault) -> None:
    """Remove the member, or the key, that cannot be read. Raises RedisError."""
    server: Any = server_of(redis, fault.key)
    if fault.member is None:
        server.delete(fault.key)
        return
    remover = server.zrem if server.type(fault.key) == b"zset" else server.hdel
    remover(fault.key, fault.member)


def _registry(redis: Redis, keys: Keys) -> Iterator[KeyFault]:
    key = keys.registry
    for name in _members(redis, key, b"zset"):
        if isinstance(name, KeyFault):
            yield name
        elif Partition.read(name) is None:
            yield KeyFault(key, f"expected a partition, got {quoted(name)}", name)


def _hash(redis: Redis, key: str, read: Callable[[bytes], object], expected: str) -> Iterator[KeyFault]:
    for name, text in _fields(redis, key):
        if isinstance(text, KeyFault):
            yield text
        elif read(text) is None:
            yield KeyFault(key, f"{quoted(name)}: expected {expected}, got {quoted(text)}", name)


def _binding(redis: Redis, keys: Keys) -> Iterator[KeyFault]:
    key = keys.database
    server: Any = server_of(redis, key)
    fault = _wrong_type(key, server.type(key), b"string")
    if fault is not None:
        yield fault
        return
    raw = server.get(key)
    try:
        if raw is not None:
            DatabaseIdentity.decode(raw, key)
    except ConfigurationError:
        yield KeyFault(key, f"expected the database that a worker wrote there, got {quoted(raw)}")


def _partition(redis: Redis, keys: Keys, partition: Partition) -> Iterator[KeyFault]:
    server = server_of(redis, keys.of(partition, "ready"))
    yield from _wrong_types(server, {keys.of(partition, name): kind for name, kind in _TYPES.items()})
    yield from _ready(server, keys.of(partition, "ready"))
    key = keys.of(partition, "parked")
    for user, note in _fields(redis, key):
        if not is_note(note):
            yield KeyFault(key, f"{quoted(user)}: expected since, attempts and a reason, got {quoted(note)}", user)


def _ready(server: Any, key: str) -> Iterator[KeyFault]:
    """Members that no claim would ever come to. What is due is taken by the next claim, whatever it is."""
    if server.type(key) != b"zset":  # told with the partition's other keys
        return
    for user, score in server.zrange(key, 0, MOST_MEMBERS - 1, desc=True, withscores=True):
        if not _USER.fullmatch(user):
            yield KeyFault(key, f"expected a user id, got {quoted(user)}", user)
        elif math.isinf(score):
            yield KeyFault(key, f"{quoted(user)}: expected a time, got {score}", user)


def _members(redis: Redis, key: str, kind: bytes) -> Iterator[bytes | KeyFault]:
    server: Any = server_of(redis, key)
    fault = _wrong_type(key, server.type(key), kind)
    yield from [fault] if fault else server.zrange(key, 0, MOST_MEMBERS - 1)


def _fields(redis: Redis, key: str) -> Iterator[tuple[bytes, Any]]:
    server: Any = server_of(redis, key)
    fault = _wrong_type(key, server.type(key), b"hash")
    if fault is not None:
        if not key.endswith(":parked"):  # _partition names it
            yield b"", fault
        return
    cursor, seen = None, 0
    while cursor != 0 and seen < MOST_MEMBERS:
        cursor, page = server.hscan(key, cursor or 0, count=MOST_MEMBERS)
        seen += len(page)
        yield from page.items()


def _wrong_types(server: Redis, expected: Mapping[str, bytes]) -> Iterator[KeyFault]:
    pipeline: Any = server.pipeline(transaction=False)
    for key in expected:
        pipeline.type(key)
    for key, kind in zip(expected, pipeline.execute(), strict=True):
        fault = _wrong_type(key, kind, expected[key])
        if fault is not None:
            yield fault


def _wrong_type(key: str, kind: bytes, expected: bytes) -> KeyFault | None:
    if kind in (b"none", expected):
        return None
    return KeyFault(key, f"expected {_NAMES[expected]}, found a {kind.decode()}")
