"""Whether the drains of a partition make progress, read from its keys. Changes nothing."""

from __future__ import annotations

from typing import Any, NamedTuple

from redis import Redis
from redis.exceptions import RedisError, ResponseError

from levelq_core.keys import Keys, Partition
from levelq_core.redis_client.topology import server_of, time_ms


class Progress(NamedTuple):
    """One partition at one moment. Times are in seconds, by the server's clock.

    `drains`: live registrations. `since`: time since a drain last decided or parked something, None if unknown. `due`:
    for how long the first due lane has been due, 0 if none is. `overdue`: expired claims that were not returned, the
    first of them `overdue_for` ago. `noted`: lanes with a note of why they are parked. `restoring`: claims are blocked
    until a worker has restored the outbox commands that Redis lost.
    """

    drains: int
    since: float | None
    due: float
    overdue: int
    overdue_for: float
    noted: int
    restoring: bool


def progress_of(redis: Redis, keys: Keys, partition: Partition) -> Progress:
    """Read it in one round trip. A key of another type counts as missing. Raises RedisError."""
    ready, claimed = keys.of(partition, "ready"), keys.of(partition, "claimed")
    server: Any = server_of(redis, ready)
    now = time_ms(server)
    pipeline = server.pipeline(transaction=True)
    pipeline.zcount(keys.of(partition, "drains"), f"({now}", "+inf")
    pipeline.get(keys.of(partition, "progress"))
    pipeline.zrange(ready, 0, 0, withscores=True)
    pipeline.zcount(claimed, "-inf", now)
    pipeline.zrange(claimed, 0, 0, withscores=True)
    pipeline.hlen(keys.of(partition, "parked"))
    pipeline.exists(keys.of(partition, "filled"))
    pipeline.exists(keys.of(partition, "relay"))
    found = pipeline.execute(raise_on_error=False)
    drains, at, due, overdue, first, noted, restored, leased = (_readable(answer) for answer in found)
    return Progress(
        drains=drains or 0,
        since=(now - int(at)) / 1000 if at and at.isdigit() else None,
        due=_age(now, due),
        overdue=overdue or 0,
        overdue_for=_age(now, first),
        noted=noted or 0,
        restoring=bool(leased and not restored),
    )


def _readable(answer: Any) -> Any:
    if isinstance(answer, RedisError) and not isinstance(answer, ResponseError):
        raise answer
    return None if isinstance(answer, ResponseError) else answer


def _age(now: int, first: list[tuple[bytes, float]] | None) -> float:
    return max(0.0, now - first[0][1]) / 1000 if first else 0.0
