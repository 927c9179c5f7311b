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
from levelq_core.lanes.pauses import read_pause
from levelq_core.lanes.shard_layout import Layout
from levelq_core.lanes.trend_slots import is_slot
from levelq_core.lanes.worker_alerts import read_alert
from levelq_core.lanes.worker_reports import read_report
from levelq_core.redis_client.topology import server_of
from levelq_core.untrusted_text import quoted

MOST_MEMBERS = 1_000  # of one key that are examined
REMEDY = "`levelq rebuild` removes it"
_TYPES: Mapping[str, bytes] = {
    **dict.fromkeys(("ready", "claimed", "drains"), b"zset"),
    **dict.fromkeys(("tokens", "parked", "paused"), b"hash"),
    **dict.fromkeys(("wake", "count", "progress", "closed", "filled", "relay"), b"string"),
}
_RQ_TYPES: Mapping[str, bytes] = {"rq:workers": b"set", "rq:queues": b"set"}
_RQ_QUEUE_TYPES: Mapping[str, bytes] = {
    "rq:queue:": b"list", "rq:workers:": b"set", "rq:wip:": b"zset", "rq:failed:": b"zset", "rq:finished:": b"zset"
}  # fmt: skip
_TYPE_NAMES = {
    b"zset": "a sorted set", b"hash": "a hash", b"string": "a string", b"list": "a list", b"set": "a set"
}  # fmt: skip
_USER = re.compile(rb"[1-9][0-9]{0,18}")


class KeyFault(NamedTuple):
    """A key, or one member of it, that cannot be read. `member` is None for the whole key."""

    key: str
    what: str
    member: bytes | None = None

    def __str__(self) -> str:
        return f"{self.key}: {self.what}; {REMEDY}"


_Fault = Callable[[bytes, Any], str | None]  # what is wrong with a member, given its score or value


def find(lanes: Lanes, partitions: Iterable[Partition], most: int = MOST_MEMBERS) -> list[KeyFault]:
    """The faults of the namespace's own keys and of these partitions, `most` members of each. Raises RedisError."""
    redis, keys, partitions = lanes.redis, lanes.keys, list(partitions)
    hashes: dict[str, _Fault] = {
        keys.shards: _field(Layout.read, "generation:shards"),
        keys.notices: _field(read_alert, "since, until and a reason"),
        keys.workers: _field(read_report, "a worker's report"),
        keys.trends: _trend,
    }
    expected = {keys.registry: b"zset", **dict.fromkeys(hashes, b"hash"), keys.drift: b"hash", keys.auditor: b"string"}
    expected |= {keys.of(partition, name): kind for partition in partitions for name, kind in _TYPES.items()}
    wrong = {fault.key: fault for some in _of_servers(redis, expected) for fault in _wrong_types(*some)}
    faults: dict[str, _Fault] = {keys.registry: _registered, **hashes}
    faults |= {keys.of(partition, name): fault for partition in partitions for name, fault in _MEMBERS.items()}
    readable = {key: expected[key] for key in faults if key not in wrong}
    members = {key: found for some in _of_servers(redis, readable) for key, found in _members(*some, most)}
    found: list[KeyFault] = []
    for key in (keys.registry, *hashes, keys.drift, keys.auditor):
        found += [wrong[key]] if key in wrong else _faults_of(key, members.get(key, ()), faults.get(key))
    found += _binding(redis, keys)
    for partition in partitions:
        found += [wrong[key] for name in _TYPES if (key := keys.of(partition, name)) in wrong]
        for key in (keys.of(partition, name) for name in _MEMBERS):
            found += _faults_of(key, members.get(key, ()), faults[key])
    return [*found, *_closed(lanes, partitions)]


def find_in_rq(rq: Redis, queues: Iterable[str]) -> list[KeyFault]:
    """RQ's own keys of another type without which no worker of these queues can take wake-ups. Raises RedisError."""
    wanted = {**_RQ_TYPES, **{begins + name: kind for name in queues for begins, kind in _RQ_QUEUE_TYPES.items()}}
    return _wrong_types(rq, wanted)


def remove(redis: Redis, fault: KeyFault) -> None:
    """Remove the member, or the key, that cannot be read. Raises RedisError."""
    server: Any = server_of(redis, fault.key)
    if fault.member is None:
        server.delete(fault.key)
        return
    remover = server.zrem if server.type(fault.key) == b"zset" else server.hdel
    remover(fault.key, fault.member)


def _registered(name: bytes, _: float) -> str | None:
    return None if Partition.read(name) else f"expected a partition, got {quoted(name)}"


