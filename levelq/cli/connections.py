"""Settings and connections for the commands. Each error names the setting and the host, never a password."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from redis import Redis
from redis.exceptions import RedisError
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from levelq_core.database.engine import engine_for, unreachable
from levelq_core.database.urls import check_database_urls
from levelq_core.errors import ConfigurationError
from levelq_core.lanes.client import Lanes
from levelq_core.operations.checks import redis_error
from levelq_core.operations.identity import require_ours
from levelq_core.redis_client.pool import connect
from levelq_core.settings import Settings

_UNDEFINED = ("42P01", "42703", "42704", "3F000")  # a table, a column, an object, a schema


def load() -> Settings:
    """The settings; their database URLs are checked. Raises ConfigurationError."""
    settings = Settings.load()
    check_database_urls(settings)
    return settings


def known_specializations(settings: Settings, wanted: Sequence[str]) -> list[str]:
    """Names in upper case, without repeats; the whole catalog if `wanted` is empty. Raises ConfigurationError."""
    names = list(dict.fromkeys(name.upper() for name in wanted)) or list(settings.tracks)
    for name in names:
        if name not in settings.tracks:
            raise ConfigurationError(f"--specialization: expected one of {', '.join(settings.tracks)}, got {name!r}")
    return names


@contextmanager
def redis_of(settings: Settings, *, rq: bool = False) -> Iterator[Redis]:
    """A client of the lanes' Redis, or of RQ's. A RedisError inside becomes a ConfigurationError."""
    name = "LEVELQ_RQ_URL" if rq and settings.rq_url else "LEVELQ_REDIS_URL"
    url = settings.queue_url if rq else settings.redis_url
    client = connect(url, settings.redis_seconds)
    try:
        yield client
    except RedisError as error:
        message = str(error).lower()
        hint = "" if "password" in message or "certificate" in message else "; `levelq doctor` shows more"
        raise ConfigurationError(f"{redis_error(name, url, error)}{hint}") from error
    finally:
        client.close()


@contextmanager
def lanes_of(settings: Settings) -> Iterator[Lanes]:
    """The lanes. A RedisError inside becomes a ConfigurationError."""
    with redis_of(settings) as redis:
        yield Lanes(redis, settings)


@contextmanager
def database_of(settings: Settings) -> Iterator[Engine]:
    """An engine on the database. A DBAPIError inside becomes a ConfigurationError."""
    engine = engine_for(settings, name="levelq command line", connections=2)
    try:
        yield engine
    except DBAPIError as error:
        undefined = getattr(error.orig, "sqlstate", None) in _UNDEFINED
        hint = "; `levelq db upgrade` makes the tables, `levelq db check` shows what is missing" if undefined else ""
        raise ConfigurationError(f"{unreachable(settings, error)}{hint}") from error
    finally:
        engine.dispose()


def refuse_foreign_lanes(settings: Settings) -> None:
    """Raise WrongDatabase if a database is set and the namespace is bound to another; silent if that is unknown now."""
    if settings.database_url is not None:
        with database_of(settings) as engine:
            require_ours(engine, settings)
