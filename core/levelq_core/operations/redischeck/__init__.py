"""Checks of a Redis server: what levelq needs of it, and what would make it lose commands, each with the remedy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from redis import Redis
from redis.exceptions import NoPermissionError

from levelq_core.keys import Keys
from levelq_core.operations.dbcheck import Finding
from levelq_core.redis_client.cluster import UNCLUSTERED_URL
from levelq_core.redis_client.encryption import redis_exposures
from levelq_core.redis_client.topology import server_of, servers_of, topology_of
from levelq_core.settings import redacted

from .health import check_clock, check_durability, check_memory, check_role, check_version, risks
from .writing import check_scripts, check_writing

_STOPS = ("redis", "pushes", "durability")  # an error of these topics stops scripts, too: one cause is reported once


def check_encryption(name: str, url: str) -> Iterator[Finding]:
    """Yield a warning for each connection to another host that is not encrypted or not verified."""
    for problem, advice in redis_exposures(url):
        yield Finding("warning", f"{name}: {problem}", (f"-- {advice}",), "encryption")


def check_lanes(redis: Redis, keys: Keys, url: str) -> Iterator[Finding]:
    """Check each server of the lanes' Redis, then write there. Raises RedisError if one does not answer."""
    clustered = topology_of(redis).several_servers
    found = [finding for server in servers_of(redis) for finding in _check_server(server, url, clustered=clustered)]
    yield from found
    if not any(finding.severity == "error" and finding.topic in _STOPS for finding in found):
        yield from check_writing(server_of(redis, keys.check), keys.check)
        for server in servers_of(redis):
            yield from check_scripts(server)


def _check_server(server: Redis, url: str, *, clustered: bool) -> Iterator[Finding]:
    try:
        info: dict[str, Any] = dict(server.info())
    except NoPermissionError as error:
        problem = f"at {redacted(url)}: its version and its safety are unknown: {error}"
        yield Finding("warning", problem, ("-- allow +info to this user",), "redis")
        return
    version = check_version(info, redacted(url))
    yield version
    if info.get("cluster_enabled") and not clustered:
        yield Finding("error", f"{UNCLUSTERED_URL}; and LEVELQ_RQ_URL with one server for RQ", topic="redis")
    elif version.severity == "ok":
        yield from check_role(info)
        yield from check_durability(server, info)
        yield check_memory(info)
        yield check_clock(server)


def check_queue(redis: Redis, url: str) -> Iterator[Finding]:
    """Check the Redis of RQ's own keys, where it is another one. Raises RedisError if it does not answer."""
    info: dict[str, Any] = {}
    with suppress(NoPermissionError):
        info = dict(redis.info())
    redis.ping()
    if info.get("cluster_enabled"):
        problem = f"{redacted(url)} is one server of a cluster, expected one that is in none, as RQ needs"
        yield Finding("error", f"LEVELQ_RQ_URL: {problem}", topic="rq")
        return
    yield Finding("ok", f"reachable at {redacted(url)}", topic="rq")
    if info:  # RQ holds wake-ups alone, and a lost one is replaced
        yield from (Finding("warning", f"LEVELQ_RQ_URL: {risk.problem}", risk.fix, "rq") for risk in risks(info))


__all__ = ["check_encryption", "check_lanes", "check_queue"]