def _field(read: Callable[[bytes], object], expected: str) -> _Fault:
    """A hash whose values `read` understands; it returns None or False for others."""

    def fault(name: bytes, value: bytes) -> str | None:
        return None if read(value) else f"{quoted(name)}: expected {expected}, got {quoted(value)}"

    return fault


def _trend(name: bytes, value: bytes) -> str | None:
    what = f"{quoted(name)}: expected a slot of time and its figures, got {quoted(value)}"
    return None if is_slot(name, value) else what


def _due(user: bytes, score: float) -> str | None:
    """A member that no claim ever takes. The next claim takes what is due, whatever it is."""
    if not _USER.fullmatch(user):
        return f"expected a user id, got {quoted(user)}"
    return f"{quoted(user)}: expected a time, got {score}" if math.isinf(score) else None


_MEMBERS: Mapping[str, _Fault] = {
    "ready": _due,
    "parked": _field(is_note, "since, attempts and a reason"),
    "paused": _field(read_pause, "since, until, actor and a reason"),
}


def _binding(redis: Redis, keys: Keys) -> list[KeyFault]:
    key = keys.database
    server: Any = server_of(redis, key)
    wrong = _wrong_types(server, {key: b"string"})
    raw = None if wrong else server.get(key)
    try:
        if raw is not None:
            DatabaseIdentity.decode(raw, key)
    except ConfigurationError:
        return [KeyFault(key, f"expected the database that a worker wrote there, got {quoted(raw)}")]
    return wrong


def _closed(lanes: Lanes, partitions: Sequence[Partition]) -> Iterator[KeyFault]:
    """Partitions with a `closed` key, which refuse pushes, although they are open by their layout.

    A change of shards writes the layout first and then closes its partitions, so the layout is read last.
    """
    keys = {partition: lanes.keys.of(partition, "closed") for partition in partitions}
    there = dict[str, bytes]()
    for server, some in _of_servers(lanes.redis, dict.fromkeys(keys.values(), b"string")):
        pipeline: Any = server.pipeline(transaction=False)
        for key in some:
            pipeline.exists(key)
        there |= dict(zip(some, pipeline.execute(), strict=True))
    closed = [partition for partition, key in keys.items() if there[key]]
    layouts = lanes.read_layouts({partition.specialization for partition in closed}).found if closed else {}
    for partition in closed:
        layout = layouts.get(partition.specialization)
        if layout is not None and layout.steady and layout.generation == partition.generation:
            yield KeyFault(keys[partition], f"closed, though the layout {layout} says that it is open")


def _members(server: Any, expected: Mapping[str, bytes], most: int) -> Iterator[tuple[str, list[tuple[bytes, Any]]]]:
    """The first `most` members of each hash, or the last of each sorted set; all in one round trip, unless a hash gives
    them in several pages."""
    pipeline = server.pipeline(transaction=False)
    for key, kind in expected.items():
        if kind == b"hash":
            pipeline.hscan(key, 0, count=most)
        else:
            pipeline.zrange(key, 0, most - 1, desc=True, withscores=True)
    for (key, kind), page in zip(expected.items(), pipeline.execute(), strict=True):
        yield key, _all_pages(server, key, page, most) if kind == b"hash" else page


def _all_pages(server: Any, key: str, first: Any, most: int) -> list[tuple[bytes, bytes]]:
    cursor, page = first
    found = list(page.items())
    while cursor != 0 and len(found) < most:
        cursor, page = server.hscan(key, cursor, count=most)
        found += page.items()
    return found


def _faults_of(key: str, members: Iterable[tuple[bytes, Any]], fault: _Fault | None) -> Iterator[KeyFault]:
    """The members that cannot be read."""
    for member, value in members:
        what = None if fault is None else fault(member, value)
        if what is not None:
            yield KeyFault(key, what, member)


def _of_servers(redis: Redis, keys: Mapping[str, bytes]) -> Iterator[tuple[Redis, dict[str, bytes]]]:
    """The keys by the server that holds them."""
    of_server: dict[Redis, dict[str, bytes]] = {}
    for key, kind in keys.items():
        of_server.setdefault(server_of(redis, key), {})[key] = kind
    yield from of_server.items()


def _wrong_types(server: Redis, expected: Mapping[str, bytes]) -> list[KeyFault]:
    pipeline: Any = server.pipeline(transaction=False)
    for key in expected:
        pipeline.type(key)
    return [
        KeyFault(key, f"expected {_TYPE_NAMES[expected[key]]}, found a {kind.decode()}")
        for key, kind in zip(expected, pipeline.execute(), strict=True)
        if kind not in (b"none", expected[key])
    ]
