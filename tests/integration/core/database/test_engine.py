"""Connections to PostgreSQL: the client's limits when the server or the network is silent."""

import os
import socket
from collections.abc import Iterator
from itertools import count
from types import SimpleNamespace
from uuid import uuid4

import psycopg
import pytest
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from levelq.embedded import Servers
from levelq_core import LevelUp, Settings
from levelq_core.coupler.apply import group_by_lane
from levelq_core.coupler.lane_batch import LaneBatch
from levelq_core.database import engine as engine_module
from levelq_core.database.engine import LimitedConnection, engine_for
from levelq_core.database.sqlstate import ErrorClass, classify
from levelq_core.errors import ConfigurationError
from levelq_core.operations import connections
from levelq_producer.ledger_reader import LedgerReader
from levelq_worker.draining.transaction import Transactions
from tests.support.coupler import apply_batch
from tests.support.db_check import query
from tests.support.fixtures.proxy import Fault, Proxy

WORKER = b"levelq worker"


@pytest.fixture
def proxy(servers: Servers) -> Iterator[Proxy]:
    with Proxy(str(servers.postgres.sockets / ".s.PGSQL.5432")) as running:
        yield running


@pytest.fixture
def through(proxy: Proxy, own_database_url: str) -> Settings:
    """Settings that lead through the proxy; an answer is waited for 0.6 s."""
    name = psycopg.conninfo.conninfo_to_dict(own_database_url)["dbname"]
    url = f"postgresql://postgres@127.0.0.1:{proxy.port}/{name}"
    return Settings.load(database_url=url, claim_seconds=1, redis_seconds=0.5)


@pytest.fixture
def limited(through: Settings) -> Iterator[Engine]:
    engine = engine_for(through, name="levelq worker", limited=True)
    yield engine
    engine.dispose()


def works() -> list[LaneBatch]:
    return group_by_lane([LevelUp(user_id=user, specialization="PLAYER", xp_gained=7) for user in range(1, 6)])


@pytest.mark.parametrize(
    ("fault", "match"),
    [
        (Fault.DROP_REQUEST, b"COMMIT\0"),
        (Fault.DROP_REPLY, b"COMMIT\0"),
        (Fault.DROP_REPLY, b"BEGIN"),
        (Fault.DROP_REQUEST, b"COPY"),
        (Fault.DROP_REPLY, b"COPY"),
        (Fault.DROP_REPLY, b"UPDATE"),
    ],
    ids=str,
)
def test_a_silent_server_is_given_up_and_the_batch_is_run_again(
    proxy: Proxy, limited: Engine, through: Settings, own_engine: Engine, fault: Fault, match: bytes
) -> None:
    transactions = Transactions(limited, through, through.tracks)
    transactions.probe()  # the schema is read before anything is lost
    trap = proxy.trap(fault, match, of=WORKER)
    batch = works()
    with pytest.raises(DBAPIError) as caught:
        apply_batch(transactions, batch)
    assert trap.struck.is_set()
    assert isinstance(caught.value.orig, Exception)
    # Where only the request was lost, the server's limit ends the transaction first, with its own error.
    assert classify(caught.value.orig) in (ErrorClass.TRANSIENT, ErrorClass.TOO_SLOW)
    committed = (fault, match) == (Fault.DROP_REPLY, b"COMMIT\0")
    assert apply_batch(transactions, batch) == []
    assert {decision.duplicate for work in batch for decision in work.decisions} == {committed}
    assert query(own_engine, "SELECT count(*), sum(xp) FROM levelq_ledger") == [(5, 35)]


def test_what_waits_longer_than_the_limit_is_given_up_even_if_the_server_works(limited: Engine) -> None:
    with limited.connect() as connection, pytest.raises(DBAPIError, match=r"no answer for 0\.6 s") as caught:
        connection.execute(text("SELECT pg_sleep(30)"))
    assert caught.value.connection_invalidated
    with limited.connect() as connection:
        assert connection.execute(text("SELECT 1")).scalar_one() == 1


def test_who_asks_for_an_outcome_does_not_wait_for_ever_for_a_silent_ledger(proxy: Proxy, through: Settings) -> None:
    ledger = LedgerReader(through)
    assert ledger.outcome(uuid4()) is None
    proxy.lose("replies")
    with pytest.raises(ConfigurationError, match=r"no answer for 0\.6 s"):
        ledger.outcome(uuid4())
    proxy.heal()
    assert ledger.outcome(uuid4()) is None
    ledger.close()


def test_command_of_an_operator_ends_when_the_server_falls_silent(
    proxy: Proxy, through: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "_SILENT_SECONDS", 0.6)
    silent = pytest.raises(ConfigurationError, match=r"no answer for 0\.6 s")
    with silent, connections.database_of(through) as engine, engine.connect() as connection:
        connection.execute(text("SELECT 1"))
        proxy.lose("replies")
        connection.execute(text("SELECT 1"))


def test_each_answer_has_its_own_limit(limited: Engine) -> None:
    with limited.connect() as connection:
        for _ in range(4):
            connection.execute(text("SELECT pg_sleep(0.2)"))  # longer than from one of psycopg's looks to the next


def test_an_answer_that_comes_late_is_taken(limited: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process stood still, not the server: what lies in the socket is the answer."""
    with limited.connect() as connection:
        monkeypatch.setattr(engine_module, "time", SimpleNamespace(monotonic=count(step=3600).__next__))
        assert connection.execute(text("SELECT 1")).scalar_one() == 1


def test_an_engine_without_a_limit_waits(through: Settings) -> None:
    engine = engine_for(through)
    with engine.connect() as connection:
        assert not isinstance(connection.connection.driver_connection, LimitedConnection)
    engine.dispose()


def test_a_dead_network_is_noticed_within_a_claim(through: Settings) -> None:
    engine = engine_for(through.model_copy(update={"claim_seconds": 10.0}))
    with engine.connect() as connection, a_copy(raw_of(connection)) as peer:
        assert peer.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 6_000
        idle, interval, probes = (
            peer.getsockopt(socket.IPPROTO_TCP, option)
            for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        )
    assert idle + interval * probes < 10
    engine.dispose()


def test_network_options_of_the_url_win(through: Settings) -> None:
    url = f"{through.database_url}?tcp_user_timeout=1234&keepalives_idle=77"
    engine = engine_for(through.model_copy(update={"database_url": url}))
    with engine.connect() as connection, a_copy(raw_of(connection)) as peer:
        assert peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 1_234
        assert peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 77
    engine.dispose()


def test_the_servers_limits_of_a_batch_are_its_alone(own_engine: Engine, settings: Settings) -> None:
    names = ("lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout", "transaction_timeout")
    with Transactions(own_engine, settings, settings.tracks).open() as transaction:
        transaction.decide(works(), [], lambda: None)
        found = [transaction._connection.exec_driver_sql(f"SHOW {name}").scalar_one() for name in names]
    assert found == ["1s", "4s", "6s", "6s"]
    with own_engine.connect() as connection:
        assert connection.exec_driver_sql("SHOW idle_in_transaction_session_timeout").scalar_one() == "0"


def raw_of(connection: Connection) -> psycopg.Connection:
    raw = connection.connection.driver_connection
    assert isinstance(raw, psycopg.Connection)
    return raw


def a_copy(raw: psycopg.Connection) -> socket.socket:
    """The connection's socket, to look at."""
    return socket.socket(fileno=os.dup(raw.fileno()))
