"""What the doctor looks at, one function a topic. Each yields results and never raises for a sick patient."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Iterator
from importlib.resources import files
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from redis import Redis
from redis.exceptions import ResponseError
from sqlalchemy import text

from levelq_core import dbcheck
from levelq_core.addresses import Place
from levelq_core.cluster import servers_of
from levelq_core.errors import ConfigurationError, WrongDatabase
from levelq_core.health import refusal, risks
from levelq_core.identity import require_bound
from levelq_core.lanes import Lanes
from levelq_core.script_files import load as load_script
from levelq_core.settings import Settings, redacted

from .connecting import database_of, redis_of
from .screen import count

OK, WARN, FAIL = "ok", "warn", "FAIL"
OLDEST_REDIS = 7  # scripts there may say that they still work when memory is full
CLOCK_SECONDS = 1.0
SHOWN = 3  # of what `levelq db check` finds, errors first
NEARLY_FULL, TOO_FULL = 0.8, 0.95


class Result(NamedTuple):
    """One line: the verdict, what was looked at, what was found and what to do about it."""

    verdict: str
    what: str
    found: str


def redis_results(settings: Settings) -> Iterator[Result]:
    """The Redis that holds the lanes."""
    yield from _plaintext("LEVELQ_REDIS_URL", settings.redis_url)
    try:
        with redis_of(settings) as redis:
            for server in servers_of(redis):
                yield from _server_results(settings, server)
    except ConfigurationError as error:
        yield Result(FAIL, "redis", str(error))


def _server_results(settings: Settings, redis: Redis) -> Iterator[Result]:
    """One server of theirs."""
    info: dict[str, Any] = redis.info()
    yield _version(settings, info)
    yield _eviction(info)
    yield from _durability(redis, info)
    yield _memory(info)
    yield from _refusal(redis)
    yield _clock(redis)
    yield _scripts(redis)


def _version(settings: Settings, info: dict[str, Any]) -> Result:
    kind = "Valkey" if "valkey_version" in info else "Redis"
    version = str(info.get("valkey_version") or info.get("redis_version", "0"))
    found = f"{kind} {version} at {redacted(settings.redis_url)}"
    if int(version.split(".", maxsplit=1)[0]) < OLDEST_REDIS:
        return Result(FAIL, "redis", f"{found}: too old, use Redis {OLDEST_REDIS} or later, or Valkey")
    return Result(OK, "redis", found)


def _eviction(info: dict[str, Any]) -> Result:
    policy = info.get("maxmemory_policy")
    if policy == "noeviction":
        return Result(OK, "eviction", "maxmemory-policy noeviction")
    advice = "a full Redis silently drops lanes with all their commands; CONFIG SET maxmemory-policy noeviction"
    return Result(FAIL, "eviction", f"maxmemory-policy {policy}: {advice}, and in its configuration file")


def _durability(redis: Redis, info: dict[str, Any]) -> Iterator[Result]:
    if not info.get("aof_enabled"):
        lost = "a restart of Redis loses every command since its last snapshot; CONFIG SET appendonly yes"
        yield Result(WARN, "durability", f"appendonly no: {lost}, and in its configuration file")
        return
    yield from (Result(FAIL, "durability", risk) for risk in risks(info) if "append-only file" in risk)
    try:
        config: dict[str | None, str | None] = redis.config_get("appendfsync")
    except ResponseError:  # a managed Redis hides its configuration
        yield Result(WARN, "durability", "appendonly yes; appendfsync cannot be read here: ask whoever runs this Redis")
        return
    policy = config.get("appendfsync") or "unknown"
    meaning = {
        "always": "an acknowledged push survives a crash of Redis",
        "everysec": "a crash of Redis can lose about the last 2 s of pushes; a clean restart loses nothing",
    }.get(policy, "a crash of the machine can lose minutes of pushes; CONFIG SET appendfsync everysec")
    yield Result(OK if policy in ("always", "everysec") else WARN, "durability", f"appendfsync {policy}: {meaning}")


def _memory(info: dict[str, Any]) -> Result:
    used, limit = int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))
    if not limit:
        return Result(OK, "memory", f"{_mib(used)} used, no maxmemory; bounded by LEVELQ_PARTITION_LIMIT alone")
    full = used / limit
    found = f"{_mib(used)} of {_mib(limit)} used ({full:.0%})"
    if full < NEARLY_FULL:
        return Result(OK, "memory", found)
    advice = "start more workers, or raise maxmemory: a full Redis refuses pushes"
    return Result(FAIL if full > TOO_FULL else WARN, "memory", f"{found}: {advice}")


def _refusal(redis: Redis) -> Iterator[Result]:
    why = refusal(redis)
    if why is not None:
        yield Result(FAIL, "pushes", f"refused: {why}")


def _mib(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB"


def _clock(redis: Redis) -> Result:
    before = time.time()
    seconds, microseconds = redis.time()
    ours = (before + time.time()) / 2
    difference = abs(seconds + microseconds / 1e6 - ours)
    if difference <= CLOCK_SECONDS:
        return Result(OK, "clock", f"{1000 * difference:.0f} ms from this machine's")
    advice = "lanes go by the clock of Redis alone, but ids and logs will not match; synchronize both (NTP)"
    return Result(WARN, "clock", f"{difference:.1f} s from this machine's: {advice}")


def _scripts(redis: Redis) -> Result:
    names = [path.name[:-4] for path in (files("levelq_core") / "lua").iterdir() if path.name.endswith(".lua")]
    scripts = sorted(set(names) - {"prelude"})
    try:
        for name in scripts:
            redis.script_load(load_script(name).text)
    except ResponseError as error:
        return Result(FAIL, "scripts", f"{name}.lua is refused ({error}): allow SCRIPT LOAD and EVALSHA to this user")
    return Result(OK, "scripts", f"all {len(scripts)} load")


def rq_results(settings: Settings) -> Iterator[Result]:
    """The Redis that holds RQ's own keys, if it is another."""
    if settings.rq_url is None:
        return
    yield from _plaintext("LEVELQ_RQ_URL", settings.rq_url)
    try:
        with redis_of(settings, rq=True) as redis:
            redis.ping()
        yield Result(OK, "rq", f"reachable at {redacted(settings.rq_url)}")
    except ConfigurationError as error:
        yield Result(FAIL, "rq", str(error))


