"""The checks before a worker starts: one that cannot work ends at once, with the reasons."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from redis.exceptions import RedisError
from sqlalchemy.exc import DBAPIError

from levelq_core.database.engine import engine_for, unreachable
from levelq_core.database.urls import check_database_urls
from levelq_core.lanes.client import Lanes
from levelq_core.lanes.namespace_binding import bound_to, require_same
from levelq_core.operations.checks import (
    LANES,
    check_all,
    check_database,
    check_lanes,
    check_settings,
    reason,
    redis_error,
    require_sound,
)
from levelq_core.operations.dbcheck import Finding
from levelq_core.operations.identity import ensure_identity
from levelq_core.redis_client.pool import connect
from levelq_core.settings import Settings

log = logging.getLogger("levelq")


def preflight(settings: Settings) -> None:
    """Raise ConfigurationError, one reason for each error that `levelq doctor` shows; log the warnings.

    A server that does not answer is an error here, because a wrong address looks the same.
    """
    _ = settings.tracks, settings.sqlalchemy_url
    check_database_urls(settings)
    _require(check_all(settings, thorough=False, binding=False))
    try:
        _require_binding(settings)
    except RedisError as error:
        raise redis_error(LANES, settings.redis_url, error) from None
    except DBAPIError as error:
        raise unreachable(settings, error) from None


def check_servers(settings: Settings) -> None:
    """The same for a worker that RQ's own command starts.

    Raises ConfigurationError as above; RedisError or DBAPIError if a server does not answer: the worker waits for it.
    """
    _require([*check_settings(settings), *check_lanes(settings), *check_database(settings, thorough=False)])


def _require(findings: Iterable[Finding]) -> None:
    found = list(findings)
    for line in dict.fromkeys(_warning(finding) for finding in found if finding.severity == "warning"):
        log.warning("%s", line)
    require_sound(found)


def _warning(finding: Finding) -> str:
    if finding.topic == "schema":
        return f"PostgreSQL: {reason(finding)}"
    if finding.topic in ("encryption", "rq", "shards"):  # these name their setting
        return reason(finding)
    return f"{LANES}: {finding.problem}"


def _require_binding(settings: Settings) -> None:
    """Raise WrongDatabase if the namespace is bound to another database; the first worker process binds it."""
    engine = engine_for(settings, name="levelq preflight")
    client = connect(settings.redis_url, settings.redis_seconds)
    try:
        bound = bound_to(Lanes(client, settings))
        mine = ensure_identity(engine)
        if bound is not None:
            require_same(settings.namespace, bound, mine)
    finally:
        client.close()
        engine.dispose()
