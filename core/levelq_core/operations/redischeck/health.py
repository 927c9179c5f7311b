"""What a Redis server is asked about itself: does it take commands, and would it keep them?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from redis import Redis
from redis.exceptions import ResponseError

from levelq_core.operations.dbcheck import Finding

# Like every script without flags it may write, so it is refused for whatever a push would be refused for: memory
# that is full, a log that cannot be written, a replica, too few replicas. It does nothing.
_PROBE = "#!lua\nreturn 1"


def refusal(redis: Redis) -> str | None:
    """Why the server refuses pushes, in its own words; None if it takes them. Raises RedisError if it is away."""
    try:
        redis.eval(_PROBE, 0)
    except ResponseError as refused:
        return str(refused).rstrip(".")
    return None


def risks(info: dict[str, Any]) -> Iterator[Finding]:
    """What of the server's INFO can cost commands that were acknowledged."""
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        problem = f"maxmemory-policy is {policy}, expected noeviction: Redis may drop waiting commands"
        yield Finding("error", problem, _configured("maxmemory-policy", "noeviction"), "eviction")
    if not info.get("aof_enabled"):
        problem = "appendonly is off, expected yes: a restart of Redis loses waiting commands"
        yield Finding("warning", problem, _configured("appendonly", "yes"), "durability")
    elif info.get("aof_last_write_status", "ok") != "ok":
        problem = "the append-only file cannot be written, so Redis takes no writes: look at its disk and its log"
        yield Finding("error", problem, topic="durability")
    elif info.get("aof_last_bgrewrite_status", "ok") != "ok":
        problem = "the append-only file could not be rewritten and grows without end: look at Redis's disk and its log"
        yield Finding("warning", problem, topic="durability")


def _configured(option: str, value: str) -> tuple[str, ...]:
    return (f"CONFIG SET {option} {value}", "-- and set it in its configuration file")
