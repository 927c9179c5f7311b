"""One user's lane as Redis has it: what holds it, how much waits, and who has claimed it. Changes nothing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from redis import Redis
from redis.exceptions import RedisError, ResponseError

from levelq_core.keys import Keys, Partition
from levelq_core.redis_client.topology import ms_of, server_of
from levelq_core.untrusted_text import MOST_SHOWN, printable

from .parked import ParkedLane, parked_lane, time_in


class UserLane(NamedTuple):
    """A lane at one moment. Times are the server's, in ms.

    `waiting`: how many entries it holds, None if its key is no list. `due_ms`: from when on it may be claimed.
    `claimed_until_ms` and `claimed_by`: the claim on it, and the worker that has it. `ahead`: how many lanes of the
    partition are due before it. `parked`: why its first command must wait.
    """

    partition: Partition
    now_ms: int
    waiting: int | None
    due_ms: int | None
    claimed_until_ms: int | None
    claimed_by: str | None
    ahead: int
    parked: ParkedLane | None


def newest_entries(redis: Redis, keys: Keys, partition: Partition, users: Iterable[int]) -> list[Any]:
    """The last entry of each of these users' lanes in one partition; None or an error where there is none.

    Raises RedisError if the server is away.
    """
    server: Any = server_of(redis, keys.of(partition, "ready"))
    pipeline = server.pipeline(transaction=False)
    for user_id in users:
        pipeline.lindex(keys.lane(partition, user_id), -1)
    found: list[Any] = pipeline.execute(raise_on_error=False)
    return found


def of_user(redis: Redis, keys: Keys, partition: Partition, user_id: int) -> UserLane:
    """Read a user's lane in two round trips. A key of another type counts as missing. Raises RedisError."""
    user, ready = str(user_id), keys.of(partition, "ready")
    server: Any = server_of(redis, ready)
    pipeline = server.pipeline(transaction=True)
    pipeline.time()
    pipeline.llen(keys.lane(partition, user_id))
    pipeline.zscore(ready, user)
    pipeline.zscore(keys.of(partition, "claimed"), user)
    pipeline.hget(keys.of(partition, "tokens"), user)
    pipeline.hget(keys.of(partition, "parked"), user)
    replies = pipeline.execute(raise_on_error=False)
    for reply in replies:
        if isinstance(reply, RedisError) and not isinstance(reply, ResponseError):
            raise reply
    time, waiting, due, claimed, token, note = replies
    due_ms = time_in(due)
    return UserLane(
        partition,
        ms_of(time),
        waiting if isinstance(waiting, int) else None,
        due_ms,
        time_in(claimed),
        worker_in(token) if isinstance(token, bytes) else None,
        0 if due_ms is None else int(server.zcount(ready, "-inf", f"({due_ms}")),
        parked_lane(user.encode(), note, due) if isinstance(note, bytes) else None,
    )


def worker_in(token: bytes) -> str | None:
    """The worker that a claim's token names: `host:pid` and a random number behind a space."""
    worker, space, _ = token.rpartition(b" ")
    return printable(worker, MOST_SHOWN) if space else None
