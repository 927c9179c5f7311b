"""Reads lanes page by page, without stopping the server: SCAN, never KEYS, and scripts that change nothing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from itertools import islice
from typing import Any, NamedTuple
from uuid import UUID

from redis import Redis
from redis.exceptions import ResponseError

from levelq_core.domain.codec import IDENTITY_AT, MAGIC, STAMP_DIGITS
from levelq_core.domain.commands import MAX_USER_ID
from levelq_core.keys import Keys, Partition
from levelq_core.redis_client.topology import servers_of
from levelq_core.redis_client.wrong_type import is_wrong_type, unless_wrong_type
from levelq_core.settings import Settings

from .script_files import load
from .shard_layout import Layout

STEP = 200  # entries of one lane in one call
LANES = 50  # in one call: 10,000 entries at most, typically 1 MB, never more than 40 MB
COUNTED_LANES = 100_000  # of one partition in one call, as many as a sweep reads
LOOKED_AT = 1_000  # due lanes, and as many claimed ones, in which the longest are looked for: 1 ms of the server
PAGE = 1_000  # keys in one step of SCAN
SEARCHED_LANES = 2_000  # in one call: some milliseconds of the server at most, as FOUND_AMONG

Lane = tuple[Partition, bytes]


class State(NamedTuple):
    """A lane at one moment. `length` is -1 if its key is no list. Times are the server's, in ms."""

    partition: Partition
    user: bytes
    now: int
    length: int
    ready: float | None
    claimed: float | None
    token: bytes | None
    head: bytes | None

    @property
    def user_id(self) -> int | None:
        """The user, if the name of the lane is a user id."""
        return user_id_of(self.user)

    @property
    def command_id(self) -> UUID | None:
        """The oldest command, if the head looks like one."""
        return command_id_of(self.head or b"")


class Entry(NamedTuple):
    """An entry of a lane; `sha256` covers its first 4 KiB, as in the quarantine."""

    partition: Partition
    user: bytes
    command_id: UUID | None
    sha256: bytes


def user_id_of(user: bytes) -> int | None:
    """The user id in the name of a lane, if it is the plain decimal that push.lua writes."""
    if re.fullmatch(rb"[1-9][0-9]{0,18}", user) and int(user) <= MAX_USER_ID:
        return int(user)
    return None


def command_id_of(entry: bytes) -> UUID | None:
    """The command id in an entry of any version; None if it is no entry of levelq."""
    command_id = entry[IDENTITY_AT : IDENTITY_AT + 16]
    if entry[STAMP_DIGITS : STAMP_DIGITS + 2] != MAGIC or len(command_id) < 16:
        return None
    return UUID(bytes=command_id)


def lanes(redis: Redis, keys: Keys) -> Iterator[Lane]:
    """Every lane that holds entries, in any partition; some may come twice.

    SCAN guarantees that a lane which exists from the first to the last step is found.
    """
    form = re.compile(rb"%s:\{([^{}]+)\}:lane:(.*)" % keys.namespace.encode(), re.DOTALL)
    for server in servers_of(redis):
        for key in server.scan_iter(f"{keys.namespace}:{{*}}:lane:*", count=PAGE):
            match = form.fullmatch(key)
            if match is not None and (partition := Partition.read(match[1])) is not None:
                yield partition, match[2]


def partitions(redis: Redis, settings: Settings) -> set[Partition]:
    """The partitions in the registry, and those that the layouts name."""
    named = unless_wrong_type((), redis.zrange, settings.keys.registry, 0, -1)
    known = {partition for name in named if (partition := Partition.read(name)) is not None}
    written = unless_wrong_type({}, redis.hgetall, settings.keys.shards)
    read = {name.decode("ascii", "replace"): Layout.read(text) for name, text in written.items()}
    layouts = {name: layout for name, layout in read.items() if layout is not None}
    first = Layout(1, settings.shards)
    expected = {name: layouts.get(name, first) for name in {*settings.tracks, *layouts}}
    return known.union(*(layout.all_partitions(name) for name, layout in expected.items()))