def _plaintext(name: str, url: str) -> Iterator[Result]:
    """Whether passwords and commands cross a network in the clear."""
    parts = urlsplit(url)
    place = Place.read(url)
    hosts = [address.host for address in place.addresses] if place else [parts.hostname or "localhost"]
    for host in (host for host in hosts if parts.scheme.startswith("redis") and not _is_loopback(host)):
        if parts.scheme.partition("+")[0] == "redis":
            safe = parts.scheme.replace("redis", "rediss", 1)
            yield Result(WARN, "encryption", f"{name}: {parts.scheme}:// to {host} is not encrypted; use {safe}://")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def database_results(settings: Settings) -> Iterator[Result]:
    """The database, if one is set."""
    if settings.database_url is None:
        yield Result(OK, "database", "LEVELQ_DATABASE_URL is not set: enough to send, not to work")
        return
    try:
        with database_of(settings) as engine, engine.connect() as connection:
            version = connection.execute(text("SHOW server_version")).scalar_one()
            yield Result(OK, "database", f"PostgreSQL {version} at {redacted(settings.database_url)}")
            findings = dbcheck.check(connection, settings.tracks)
    except ConfigurationError as error:
        yield Result(FAIL, "database", str(error))
        return
    errors = [finding for finding in findings if finding.severity == "error"]
    if not findings:
        yield Result(OK, "schema", "complete, and commits are safe")
    for finding in sorted(findings, key=lambda finding: finding.severity)[:SHOWN]:
        yield Result(FAIL if finding.severity == "error" else WARN, "schema", finding.problem)
    if findings:
        verdict = FAIL if errors else WARN
        told = f"{count(len(errors), 'error')}, {count(len(findings) - len(errors), 'warning')}"
        yield Result(verdict, "schema", f"{told}; `levelq db check` prints what mends them")


def namespace_results(settings: Settings) -> Iterator[Result]:
    """What is wrong with the binding of the namespace; nothing if the database is ours, or none is bound yet."""
    if settings.database_url is None:
        return
    try:
        with redis_of(settings) as redis, database_of(settings) as engine, engine.connect() as connection:
            require_bound(connection, Lanes(redis, settings))
    except WrongDatabase as error:
        yield Result(FAIL, "namespace", str(error))
    except ConfigurationError as error:
        yield Result(WARN, "namespace", f"{settings.namespace}: its binding cannot be checked: {error}")
