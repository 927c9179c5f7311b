"""Connections for one reading or command. Each error names the setting and the host, never a password."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from redis import Redis
from redis.exceptions import RedisError
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from levelq_core.database.engine import engine_for, limit_silence, unreachable
from levelq_core.errors import ConfigurationError
from levelq_core.lanes.client import Lanes
from levelq_core.redis_client.pool import connect
from levelq_core.redis_client.url_options import redacted
from levelq_core.settings import Settings

from .checks import redis_error

_SILENT_SECONDS = 60.0  # longer than any statement of a reading or an act takes
_UNDEFINED = ("42P01", "42703", "42704", "3F000")  # a table, a column, an object, a schema


@contextmanager
def redis_of(settings: Settings, *, rq: bool = False) -> Iterator[Redis]:
    """A client of the lanes' Redis, or of RQ's. A RedisError inside becomes a ConfigurationError."""
    client = connect(settings.queue_url if rq else settings.redis_url, settings.redis_seconds)
    try:
        with redis_errors_named(settings, rq=rq):
            yield client
    finally:
        client.close()


@contextmanager
def redis_errors_named(settings: Settings, *, rq: bool = False) -> Iterator[None]:
    """A RedisError inside becomes a ConfigurationError that names the setting and the URL."""
    try:
        yield
    except RedisError as error:
        message = str(error).lower()
        hint = "" if "password" in message or "certificate" in message else "; `levelq doctor` shows more"
        name = "LEVELQ_RQ_URL" if rq and settings.rq_url else "LEVELQ_REDIS_URL"
        url = settings.queue_url if rq else settings.redis_url
        raise ConfigurationError(f"{redis_error(name, url, error)}{hint}", setting=name, value=redacted(url)) from error


@contextmanager
def lanes_of(settings: Settings) -> Iterator[Lanes]:
    """The lanes. A RedisError inside becomes a ConfigurationError."""
    with redis_of(settings) as redis:
        yield Lanes(redis, settings)


@contextmanager
def database_of(
    settings: Settings, engine: Engine | None = None, *, name: str = "levelq", patient: bool = False
) -> Iterator[Engine]:
    """The application's engine, or one of levelq's own. A DBAPIError inside becomes a ConfigurationError.

    `name`: what PostgreSQL shows for the sessions of levelq's own. These give up a server that stays silent for a
    minute, unless `patient`: for statements over whole tables.
    """
    # An engine for reports may have server-side cursors, which can only SELECT.
    given = engine and engine.execution_options(stream_results=False, yield_per=None)
    used = given or engine_for(settings, name=name, connections=2)
    if engine is None and not patient:
        limit_silence(used, _SILENT_SECONDS)
    try:
        yield used
    except DBAPIError as error:
        undefined = getattr(error.orig, "sqlstate", None) in _UNDEFINED
        hint = "; `levelq db upgrade` makes the tables, `levelq db check` shows what is missing" if undefined else ""
        why = unreachable(settings, error)
        raise ConfigurationError(f"{why}{hint}", setting=why.setting, value=why.value) from error
    finally:
        if engine is None:
            used.dispose()


def limit_act(connection: Connection, *, lock_ms: int, statement_ms: int | None = None) -> None:
    """Limit the lock waits and the statements of this transaction, in which an operator acts.

    Other code may wait for it, so it waits briefly. Its commit survives a crash of the server.
    """
    connection.execute(_LIMITS, {"lock_ms": lock_ms, "statement_ms": statement_ms})


def require_engine(engine: object) -> None:
    """Raise TypeError for anything but a SQLAlchemy Engine, such as a URL, a Session or an AsyncEngine."""
    if not isinstance(engine, Engine):
        raise TypeError(f"engine: expected a SQLAlchemy Engine, got {type(engine).__qualname__}")


_LIMITS = text("""
    SELECT set_config('lock_timeout', CAST(CAST(:lock_ms AS int) AS text), true),
           set_config('statement_timeout',
                      coalesce(CAST(CAST(:statement_ms AS int) AS text), current_setting('statement_timeout')), true),
           CASE WHEN current_setting('synchronous_commit') = 'off'
                THEN set_config('synchronous_commit', 'on', true) END
""")
