"""The one list of checks: settings, Redis, the database, and the binding of the namespace to the database.

`levelq doctor` shows all of it, `levelq db check` the database's part with the statements, and a worker refuses to
start on its errors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial

from redis.exceptions import RedisError
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from levelq_core.database.engine import engine_open, unreachable
from levelq_core.domain.catalog import Catalog
from levelq_core.errors import ConfigurationError, SchemaError, WrongDatabase
from levelq_core.lanes.client import Lanes
from levelq_core.redis_client.encryption import unverified
from levelq_core.redis_client.pool import connect
from levelq_core.redis_client.url_options import redacted
from levelq_core.settings import Settings

from . import dbcheck, redischeck
from .dbcheck import Finding
from .identity import require_bound
from .readings.enforcement import SENTENCES, is_enforced

LANES, QUEUE = "LEVELQ_REDIS_URL", "LEVELQ_RQ_URL"
ENGINE = "levelq checks"  # what PostgreSQL shows as the name of these sessions


def check_all(settings: Settings, *, thorough: bool = True, binding: bool = True) -> list[Finding]:
    """Check everything. A server that does not answer is an error, too; nothing is raised for it.

    `thorough`: see dbcheck.check. `binding`: whether to check that the namespace is bound to this database. Without
    LEVELQ_DATABASE_URL only what a producer needs is checked.
    """
    found = list(check_settings(settings))
    found += _answered("redis", settings, check_lanes)
    if settings.rq_url is not None:
        found += _answered("rq", settings, check_queue)
    if settings.database_url is None:
        found.append(Finding("ok", "LEVELQ_DATABASE_URL is not set: enough to send, not to work", topic="database"))
        return found
    found += _answered("database", settings, partial(check_database, thorough=thorough))
    reached = not any(finding.severity == "error" and finding.topic in ("redis", "database") for finding in found)
    return [*found, *_check_binding(settings)] if binding and reached else found


def _answered(topic: str, settings: Settings, check: Callable[[Settings], list[Finding]]) -> list[Finding]:
    """What a check finds, or one error if its server does not answer."""
    try:
        return check(settings)
    except (RedisError, DBAPIError, ConfigurationError) as error:
        return [Finding("error", str(_named(topic, settings, error)), topic=topic)]


def _named(topic: str, settings: Settings, error: Exception) -> Exception:
    """The error with the setting and the URL of the server that raised it."""
    if isinstance(error, RedisError):
        name, url = (QUEUE, settings.queue_url) if topic == "rq" else (LANES, settings.redis_url)
        return redis_error(name, url, error)
    return unreachable(settings, error) if isinstance(error, DBAPIError) else error


def check_settings(settings: Settings) -> Iterator[Finding]:
    """Yield the namespace and the catalog, or why that cannot be read, and URLs of Redis that are not safe."""
    try:
        names = ", ".join(settings.tracks)
    except ConfigurationError as error:
        yield Finding("error", str(error), topic="settings")
    else:
        where = "given as an object" if isinstance(settings.catalog, Catalog) else settings.catalog or "built in"
        found = f"namespace {settings.namespace}, catalog {where}: {names}"
        yield Finding("ok", found, topic="settings")
    yield from redischeck.check_encryption(LANES, settings.redis_url)
    if settings.rq_url is not None:
        yield from redischeck.check_encryption(QUEUE, settings.rq_url)


def check_lanes(settings: Settings) -> list[Finding]:
    """Check the Redis of the lanes. Raises RedisError if it does not answer, ConfigurationError."""
    with closing(connect(settings.redis_url, settings.redis_seconds)) as redis:
        found = list(redischeck.check_lanes(redis, settings.keys, settings.redis_url))
        if not any(finding.severity == "error" for finding in found):
            found += _check_shards(Lanes(redis, settings), settings)
        return found


def _check_shards(lanes: Lanes, settings: Settings) -> Iterator[Finding]:
    """Yield a warning if LEVELQ_SHARDS was changed: it counts only at the first use of a specialization."""
    for name, layout in lanes.read_layouts(settings.tracks).found.items():
        if settings.shards not in (1, layout.shards):
            problem = f"LEVELQ_SHARDS is {settings.shards}, and {name} has {layout.shards} shards"
            yield Finding("warning", problem, (f"levelq shards {name} {settings.shards}",), "shards")


def check_queue(settings: Settings) -> list[Finding]:
    """Check the Redis of RQ's own keys. Raises RedisError if it does not answer."""
    with closing(connect(settings.queue_url, settings.redis_seconds)) as redis:
        return list(redischeck.check_queue(redis, settings.queue_url))


def check_database(settings: Settings, *, thorough: bool = True) -> list[Finding]:
    """Check the database. Raises DBAPIError if it does not answer, ConfigurationError."""
    with engine_open(settings, name=ENGINE) as engine, engine.connect() as connection:
        version = connection.execute(text("SELECT current_setting('server_version')")).scalar_one()
        where = Finding("ok", f"PostgreSQL {version} at {redacted(settings.database_url or '')}", topic="database")
        found = dbcheck.check(connection, settings.tracks, thorough=thorough)
        found = found or [Finding("ok", "complete and writable, and commits are safe")]
        enforced = [Finding("ok", SENTENCES["on"], topic="enforce")] if is_enforced(connection) else []
        return [where, *found, *enforced]


def _check_binding(settings: Settings) -> Iterator[Finding]:
    """Yield what is wrong with the binding of the namespace. A namespace that is not bound yet is fine."""
    try:
        with (
            closing(connect(settings.redis_url, settings.redis_seconds)) as redis,
            engine_open(settings, name=ENGINE) as engine,
            engine.connect() as connection,
        ):
            require_bound(connection, Lanes(redis, settings))
    except WrongDatabase as error:
        yield Finding("error", str(error), topic="namespace")
    except (RedisError, DBAPIError, ConfigurationError) as error:
        problem = f"{settings.namespace}: its binding cannot be checked: {_named('redis', settings, error)}"
        yield Finding("warning", problem, topic="namespace")


def redis_error(name: str, url: str, error: Exception) -> ConfigurationError:
    """An error of Redis in one line: the setting, the URL without its password, the message."""
    cause = str(error).rstrip(".")
    shown, advice = redacted(url), unverified(cause, name, "ssl_ca_certs")
    return ConfigurationError(f"{name}: {shown}: {cause}{advice}", setting=name, value=shown)


def require_sound(findings: list[Finding]) -> None:
    """Raise ConfigurationError with a reason for each error found; SchemaError if all are of the schema."""
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        reasons = list(dict.fromkeys(map(reason, errors)))
        kind = SchemaError if all(finding.topic == "schema" for finding in errors) else ConfigurationError
        raise kind("; ".join(reasons), reasons=reasons)


def reason(finding: Finding) -> str:
    """A finding in one line, with its fix."""
    if finding.topic == "schema" and finding.fix:
        return f"{finding.problem}; `levelq db check` prints the statements that fix it"
    fix = "; ".join(line.removeprefix("-- ") for line in finding.fix)
    return f"{finding.problem}: {fix}" if fix else finding.problem
