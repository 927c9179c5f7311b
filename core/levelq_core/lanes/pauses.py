"""What an operator has paused: the hash `paused` of a partition, `*` or user -> "since until actor|reason".

`*` is the whole partition. pause.lua writes it; the scripts let drains take nothing that is paused; a sweep removes
what is over. Times are the server's, in ms; `until` is 0 for a pause that lasts until it is ended. Reading is bounded
and changes nothing.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from redis import Redis

from levelq_core.keys import Keys, Partition
from levelq_core.redis_client.topology import ms_of, server_of
from levelq_core.untrusted_text import printable

MOST_PAUSES = 1_000  # of one partition
MOST_ACTOR = 100  # characters
MOST_REASON = 200
PARKED_REASON = "paused by "  # claim.lua's words for the lane of a paused user begin so
PARKED_UNTIL = 1e16  # prelude.lua's PAUSED: the score in `ready` of a paused user's lane
_PAGE = 500
_FORM = re.compile(rb"(\d{1,13}) (\d{1,13}) ([^|]*)\|(.*)", re.DOTALL)


class Pause(NamedTuple):
    """Since when and until when (ms, None: until resumed) something is paused, by whom and why ("": not said)."""

    since_ms: int
    until_ms: int | None
    actor: str
    reason: str


def pause_of(redis: Redis, keys: Keys, partition: Partition, user_id: int | None = None) -> Pause | None:
    """The pause of a partition, or of one user's lane in it; None if there is none. Raises RedisError."""
    return _first(server_of(redis, keys.of(partition, "paused")), keys.of(partition, "paused"), user_id)[0]


def pauses(redis: Redis, keys: Keys, partition: Partition, most: int = MOST_PAUSES) -> dict[int | None, Pause]:
    """The pauses of a partition by user, `most` of them; None stands for the whole partition, and is first.

    Without those that are over or cannot be read. Raises RedisError.
    """
    key = keys.of(partition, "paused")
    server: Any = server_of(redis, key)
    whole, now_ms, exists = _first(server, key, None)
    users: dict[int | None, Pause] = {}
    cursor = None if exists else 0
    while cursor != 0 and len(users) < most:
        cursor, page = server.hscan(key, cursor or 0, count=min(_PAGE, most))
        for field, raw in page.items():
            pause = read_pause(raw, now_ms) if field.isdigit() else None
            if pause is not None:
                users[int(field)] = pause
    return ({} if whole is None else {None: whole}) | dict(sorted(users.items())[:most])


def lanes_parked(redis: Redis, keys: Keys, partition: Partition) -> int:
    """How many lanes are parked for the pause of their user. Raises RedisError."""
    key = keys.of(partition, "ready")
    server: Any = server_of(redis, key)
    return int(server.zcount(key, PARKED_UNTIL, "+inf"))


def resume_command(specialization: str, user_id: int | None) -> str:
    """The command that ends a pause; without `--user`, pauses of single users stay."""
    return f"levelq resume {specialization}" + ("" if user_id is None else f" --user {user_id}")


def copy_pause(redis: Redis, keys: Keys, partition: Partition, user_id: int | None, pause: Pause) -> None:
    """Pause another partition, or this user in it, likewise, unless it is paused already. Raises RedisError."""
    key, value = keys.of(partition, "paused"), f"{pause.since_ms} {pause.until_ms or 0} {pause.actor}|{pause.reason}"
    server_of(redis, key).hsetnx(key, who(user_id), value)


def _first(server: Redis, key: str, user_id: int | None) -> tuple[Pause | None, int, bool]:
    """One pause, the server's time in ms, and whether the key holds a hash: one round trip where nothing is paused."""
    pipeline = server.pipeline(transaction=False)
    pipeline.time()
    pipeline.type(key)
    pipeline.hget(key, who(user_id))
    time, kind, raw = pipeline.execute(raise_on_error=False)
    now_ms = ms_of(time)
    if kind != b"hash":
        return None, now_ms, False
    return read_pause(raw, now_ms) if isinstance(raw, bytes) else None, now_ms, True


def who(user_id: int | None) -> str:
    """The field of the hash: of one user, or of the whole partition."""
    return "*" if user_id is None else str(user_id)


def read_pause(raw: bytes, now_ms: int = 0) -> Pause | None:
    """One value of the hash; None if it is no pause, or was over at `now_ms`."""
    match = _FORM.fullmatch(raw)
    if match is None:
        return None
    until_ms = int(match[2]) or None
    if until_ms is not None and until_ms <= now_ms:
        return None
    return Pause(int(match[1]), until_ms, printable(match[3], MOST_ACTOR), printable(match[4], MOST_REASON))
