"""Settings and connections for the commands; whatever fails names the setting and the host, never a password."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from redis import Redis
from redis.exceptions import RedisError
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from levelq_core.database.engine import engine_for, unreachable
from levelq_core.database.sqlstate import sqlstate_of
from levelq_core.database.urls import check_database_urls
from levelq_core.errors import ConfigurationError
from levelq_core.operations.checks import redis_error
from levelq_core.operations.identity import require_ours
from levelq_core.redis_client.pool import connect
from levelq_core.settings import Settings

_UNDEFINED = ("42P01", "42703", "42704", "3F000")


def load() -> Settings:
    """The settings; their database URLs are checked. Raises ConfigurationError."""
    settings = Settings.load()
    check_database_urls(settings)
    return settings


def redis_urls(settings: Settings) -> dict[str, str]:
    """The Redis URLs by setting; LEVELQ_RQ_URL only where it is set apart."""
    urls = {"LEVELQ_REDIS_URL": settings.redis_url}
    return urls if settings.rq_url is None else urls | {"LEVELQ_RQ_URL": settings.rq_url}


@contextmanager
def redis_of(settings: Settings, *, rq: bool = False) -> Iterator[Redis]:
    """A client of the lanes' Redis, or of RQ's. What Redis refuses inside becomes a ConfigurationError."""
    name = "LEVELQ_RQ_URL" if rq and settings.rq_url else "LEVELQ_REDIS_URL"
    url = settings.queue_url if rq else settings.redis_url
    client = connect(url, settings.redis_seconds)
    try:
        yield client
    except RedisError as error:
        raise ConfigurationError(f"{redis_error(name, url, error)}{_hint(error)}") from error
    finally:
        client.close()


def _hint(error: RedisError) -> str:
    said = str(error).lower()
    return "" if "password" in said or "certificate" in said else "; `levelq doctor` looks closer"


@contextmanager
def database_of(settings: Settings) -> Iterator[Engine]:
    """An engine on the database. What it refuses inside becomes a ConfigurationError."""
    engine = engine_for(settings, name="levelq command line", connections=2)
    try:
        yield engine
    except DBAPIError as error:
        raise explained(settings, error) from error
    finally:
        engine.dispose()


def refuse_foreign_lanes(settings: Settings) -> None:
    """Raise WrongDatabase if a database is set and the namespace is bound to another; silent if that is unknown now."""
    if settings.database_url is not None:
        with database_of(settings) as engine:
            require_ours(engine, settings)


def explained(settings: Settings, error: DBAPIError) -> ConfigurationError:
    """The database's error for people, with the command that helps."""
    refused = unreachable(settings, error)
    if sqlstate_of(error) in _UNDEFINED:
        return ConfigurationError(f"{refused}; `levelq db upgrade` makes the tables, `levelq db check` looks closer")
    return refused
