"""The pytest plugin "levelq": fixtures for applications that send commands.

pytest imports this module at each start, so it imports nothing else until a fixture is used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from levelq import Producer, Settings

    from .burst_worker import BurstWorker
    from .recording import RecordingProducer
    from .run_servers import CleanDatabase, ServerUrls

# Claims of a worker that died expire soon, and a lock is waited for a fifth of a second.
_LIMITS = {"claim_seconds": 2.0, "redis_seconds": 1.0, "sweep_seconds": 0.2}


@pytest.fixture(scope="session")
def levelq_servers() -> Iterator[ServerUrls]:
    """Redis and PostgreSQL for the run, with xdist for each of its processes.

    Embedded ones, unless LEVELQ_TEST_REDIS_URL or LEVELQ_TEST_DATABASE_URL name servers that run.
    """
    try:
        from .run_servers import running_servers
    except ModuleNotFoundError as error:
        pytest.fail(f"levelq's fixtures need {error.name}: pip install 'levelq[worker,embedded]'", pytrace=False)
    with running_servers() as servers:
        yield servers


@pytest.fixture(scope="session")
def levelq_create_tables() -> Callable[[Engine], None]:
    """Override it to have tables of your own in the database of the tests, such as `Base.metadata.create_all`.

    The function is called once, with an engine on the empty database, before levelq adds the tables that it lacks.
    """
    return lambda engine: None


@pytest.fixture(scope="session")
def _levelq_database(
    levelq_servers: ServerUrls, levelq_create_tables: Callable[[Engine], None]
) -> Iterator[CleanDatabase]:
    from .run_servers import CleanDatabase

    with CleanDatabase(levelq_servers.database_url, levelq_create_tables) as database:
        yield database


@pytest.fixture
def levelq_settings(
    levelq_servers: ServerUrls, _levelq_database: CleanDatabase, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Settings]:
    """Settings with an empty database and a namespace of the test's own.

    They are also in the environment while the test runs, so `Producer()`, `Outbox(session)` and processes that the test
    starts use them. What the test leaves is deleted: all rows of all tables, the namespace's keys.
    """
    from levelq_core.settings import Settings
    from levelq_producer.outbox import forget_settings

    from .run_servers import empty_namespace, new_namespace

    redis_url = levelq_servers.redis_url
    servers = {"redis_url": redis_url, "rq_url": redis_url, "database_url": _levelq_database.url, "listen_url": None}
    settings = Settings.load(namespace=new_namespace(), **servers, **_LIMITS)
    monkeypatch.delenv("LEVELQ_LISTEN_URL", raising=False)
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    forget_settings()
    yield settings
    forget_settings()
    empty_namespace(settings)
    _levelq_database.empty()


@pytest.fixture
def levelq_engine(levelq_settings: Settings) -> Iterator[Engine]:
    """A SQLAlchemy engine on the test's database; its connections are closed after the test."""
    from levelq_core.database.engine import engine_open

    with engine_open(levelq_settings, name="levelq tests", connections=10) as engine:
        yield engine


@pytest.fixture
def levelq_producer(levelq_settings: Settings) -> Iterator[Producer]:
    """A producer with the test's settings."""
    from levelq_producer import Producer

    with Producer(levelq_settings) as producer:
        yield producer


@pytest.fixture
def levelq_worker(levelq_settings: Settings) -> Iterator[BurstWorker]:
    """A worker in the test's process: `levelq_worker.drain()` applies all that was sent, or raises AssertionError."""
    from .burst_worker import BurstWorker

    with BurstWorker(levelq_settings) as worker:
        yield worker


@pytest.fixture
def levelq_recorder() -> RecordingProducer:
    """A RecordingProducer: no server is needed or started."""
    from .recording import RecordingProducer

    return RecordingProducer()
