"""Engines: how levelq connects to PostgreSQL by itself."""

from __future__ import annotations

from sqlalchemy import Engine, create_engine
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError

from .errors import ConfigurationError
from .settings import Settings, redacted
from .sqlstate import in_words


def engine_for(settings: Settings, *, name: str = "levelq", connections: int = 1) -> Engine:
    """An engine of at most `connections`, READ COMMITTED whatever the server's default is.

    Raises ConfigurationError if LEVELQ_DATABASE_URL is unset or cannot be read.
    """
    try:
        url = make_url(settings.sqlalchemy_url)
    except ValueError as error:
        raise ConfigurationError(f"LEVELQ_DATABASE_URL: {error}") from None
    seconds = max(2, int(settings.claim_seconds / 3))
    defaults = {"application_name": name, "connect_timeout": seconds}
    return create_engine(
        url,
        pool_size=connections,
        max_overflow=0,
        pool_reset_on_return="rollback",
        isolation_level="READ COMMITTED",
        connect_args={key: value for key, value in defaults.items() if key not in url.query},
    )


def unreachable(settings: Settings, error: DBAPIError) -> ConfigurationError:
    """An error for people: the setting, the host, what the server said, no password."""
    cause = in_words(error.orig if isinstance(error.orig, Exception) else error)
    return ConfigurationError(f"LEVELQ_DATABASE_URL: {redacted(settings.database_url or '')}: {cause}")
