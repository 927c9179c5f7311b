"""The settings of this console as they are in force, without secrets; what it is bound to, and all versions."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

from sqlalchemy import Engine
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from levelq.console.console import Console
from levelq.console.rendering import page
from levelq_core.domain.catalog import Catalog
from levelq_core.errors import ConfigurationError
from levelq_core.lanes.namespace_binding import DatabaseIdentity, bound_to
from levelq_core.operations.connections import lanes_of, redis_of
from levelq_core.operations.identity import identity_of
from levelq_core.operations.redischeck.health import check_version
from levelq_core.operations.wording import one_line
from levelq_core.redis_client.topology import servers_of
from levelq_core.redis_client.url_options import redacted
from levelq_core.settings import Settings

from .listing import from_database
from .setting_meanings import GROUPS, MEANINGS, UNSET

_LIBRARIES = ("levelq", "psycopg", "SQLAlchemy", "redis", "rq", "starlette", "uvicorn")


class Row(NamedTuple):
    """A setting. `default`: what it is unless given; `is_set`: whether it differs from that."""

    variable: str
    value: str
    default: str
    meaning: str
    is_set: bool


class Servers(NamedTuple):
    """What the console reaches. `mine`: its database; `bound`: the one that the namespace is bound to."""

    database: str | None
    redis: tuple[str, ...]
    mine: DatabaseIdentity | None
    bound: DatabaseIdentity | None
    problems: tuple[str, ...]


def settings(request: Request) -> Response:
    """`/settings`."""
    console: Console = request.app.state.console
    groups = {name: [_row(console.settings, field) for field in fields] for name, fields in GROUPS.items()}
    rest = [name for name in type(console.settings).model_fields if not any(name in found for found in GROUPS.values())]
    if rest:
        groups["Others"] = [_row(console.settings, field) for field in rest]
    return page(
        request, "settings.html", groups=groups, servers=_servers(console), versions=dict(_versions()),
        tracks=console.settings.tracks,
    )  # fmt: skip


def _row(given: Settings, name: str) -> Row:
    value, default = getattr(given, name), type(given).model_fields[name].default
    shown, usual = _shown(name, value), _shown(name, default)
    return Row(f"LEVELQ_{name.upper()}", shown, usual, MEANINGS.get(name, ""), shown != usual)


def _shown(name: str, value: Any) -> str:
    """A value in words, and no secret: of a URL not its password."""
    if value is None:
        return UNSET.get(name, "none")
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return f"{value:,g}" if isinstance(value, float) else f"{value:,}"
    if isinstance(value, Catalog):
        return "given as an object"
    return redacted(str(value))


def _servers(console: Console) -> Servers:
    def read(engine: Engine) -> tuple[str, DatabaseIdentity]:
        with engine.connect() as connection:
            found = identity_of(connection)
            return ".".join(map(str, connection.dialect.server_version_info or ())), found

    problems: list[str] = []
    database, mine, bound = None, None, None
    try:
        seen, problem = from_database(console, read)
        database, mine = seen or (None, None)
        problems += [problem] if problem else []
    except ConfigurationError as error:  # the table of identities is missing, or empty
        problems.append(one_line(str(error)))
    redis: tuple[str, ...] = ()
    try:
        with lanes_of(console.settings) as lanes:
            redis = tuple(_redis(lanes.redis, console.settings.redis_url))
            bound = bound_to(lanes)
        if console.settings.rq_url is not None:
            with redis_of(console.settings, rq=True) as rq:
                redis += tuple(_redis(rq, console.settings.rq_url))
    except ConfigurationError as error:
        problems.append(one_line(str(error)))
    return Servers(database, redis, mine, bound, tuple(dict.fromkeys(problems)))


def _redis(redis: Any, url: str) -> Iterator[str]:
    for server in servers_of(redis):
        yield one_line(check_version(server.info("server"), redacted(url)).problem)


def _versions() -> Iterator[tuple[str, str]]:
    yield "Python", platform.python_version()
    for name in _LIBRARIES:
        try:
            yield name, version(name)
        except PackageNotFoundError:  # part of another package
            continue


routes = [Route("/settings", settings, name="settings")]
