"""Settings and connections for the commands. Each error names the setting and the host, never a password."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from levelq_core.database.urls import check_database_urls
from levelq_core.errors import ConfigurationError
from levelq_core.settings import Settings
from levelq_worker.support.safe_log import log_safely

if TYPE_CHECKING:  # a command loads the libraries of the servers that it reads, and no others
    from redis import Redis
    from sqlalchemy import Engine

    from levelq_core.lanes.client import Lanes


def load() -> Settings:
    """The settings, by which this process logs; their database URLs are checked. Raises ConfigurationError."""
    settings = Settings.load()
    log_safely(settings)
    check_database_urls(settings)
    return settings


def known_specializations(settings: Settings, wanted: Sequence[str]) -> list[str]:
    """Names in upper case, without repeats; the whole catalog if `wanted` is empty. Raises ConfigurationError."""
    names = list(dict.fromkeys(name.upper() for name in wanted)) or list(settings.tracks)
    for name in names:
        if name not in settings.tracks:
            raise ConfigurationError(f"--specialization: expected one of {', '.join(settings.tracks)}, got {name!r}")
    return names


def lanes_of(settings: Settings) -> AbstractContextManager[Lanes]:
    """The lanes. A RedisError inside becomes a ConfigurationError."""
    from levelq_core.operations import connections

    return connections.lanes_of(settings)


def redis_of(settings: Settings, *, rq: bool = False) -> AbstractContextManager[Redis]:
    """A client of the lanes' Redis, or of RQ's. A RedisError inside becomes a ConfigurationError."""
    from levelq_core.operations import connections

    return connections.redis_of(settings, rq=rq)


def database_of(settings: Settings, *, patient: bool = False) -> AbstractContextManager[Engine]:
    """An engine on the database. A DBAPIError inside becomes a ConfigurationError.

    `patient`: for statements over whole tables, which may take long; else a server that is silent is given up.
    """
    from levelq_core.operations import connections

    return connections.database_of(settings, name="levelq command line", patient=patient)


def refuse_foreign_lanes(settings: Settings) -> None:
    """Raise WrongDatabase if a database is set and the namespace is bound to another; silent if that is unknown now."""
    if settings.database_url is not None:
        from levelq_core.operations.identity import require_ours

        with database_of(settings) as engine:
            require_ours(engine, settings)
