"""What `levelq status` tells beside its counts: the longest and oldest lanes, and where malformed entries come from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from redis import Redis
from redis.exceptions import NoPermissionError, ResponseError
from sqlalchemy import Connection, text

from levelq_core.database.table_names import QUARANTINE
from levelq_core.keys import Keys, Partition
from levelq_core.lanes.parked import cause_of
from levelq_core.lanes.scan import LOOKED_AT, LongLane, longest
from levelq_core.operations.queries import last_id_before
from levelq_core.redis_client.topology import address_of, topology_of
from levelq_core.untrusted_text import MOST_SHOWN, printable

from .records import Reading, Time

MOST_LANES = 5
MOST_GROUPS = 10
MOST_CLIENTS = 5
RECENT = timedelta(hours=1)
MOST_ROWS = 10_000  # of the quarantine, the newest
# Commands that put entries into a list. levelq's own entries come by scripts, RQ's in transactions.
_LIST_WRITERS = ("rpush", "lpush", "rpushx", "lpushx", "linsert", "lset", "lmove", "rpoplpush", "restore")


class DeepLane(Reading):
    """A lane: how many commands it holds, and the age of the oldest one."""

    partition: str
    user: int | str
    waiting: int
    oldest_seconds: float


class QuarantineGroup(Reading):
    """Entries of the last hour that were no commands, of one specialization and reason; and one user's lane of them."""

    specialization: str
    reason: str
    entries: int
    user_id: int | None
    last_at: Time


class ListWriter(Reading):
    """A connection to the lanes' Redis whose last command wrote into a list. Redis does not tell into which.

    `id`: for `CLIENT KILL ID`, on `server`: host and port in a cluster, None if there is one server. `address`: "a Unix
    socket" for all that use one.
    """

    id: int
    server: str | None = None
    address: str
    name: str
    user: str
    command: str
    idle_seconds: int

    def in_words(self) -> str:
        """Which connection, from where, under which names, and what it did last."""
        who = ", ".join(filter(None, (self.name, f"user {self.user}")))
        where = f" of {self.server}" if self.server else ""
        return f"client {self.id}{where} from {self.address} ({who}; {self.command.upper()} {self.idle_seconds} s ago)"


class HotSpots(Reading):
    """What `levelq status` tells beside its counts.

    `longest`, `oldest`: the first five lanes, among the 1,000 of each partition that are due longest and as many that
    are claimed. `quarantined`: what was no command in the last hour; if there is any, `list_writers`: connections that
    may have written it.
    """

    longest: tuple[DeepLane, ...] = ()
    oldest: tuple[DeepLane, ...] = ()
    quarantined: tuple[QuarantineGroup, ...] = ()
    list_writers: tuple[ListWriter, ...] = ()


def deep_lanes(
    redis: Redis, keys: Keys, partitions: Iterable[Partition], looked_at: int = LOOKED_AT, *, most: int = MOST_LANES
) -> HotSpots:
    """The longest lanes of all partitions, and the oldest, `most` of each. Raises RedisError.

    `looked_at`: among how many lanes of each partition.
    """
    long, old = list[LongLane](), list[LongLane]()
    for partition in partitions:
        with suppress(ResponseError):  # a key of another type, which key_faults names
            longest_, oldest = longest(redis, keys, partition, most, looked_at)
            long += longest_
            old += oldest
    long.sort(key=lambda lane: -lane.entries)
    old.sort(key=lambda lane: -lane.age_ms)
    return HotSpots(longest=tuple(map(_deep, long[:most])), oldest=tuple(map(_deep, old[:most])))


def _deep(lane: LongLane) -> DeepLane:
    user = printable(lane.user, MOST_SHOWN)
    return DeepLane(
        partition=str(lane.partition),
        user=int(user) if user.isdecimal() else user,
        waiting=lane.entries,
        oldest_seconds=lane.age_ms / 1000,
    )


def quarantine_groups(connection: Connection) -> tuple[QuarantineGroup, ...]:
    """What was quarantined in the last hour, the most frequent first: of the newest MOST_ROWS. Raises DBAPIError."""
    since = datetime.now(UTC) - RECENT
    values = {"after": last_id_before(connection, QUARANTINE, "at", since), "since": since, "most": MOST_ROWS}
    entries: Counter[tuple[str, str]] = Counter()
    firsts: dict[tuple[str, str], Any] = {}
    for row in connection.execute(_RECENT, values):
        cause = row.specialization, cause_of(row.reason)
        entries[cause] += row.entries
        firsts.setdefault(cause, row)
    return tuple(_group(firsts[cause], number) for cause, number in entries.most_common(MOST_GROUPS))


def _group(row: Any, entries: int) -> QuarantineGroup:
    return QuarantineGroup(
        specialization=row.specialization,
        reason=printable(row.reason, MOST_SHOWN),
        entries=entries,
        user_id=row.user_id,
        last_at=row.last_at,
    )


def list_writers(redis: Redis) -> tuple[ListWriter, ...]:
    """Connections that may have written into lanes, those of the latest commands first. Raises RedisError."""
    found: list[ListWriter] = []
    topology = topology_of(redis)
    for server in topology.servers():
        with suppress(NoPermissionError):  # a role without CLIENT LIST
            found += _list_writers(server, address_of(server) if topology.several_servers else None)
    return tuple(sorted(found, key=lambda client: client.idle_seconds)[:MOST_CLIENTS])


def _list_writers(server: Redis, address: str | None) -> Iterator[ListWriter]:
    clients: Any = server.client_list()
    for client in clients:
        if client.get("cmd") in _LIST_WRITERS:
            shown = {name: printable(str(client.get(name, "")), MOST_SHOWN) for name in ("addr", "name", "user", "cmd")}
            yield ListWriter(
                id=int(client.get("id", 0)),
                server=address,
                address="a Unix socket" if str(client.get("addr", "")).endswith(":0") else shown["addr"],
                name=shown["name"],
                user=shown["user"],
                command=shown["cmd"],
                idle_seconds=int(client.get("idle", 0)),
            )


# What was quarantined lately, by specialization and reason.
_RECENT = text(f"""
    SELECT specialization, reason, count(*) AS entries, max(user_id) AS user_id, max(at) AS last_at
    FROM (SELECT specialization, reason, user_id, at FROM {QUARANTINE}
          WHERE id > :after AND at >= :since ORDER BY id DESC LIMIT :most) AS recent
    GROUP BY specialization, reason ORDER BY entries DESC LIMIT 1000
""")
