"""Settings and connections for the commands. Each error names the setting and the host, never a password."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from levelq_core.database.urls import check_database_urls
from levelq_core.errors import ConfigurationError
from levelq_core.operations import connections
from levelq_core.operations.identity import require_ours
from levelq_core.settings import Settings


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


lanes_of, redis_of = connections.lanes_of, connections.redis_of
database_of = partial(connections.database_of, name="levelq command line")


def refuse_foreign_lanes(settings: Settings) -> None:
    """Raise WrongDatabase if a database is set and the namespace is bound to another; silent if that is unknown now."""
    if settings.database_url is not None:
        with database_of(settings) as engine:
            require_ours(engine, settings)
