"""What is checked once, before a worker starts: a service that cannot do its work says so at once."""

from __future__ import annotations

import logging
from typing import Any

from redis.exceptions import RedisError
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from levelq_core.connections import connect
from levelq_core.engine import engine_for, unreachable
from levelq_core.errors import ConfigurationError
from levelq_core.health import risks
from levelq_core.schema import schema_of
from levelq_core.settings import Settings, redacted

log = logging.getLogger("levelq")


def preflight(settings: Settings) -> None:
    """Raise ConfigurationError for what cannot work; warn of what would lose acknowledged commands."""
    _ = settings.tracks
    for name, url in {"LEVELQ_REDIS_URL": settings.redis_url, "LEVELQ_RQ_URL": settings.queue_url}.items():
        _check_redis(name, url, settings)
    engine = engine_for(settings, name="levelq preflight")
    try:
        with engine.connect() as connection:
            schema_of(connection)
            for option in ("synchronous_commit", "fsync", "full_page_writes"):
                if connection.execute(text(f"SHOW {option}")).scalar_one() == "off":
                    log.warning("PostgreSQL runs with %s=off: a crash can lose commits; set it on", option)
    except DBAPIError as error:
        raise unreachable(settings, error) from None
    finally:
        engine.dispose()


def _check_redis(name: str, url: str, settings: Settings) -> None:
    client = connect(url, settings.redis_seconds)
    try:
        info: Any = client.info()
    except RedisError as error:
        raise ConfigurationError(f"{name}: {redacted(url)}: {error}") from None
    finally:
        client.close()
    for risk in risks(info):
        log.warning("%s: %s", name, risk)
