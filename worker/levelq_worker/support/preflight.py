"""The checks before a worker starts: one that cannot work ends at once, with the reasons."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from contextlib import closing

from redis.exceptions import RedisError
from sqlalchemy.exc import DBAPIError

from levelq_core.database.engine import engine_open, unreachable
from levelq_core.database.urls import check_database_urls
from levelq_core.lanes.client import Lanes
from levelq_core.lanes.namespace_binding import bound_to, require_same
from levelq_core.log_events import log_event
from levelq_core.operations import checks
from levelq_core.operations.dbcheck import Finding
from levelq_core.operations.identity import ensure_identity
from levelq_core.redis_client.pool import connect
from levelq_core.settings import Settings


def preflight(settings: Settings) -> None:
    """Raise ConfigurationError, one reason for each error that `levelq doctor` shows; log the warnings.

    A server that does not answer is an error here, because a wrong address looks the same.
    """
    _ = settings.tracks, settings.sqlalchemy_url
    check_database_urls(settings)
    _require(checks.check_all(settings, thorough=False, binding=False))
    try:
        _require_binding(settings)
    except RedisError as error:
        raise checks.redis_error(checks.LANES, settings.redis_url, error) from None
    except DBAPIError as error:
        raise unreachable(settings, error) from None


def check_servers(settings: Settings) -> None:
    """The same for a worker that RQ's own command starts.

    Raises ConfigurationError as above; RedisError or DBAPIError if a server does not answer: the worker waits for it.
    """
    found = [*checks.check_settings(settings), *checks.check_lanes(settings)]
    _require(found + checks.check_database(settings, thorough=False))


def _require(findings: Iterable[Finding]) -> None:
    found = list(findings)
    for line in dict.fromkeys(_warning(finding) for finding in found if finding.severity == "warning"):
        log_event(logging.WARNING, "check_warning", "%(problem)s", problem=line)
    checks.require_sound(found)


def _warning(finding: Finding) -> str:
    if finding.topic == "schema":
        return f"PostgreSQL: {checks.reason(finding)}"
    if finding.topic in ("encryption", "rq", "shards"):  # these name their setting
        return checks.reason(finding)
    return f"{checks.LANES}: {finding.problem}"


def _require_binding(settings: Settings) -> None:
    """Raise WrongDatabase if the namespace is bound to another database; the first worker process binds it."""
    with (
        engine_open(settings, name="levelq preflight") as engine,
        closing(connect(settings.redis_url, settings.redis_seconds)) as redis,
    ):
        bound = bound_to(Lanes(redis, settings))
        mine = ensure_identity(engine)
        if bound is not None:
            require_same(settings.namespace, bound, mine)