def claimed(redis: Redis, keys: Keys, partition: Partition) -> Iterator[Lane]:
    """Every lane that is claimed or has a token; some come twice. A key of another type counts as missing."""
    for scan, name in ((redis.zscan_iter, "claimed"), (redis.hscan_iter, "tokens")):
        try:
            for user, _ in scan(keys.of(partition, name), count=PAGE):
                yield partition, user
        except ResponseError as error:
            if not is_wrong_type(error):
                raise


def grouped(wanted: Iterable[Lane], size: int = LANES) -> Iterator[tuple[Partition, list[bytes]]]:
    """Lanes by partition, in groups of at most `size` for one script call each."""
    iterator = iter(wanted)
    while page := list(islice(iterator, PAGE)):
        users: dict[Partition, list[bytes]] = {}
        for partition, user in page:
            users.setdefault(partition, []).append(user)
        for partition, found in users.items():
            for first in range(0, len(found), size):
                yield partition, found[first : first + size]


def states(redis: Redis, keys: Keys, partition: Partition, users: Sequence[bytes]) -> list[State]:
    """These lanes, all read at one moment."""
    now, rows = _run(redis, keys, "look", partition, *users)
    return [
        State(partition, user, int(now), length, _score(ready), _score(claim), token, head)
        for user, (length, ready, claim, token, head) in zip(users, rows, strict=True)
    ]


def entries(redis: Redis, keys: Keys, partition: Partition, users: Sequence[bytes]) -> Iterator[Entry]:
    """Every entry of these lanes, newest first; some come twice while pushes go on."""
    skip = 0
    while users:
        seen = _run(redis, keys, "tail", partition, STEP, skip, *users)
        for user, raw in zip(users, seen, strict=True):
            for entry in raw:
                yield Entry(partition, user, command_id_of(entry), sha256(entry).digest())
        users = [user for user, raw in zip(users, seen, strict=True) if len(raw) == STEP]
        skip += STEP


class TooManyEntries(Exception):
    """A partition, the argument, has more entries than a search reads."""


class Counted(NamedTuple):
    """The count of a partition (-1: unreadable) and the number of entries in its lanes, at one moment."""

    stored: int
    standing: int


def counted(redis: Redis, keys: Keys, partition: Partition) -> Counted | None:
    """Both numbers; None if the partition has more lanes than can be read in one step."""
    reply = _run(redis, keys, "count", partition, COUNTED_LANES)
    return Counted(*map(int, reply)) if reply else None


def holder(redis: Redis, keys: Keys, partition: Partition, command_id: UUID, most: int) -> bytes | None:
    """The user in whose lane of a partition a command waits, None if it waits in none of those that are due or claimed.

    Reads `most` entries, some lanes in each call, so that the server has time for others. Raises TooManyEntries if the
    command is not among them and the partition has more.
    """
    users: dict[bytes, None] = {}
    for name in ("ready", "claimed"):
        users.update(dict.fromkeys(unless_wrong_type((), redis.zrange, keys.of(partition, name), 0, most)))
    known, left = list(users), most
    for first in range(0, len(known), SEARCHED_LANES):
        some = known[first : first + SEARCHED_LANES]
        left, user = _run(redis, keys, "holder", partition, command_id.bytes, left, *some)
        if user:
            return bytes(user)
        if not left:
            raise TooManyEntries(str(partition))
    return None


class LongLane(NamedTuple):
    """A lane that holds entries: how many, and the age of the first one in ms."""

    partition: Partition
    user: bytes
    entries: int
    age_ms: int


def longest(
    redis: Redis, keys: Keys, partition: Partition, most: int, looked_at: int = LOOKED_AT
) -> tuple[list[LongLane], list[LongLane]]:
    """The longest lanes, and those whose first entry is oldest, among the first `looked_at` by time."""
    longest_, oldest = _run(redis, keys, "longest", partition, looked_at, most)
    found = ([LongLane(partition, *flat[n : n + 3]) for n in range(0, len(flat), 3)] for flat in (longest_, oldest))
    first, second = found
    return first, second


def _score(raw: bytes | float | None) -> float | None:
    return None if raw is None else float(raw)


def _run(redis: Redis, keys: Keys, script: str, partition: Partition, *arguments: Any) -> Any:
    source = load(f"scan/{script}").text
    return redis.eval_ro(source, 1, keys.of(partition, "ready"), keys.of(partition, ""), *arguments)
