"""One Redis server: whether it takes commands, whether it would keep them, and whether its clock agrees."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from redis import Redis
from redis.exceptions import ResponseError

from levelq_core.operations.dbcheck import Finding

OLDEST = 7  # the first with scripts that may run when memory is full
CLOCK_SECONDS = 1.0
NEARLY_FULL = 0.8
# A script without flags may write, so the server refuses it for every reason to refuse a push: memory
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


def check_version(info: dict[str, Any], where: str) -> Finding:
    """Whether the version is recent enough."""
    kind = "Valkey" if "valkey_version" in info else "Redis"
    version = str(info.get("valkey_version") or info.get("redis_version", "0"))
    found = f"{kind} {version} at {where}"
    if int(version.split(".", maxsplit=1)[0]) < OLDEST:
        expected = f"Redis {OLDEST} or later, or Valkey"
        return Finding("error", f"{found} is too old, expected {expected}", (f"-- move to {expected}",), "redis")
    return Finding("ok", found, topic="redis")


def check_role(info: dict[str, Any]) -> Iterator[Finding]:
    """Yield an error if it is a replica, which takes no writes."""
    if info.get("role") == "slave":
        primary = f"{info.get('master_host')}:{info.get('master_port')}"
        fix = f"-- let LEVELQ_REDIS_URL lead to the primary, {primary}, or to its Sentinels (redis+sentinel://)"
        yield Finding("error", "this server is a replica, and takes no writes", (fix,), "pushes")


def check_durability(redis: Redis, info: dict[str, Any]) -> Iterator[Finding]:
    """Yield what the server may drop when it is full, or lose in a crash."""
    found = list(risks(info))
    if not any(finding.topic == "eviction" for finding in found):
        yield Finding("ok", "maxmemory-policy noeviction", topic="eviction")
    yield from found
    if not any(finding.topic == "durability" and finding.severity == "warning" for finding in found):
        yield _appendfsync(redis)


def _appendfsync(redis: Redis) -> Finding:
    try:
        config: dict[str | None, str | None] = redis.config_get("appendfsync")
    except ResponseError:  # a managed Redis hides its configuration
        unknown = "appendonly yes; appendfsync cannot be read here"
        return Finding("warning", unknown, ("-- ask the operator of this Redis",), "durability")
    policy = config.get("appendfsync") or "unknown"
    kept = {
        "always": "an acknowledged push survives a crash of Redis",
        "everysec": "a crash of Redis can lose about the last 2 s of pushes; a clean restart loses nothing",
    }
    if policy in kept:
        return Finding("ok", f"appendfsync {policy}: {kept[policy]}", topic="durability")
    problem = f"appendfsync {policy}: a crash of the machine can lose minutes of pushes"
    return Finding("warning", problem, ("CONFIG SET appendfsync everysec",), "durability")


def check_memory(info: dict[str, Any]) -> Finding:
    """How much memory is used. Workers drain a full Redis, so that is only a warning."""
    used, limit = int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))
    if not limit:
        found = f"{_mib(used)} used, no maxmemory; bounded by LEVELQ_PARTITION_LIMIT alone"
        return Finding("ok", found, topic="memory")
    full = used / limit
    found = f"{_mib(used)} of {_mib(limit)} used ({full:.0%})"
    if full < NEARLY_FULL:
        return Finding("ok", found, topic="memory")
    advice = "-- start more workers, or raise maxmemory"
    return Finding("warning", f"{found}: a full Redis refuses pushes", (advice,), "memory")


def _mib(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB"


def check_clock(redis: Redis) -> Finding:
    """How much its clock differs from this machine's."""
    before = time.time()
    seconds, microseconds = redis.time()
    here = (before + time.time()) / 2
    difference = abs(seconds + microseconds / 1e6 - here)
    if difference <= CLOCK_SECONDS:
        return Finding("ok", f"{1000 * difference:.0f} ms from this machine's", topic="clock")
    problem = f"{difference:.1f} s from this machine's: lanes go by the clock of Redis alone, but ids and logs differ"
    return Finding("warning", problem, ("-- synchronize both (NTP)",), "clock")
