"""Engines: how levelq connects to PostgreSQL by itself."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg.abc import RV, PQGen
from psycopg.rows import TupleRow
from sqlalchemy import URL, Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError

from levelq_core.errors import ConfigurationError
from levelq_core.redis_client.encryption import unverified
from levelq_core.redis_client.url_options import redacted
from levelq_core.settings import Settings

from .sqlstate import in_words
from .urls import check_database_url


class NoAnswer(psycopg.OperationalError):
    """The server kept silent for too long, and the connection was given up."""


class LimitedConnection(psycopg.Connection[TupleRow]):
    """A connection that gives a silent server up: no answer is waited for longer than `limit_seconds`.

    TCP's own limits see a network that is gone, not a proxy or a pooler that keeps the connection while the
    server's answer is lost. The thread that waits gives up by itself, between two looks at its own socket: a
    watchdog beside it might close a socket whose number has a new owner.
    """

    limit_seconds = math.inf

    def wait(self, gen: PQGen[RV], *args: Any, **options: Any) -> RV:
        """psycopg waits for every answer here. If none comes, closes the connection and raises OperationalError."""
        return super().wait(self._limited(gen), *args, **options)

    def _limited(self, gen: PQGen[RV]) -> PQGen[RV]:
        until = time.monotonic() + self.limit_seconds
        ready: Any = None  # psycopg looks ten times a second; what it found, or nothing
        try:
            awaited = gen.send(ready)
            while True:
                ready = yield awaited
                if not ready and time.monotonic() > until:
                    self.close()
                    raise NoAnswer(f"no answer for {self.limit_seconds:g} s; the connection was given up")
                awaited = gen.send(ready)
        except StopIteration as done:
            answer: RV = done.value
            return answer


def target_of(url: str, name: str = "LEVELQ_DATABASE_URL") -> tuple[URL, dict[str, str]]:
    """A database URL for SQLAlchemy, and hosts that SQLAlchemy cannot read as arguments for psycopg.

    Raises ConfigurationError, with no part of a password, if libpq would not take it. `name`: the setting.
    """
    before, hosts, after = check_database_url(name, url)
    args: dict[str, str] = {}
    if len(hosts) > 1 or any("/" in host for host, _ in hosts):
        args = {"host": ",".join(host for host, _ in hosts), "port": ",".join(port for _, port in hosts)}
        url = f"{url.partition('://')[0]}://{before}{after}"
    try:
        return make_url(f"postgresql+psycopg://{url.partition('://')[2]}"), args
    except (ValueError, ArgumentError):  # their words quote what may be half a password
        message = f"{name}: cannot be read; expected postgresql://user@host:port/database"
        raise ConfigurationError(message, setting=name) from None


def engine_for(settings: Settings, *, name: str = "levelq", connections: int = 1, limited: bool = False) -> Engine:
    """An engine of at most `connections`, READ COMMITTED whatever the server's default is.

    `limited`: no answer is waited for longer than a batch's whole transaction may take; a server that is silent
    for so long is given up, as if the connection had been lost. Raises ConfigurationError if
    LEVELQ_DATABASE_URL is unset or cannot be read.
    """
    url, hosts = target_of(settings.sqlalchemy_url)
    seconds = max(2, int(settings.claim_seconds / 3))
    defaults: dict[str, Any] = {
        "application_name": name,
        "connect_timeout": seconds,
        # A host that is gone sends no reset: without these it is missed after minutes, or hours.
        "keepalives_idle": seconds,
        "keepalives_interval": seconds,
        "keepalives_count": 2,
        "tcp_user_timeout": settings.transaction_ms,
    }
    if not settings.prepared_statements:  # psycopg prepares at the sixth use, on any session that a pooler gives it
        defaults["prepare_threshold"] = None
    engine = create_engine(
        url,
        pool_size=connections,
        max_overflow=0,
        pool_reset_on_return="rollback",
        isolation_level="READ COMMITTED",
        use_native_hstore=False,  # SQLAlchemy would ask each database for that type, in a savepoint
        # Texts are sent as UTF-8, whatever the URL, PGCLIENTENCODING, the role or the database sets.
        connect_args={key: defaults[key] for key in defaults.keys() - url.query} | hosts | {"client_encoding": "utf8"},
    )
    if limited:
        limit_silence(engine, settings.transaction_ms / 1000)
    return engine


@contextmanager
def engine_open(
    settings: Settings, *, name: str = "levelq", connections: int = 1, limited: bool = False
) -> Iterator[Engine]:
    """An engine for this block; its connections are closed behind it. See `engine_for`."""
    engine = engine_for(settings, name=name, connections=connections, limited=limited)
    try:
        yield engine
    finally:
        engine.dispose()


def limit_silence(engine: Engine, seconds: float) -> None:
    """Have an engine's connections give a server up that does not answer for so long; see LimitedConnection."""

    @event.listens_for(engine, "do_connect")
    def connect(dialect: Any, record: Any, arguments: Any, parameters: Any) -> LimitedConnection:
        made = LimitedConnection.connect(*arguments, **parameters)
        made.limit_seconds = seconds
        return made


def unreachable(settings: Settings, error: DBAPIError) -> ConfigurationError:
    """An error for people: the setting, the host, the server's message, no password."""
    cause = in_words(error)
    name = "LEVELQ_DATABASE_URL"
    advice = unverified(cause, name, "sslrootcert")
    url = redacted(settings.database_url or "")
    return ConfigurationError(f"{name}: {url}: {cause}{advice}", setting=name, value=url)
