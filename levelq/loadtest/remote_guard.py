"""Refuses servers that are not local, unless they are meant: a load test of the wrong servers is an outage.

Local is a Unix socket, a loopback address, or an address of an interface of this process's network namespace. A name
is local if all its addresses are, and a Cluster or Sentinels if all servers that they name are.
"""

from __future__ import annotations

import socket
from contextlib import closing
from ipaddress import ip_address
from typing import Any

import psutil
from psycopg import pq
from redis.connection import parse_url
from redis.exceptions import RedisError

from levelq_core.database.engine import target_of
from levelq_core.errors import ConfigurationError
from levelq_core.redis_client.pool import connect
from levelq_core.redis_client.topology import hosts_of as redis_hosts_of
from levelq_core.redis_client.url_options import redacted
from levelq_core.redis_client.urls import RedisTarget
from levelq_core.settings import Settings

_FAMILIES = (socket.AF_INET, socket.AF_INET6)


def refuse_remote(settings: Settings) -> None:
    """Raise ConfigurationError naming the first setting that leads to a host that is not local."""
    for name, hosts in hosts_of(settings).items():
        _refuse(name, hosts)
    # The hosts of the settings are local, so it is safe to connect to them and ask for the others.
    for name, url in {"LEVELQ_REDIS_URL": settings.redis_url, "LEVELQ_RQ_URL": settings.rq_url}.items():
        if url is not None:
            _refuse(name, _named_by_servers(name, url, settings))


def _refuse(name: str, hosts: list[str]) -> None:
    for host in hosts:
        if not is_local(host):
            raise ConfigurationError(
                f"{name}: expected a Unix socket, a loopback address or one of this machine's own, "
                f"got {host!r}: a load test there needs --allow-remote"
            )


def hosts_of(settings: Settings) -> dict[str, list[str]]:
    """By setting, the hosts and socket folders it leads to."""
    found = {"LEVELQ_REDIS_URL": _redis_hosts(settings.redis_url)}
    if settings.rq_url is not None:
        found["LEVELQ_RQ_URL"] = _redis_hosts(settings.rq_url)
    if settings.listen_url is not None:
        found["LEVELQ_LISTEN_URL"] = _database_hosts(settings.listen_url)
    return found | {"LEVELQ_DATABASE_URL": _database_hosts(settings.sqlalchemy_url)}


def _redis_hosts(url: str) -> list[str]:
    target = RedisTarget.read(url)
    if target is not None:
        return [address.host for address in target.addresses]
    parts: Any = parse_url(url)  # type: ignore[no-untyped-call]
    return [parts["path"] if "path" in parts else parts.get("host", "localhost")]


def _named_by_servers(name: str, url: str, settings: Settings) -> list[str]:
    """The servers of a Cluster, or the primary that Sentinels name; empty for one server."""
    if RedisTarget.read(url) is None:
        return []
    try:
        with closing(connect(url, settings.redis_seconds)) as client:
            return redis_hosts_of(client)
    except RedisError as error:
        raise ConfigurationError(f"{name}: {redacted(url)}: {error}") from None


def _database_hosts(url: str) -> list[str]:
    """What psycopg is given, and what libpq adds from the environment (PGHOST, PGSERVICE)."""
    parsed, several = target_of(url)
    _, given = parsed.get_dialect()().create_connect_args(parsed)
    options = {option.keyword.decode(): option.val.decode() for option in pq.Conninfo.get_defaults() if option.val}
    options |= {name: str(value) for name, value in {**given, **several}.items()}
    if options.get("service"):
        return [f"service={options['service']}"]  # the address is in a file that libpq reads
    hosts = options.get("hostaddr") or options.get("host") or "/"
    return [host.strip() or "/" for host in hosts.split(",")]


def is_local(host: str) -> bool:
    """Whether a host, an address or a socket folder is local."""
    if host.startswith(("/", "@")):
        return True
    try:
        addresses = {str(found[4][0]) for found in socket.getaddrinfo(host, None)}
    except (OSError, UnicodeError):
        return False
    return bool(addresses) and all(_is_own(address) for address in addresses)


def _is_own(address: str) -> bool:
    bare = address.partition("%")[0]
    parsed = ip_address(bare)
    cards = [card for cards in psutil.net_if_addrs().values() for card in cards if card.family in _FAMILIES]
    return parsed.is_loopback or parsed.is_unspecified or bare in {card.address.partition("%")[0] for card in cards}
