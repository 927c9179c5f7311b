"""What is checked once, before a worker starts: a service that cannot do its work says so at once."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from redis import Redis
from redis.exceptions import RedisError
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from levelq_core.binding import bound_to, require_same
from levelq_core.cluster import Cluster, servers_of
from levelq_core.connections import UNCLUSTERED_URL, connect
from levelq_core.dbcheck import check_start
from levelq_core.engine import engine_for, unreachable
from levelq_core.errors import ConfigurationError
from levelq_core.health import risks
from levelq_core.identity import ensure_identity
from levelq_core.lanes import Lanes
from levelq_core.settings import Settings, redacted

log = logging.getLogger("levelq")


def preflight(settings: Settings) -> None:
    """Raise ConfigurationError for what cannot work; warn of what would lose acknowledged commands."""
    _ = settings.tracks
    _check_lanes(settings)
    if settings.rq_url is not None:
        _check_queue(settings.rq_url, settings)
    try:
        check_database(settings)
        with _engine(settings) as engine:
            mine = ensure_identity(engine)
    except DBAPIError as error:
        raise unreachable(settings, error) from None
    with _asked("LEVELQ_REDIS_URL", settings.redis_url, settings) as client:
        bound = bound_to(Lanes(client, settings))
    if bound is not None:  # else the first worker process binds it
        require_same(settings.namespace, bound, mine)


def check_database(settings: Settings) -> None:
    """Raise SchemaError for what a worker would get wrong there; warn of what may lose commits or end soon.

    Raises DBAPIError if the database cannot be asked.
    """
    with _engine(settings) as engine, engine.connect() as connection:
        for warning in check_start(connection, settings.tracks):
            log.warning("PostgreSQL: %s", warning)
        for option in ("synchronous_commit", "fsync", "full_page_writes"):
            if connection.execute(text(f"SHOW {option}")).scalar_one() == "off":
                log.warning("PostgreSQL runs with %s=off: a crash can lose commits; set it on", option)


@contextmanager
def _engine(settings: Settings) -> Iterator[Engine]:
    engine = engine_for(settings, name="levelq preflight")
    try:
        yield engine
    finally:
        engine.dispose()


def _check_lanes(settings: Settings) -> None:
    """The Redis of the lanes, each server of it."""
    name = "LEVELQ_REDIS_URL"
    with _asked(name, settings.redis_url, settings) as client:
        servers = servers_of(client)
        found = [_info(server) for server in servers]
        if not isinstance(client, Cluster) and found[0].get("cluster_enabled"):
            raise ConfigurationError(f"{UNCLUSTERED_URL}; and LEVELQ_RQ_URL with one server for RQ")
        _warn_of_shards(Lanes(client, settings), settings)
    for risk in dict.fromkeys(risk for info in found for risk in risks(info)):
        log.warning("%s: %s", name, risk)


def _check_queue(url: str, settings: Settings) -> None:
    """The Redis of RQ's own keys, where it is another."""
    name = "LEVELQ_RQ_URL"
    with _asked(name, url, settings) as client:
        info = _info(client)
    if info.get("cluster_enabled"):
        raise ConfigurationError(
            f"{name}: {redacted(url)} is one server of a cluster, expected one that is in none, as RQ needs"
        )
    for risk in risks(info):
        log.warning("%s: %s", name, risk)


@contextmanager
def _asked(name: str, url: str, settings: Settings) -> Iterator[Redis]:
    client = connect(url, settings.redis_seconds)
    try:
        yield client
    except RedisError as error:
        raise ConfigurationError(f"{name}: {redacted(url)}: {error}") from None
    finally:
        client.close()


def _info(server: Redis) -> dict[str, Any]:
    info: Any = server.info()
    return dict(info)


def _warn_of_shards(lanes: Lanes, settings: Settings) -> None:
    """LEVELQ_SHARDS counts only once; whoever sets it later should know."""
    for name, layout in lanes.ask_layouts(settings.tracks).found.items():
        if settings.shards not in (1, layout.shards):
            log.warning(
                "LEVELQ_SHARDS is %d, and %s has %d shards: `levelq shards %s %d` changes it",
                settings.shards,
                name,
                layout.shards,
                name,
                settings.shards,
            )
