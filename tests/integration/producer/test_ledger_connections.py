"""The connections to the database that a producer opens for outcomes are closed by the producer, in every case."""

import gc
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from levelq.embedded import Servers
from levelq_core import Outcome, Settings, WrongDatabase
from levelq_producer import Producer
from levelq_worker.draining.context import Runtime
from tests.support.coupler import drain_all
from tests.support.fixtures.databases import Databases
from tests.support.fixtures.waiting import until
from tests.support.producing import level_up
from tests.support.time_limit import TimeLimit, time_limit

SESSIONS = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'levelq producer'"


@pytest.fixture(autouse=True)
def no_collector() -> Iterator[None]:
    """The garbage collector would close forgotten connections, with a warning."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def other_url(databases: Databases) -> Iterator[str]:
    """Another deployment's database."""
    name = databases.take("own")
    yield databases.url(name)
    databases.give_back("own", name)


def sessions(servers: Servers) -> int:
    with psycopg.connect(servers.postgres.url) as admin:
        row = admin.execute(SESSIONS).fetchone()
    assert row is not None
    return int(row[0])


def test_refused_ledger_of_another_deployment_leaves_no_session(
    servers: Servers, settings: Settings, worker: Runtime, other_url: str
) -> None:
    before = sessions(servers)
    drain_all(worker, "PLAYER")
    with Producer(settings.model_copy(update={"database_url": other_url})) as producer:
        handle = producer.send(level_up(), reply=False)
        for _ in range(3):
            with pytest.raises(WrongDatabase):
                handle.result(timeout=0.1)
        until(lambda: sessions(servers) == before, 10, what="the end of the sessions")


def test_close_during_a_query_ends_its_session_after_the_answer(
    servers: Servers, settings: Settings, worker: Runtime, own_database_url: str
) -> None:
    before = sessions(servers)
    with Producer(settings) as producer, ThreadPoolExecutor(1) as pool, psycopg.connect(own_database_url) as blocker:
        handle = producer.send(level_up(), reply=False)
        drain_all(worker, "PLAYER")
        assert handle.result().status == "applied"
        blocker.execute("LOCK TABLE levelq_ledger")
        asked = pool.submit(handle.result)
        until(lambda: waits_for_a_lock(blocker), what="the query")
        producer.close()
        blocker.rollback()
        assert asked.result().status == "applied"
        until(lambda: sessions(servers) == before, 10, what="the end of the session")


def test_close_at_the_start_of_a_query_leaves_no_session(
    servers: Servers, settings: Settings, worker: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sessions(servers)
    with Producer(settings) as producer:
        handle = producer.send(level_up(), reply=False)
        drain_all(worker, "PLAYER")
        handle.result()
        reader: Any = producer._connections.get().ledger
        engine = reader._state.get().engine
        connect = engine.connect

        def close_and_connect() -> Any:
            producer.close()
            return connect()

        monkeypatch.setattr(engine, "connect", close_and_connect)
        assert reader.outcome(handle.command_id) is not None
        until(lambda: sessions(servers) == before, 10, what="the end of the session")


def waits_for_a_lock(connection: psycopg.Connection) -> bool:
    row = connection.execute("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)").fetchone()
    return row is not None and bool(row[0])


def test_threads_that_query_at_once_share_one_engine(servers: Servers, settings: Settings, worker: Runtime) -> None:
    before = sessions(servers)
    with Producer(settings) as producer, ThreadPoolExecutor(8) as pool:
        handle = producer.send(level_up(), reply=False)
        drain_all(worker, "PLAYER")
        ledger = producer._connections.get().ledger
        assert ledger is not None
        start = threading.Barrier(4)

        def query() -> Outcome | None:
            start.wait()
            return ledger.query([(handle.command_id, None)])[0]

        assert None not in [future.result() for future in [pool.submit(query) for _ in range(4)]]
    until(lambda: sessions(servers) == before, 10, what="the end of the sessions")


def test_what_a_signal_handler_raises_reaches_its_thread_alone_and_leaves_no_session(
    servers: Servers, settings: Settings, worker: Runtime, own_database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    before = sessions(servers)
    with Producer(settings) as producer, ThreadPoolExecutor(2) as pool, psycopg.connect(own_database_url) as blocker:
        handles = producer.send_many([level_up(user) for user in (1, 2, 3)])
        drain_all(worker, "PLAYER")
        blocker.execute("LOCK TABLE levelq_ledger")
        ledger = producer._connections.get().ledger
        assert ledger is not None

        def others() -> list[Future[Outcome | None]]:
            until(lambda: waits_for_a_lock(blocker), what="the query of the first thread")
            return [pool.submit(ledger.outcome, handle.command_id) for handle in handles[1:]]

        with ThreadPoolExecutor(1) as starter, time_limit(own_database_url), pytest.raises(TimeLimit):
            asked = starter.submit(others)
            ledger.outcome(handles[0].command_id)
        blocker.rollback()
        assert [outcome and outcome.status for outcome in (one.result() for one in asked.result())] == ["applied"] * 2
        assert ledger.outcome(handles[0].command_id) is not None
    until(lambda: sessions(servers) == before, 10, what="the end of the sessions")
    assert caplog.records == []
