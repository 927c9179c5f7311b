"""NOTIFY: an outbox notifies at each commit, and the relay with the lease pushes them at once."""

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import psycopg
import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from sqlalchemy.orm import Session

from levelq_core import ConfigurationError, Settings
from levelq_producer import Outbox
from levelq_worker.relay import thread as relay_thread
from levelq_worker.relay.thread import Relay
from tests.support.fixtures.waiting import until
from tests.support.outbox import OutboxSystem, level_up

NOWHERE = "postgresql://nobody@127.0.0.1:1/none"
Relays = Callable[[Settings], Relay]


@pytest.fixture
def notifying(settings: Settings) -> Settings:
    return settings.model_copy(update={"notify": True})


@pytest.fixture
def unpolled(monkeypatch: pytest.MonkeyPatch) -> None:
    """A relay polls only once in this test: what it pushes later, it was notified of."""
    monkeypatch.setattr(relay_thread, "POLL_SECONDS", 3600.0)


@pytest.fixture
def relays() -> Iterator[Relays]:
    """Start relays that have the lease, and stop them."""
    with ExitStack() as stack:

        def start(settings: Settings) -> Relay:
            relay = Relay(settings, ["PLAYER", "COACH"])
            relay.start()
            stack.callback(relay.stop)
            leads = lambda: [r.has_lease for r in relay._relays.values()] == [True, True]  # noqa: E731
            until(leads, what="the leases")
            return relay

        yield start


@contextmanager
def listening(url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("LISTEN levelq_outbox")
        yield connection


def received_before(connection: psycopg.Connection[Any], mark: str) -> list[str]:
    """What was received before a mark that is sent now."""
    connection.execute("SELECT pg_notify('levelq_outbox', %s)", (mark,))
    received: list[str] = []

    def marked() -> bool:
        received.extend(notification.payload for notification in connection.notifies(timeout=0.1))
        return mark in received

    until(marked, what="the mark")
    return received[:-1]


def listeners(url: str) -> list[int]:
    """The backends that listen for relays."""
    query = """
        SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'levelq listener'
            AND query LIKE 'LISTEN%' AND state = 'idle'
    """
    with psycopg.connect(url) as connection:
        return [pid for (pid,) in connection.execute(query)]


def commit_and_wait(outbox: OutboxSystem, notifying: Settings, number: int) -> None:
    """Commit a command, and wait until the relay has pushed it."""
    outbox.commit(level_up(number), settings=notifying)
    until(lambda: outbox.lane()[-1:] == [number], what="the push")


def test_a_commit_notifies_once_of_each_specialization_with_new_rows(
    outbox: OutboxSystem, notifying: Settings, own_database_url: str
) -> None:
    with listening(own_database_url) as connection:
        commands = level_up(1), level_up(2), level_up(3, specialization="COACH")
        outbox.commit(*commands, settings=notifying)
        assert sorted(received_before(connection, "first")) == ["COACH", "PLAYER"]
        outbox.commit(level_up(1), settings=notifying)  # is there already
        with Session(outbox.engine) as session:
            Outbox(session, settings=notifying).send(level_up(4))
            session.rollback()
        assert received_before(connection, "second") == []


def test_without_the_setting_no_commit_notifies(outbox: OutboxSystem, own_database_url: str) -> None:
    with listening(own_database_url) as connection:
        outbox.commit(level_up(1))
        assert received_before(connection, "end") == []
    assert Relay(outbox.settings, ["PLAYER"])._listener is None


@pytest.mark.usefixtures("unpolled")
def test_a_relay_with_the_lease_pushes_what_it_is_notified_of(
    outbox: OutboxSystem, notifying: Settings, relays: Relays, own_database_url: str
) -> None:
    relays(notifying)
    until(lambda: listeners(own_database_url), what="the listener")
    for number in (1, 2, 3):
        commit_and_wait(outbox, notifying, number)
    assert outbox.lane() == [1, 2, 3]


@pytest.mark.usefixtures("unpolled")
def test_a_listener_whose_backend_is_terminated_listens_again(
    outbox: OutboxSystem, notifying: Settings, relays: Relays, own_database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    relays(notifying)
    for number in (1, 2, 3):
        (pid,) = until(lambda: listeners(own_database_url), what="the listener")
        with psycopg.connect(own_database_url) as connection:
            connection.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))
        until(lambda pid=pid: listeners(own_database_url) not in ([], [pid]), what="another")  # type: ignore[misc]
        commit_and_wait(outbox, notifying, number)
    failed = "waiting: the outbox is only polled, LISTEN failed: "
    assert [message.startswith(failed) for message in caplog.messages] == [True, False] * 3  # and it works again


def test_while_the_listener_cannot_connect_the_outbox_is_polled_and_one_line_is_logged(
    outbox: OutboxSystem, notifying: Settings, relays: Relays, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    relay = relays(notifying.model_copy(update={"listen_url": NOWHERE}))
    commit_and_wait(outbox, notifying, 1)
    assert outbox.lane() == [1]
    listener = relay._listener
    assert listener is not None
    until(lambda: listener._outage._backoff.failures >= 3, what="several attempts")
    assert len(caplog.messages) == 1
    assert "the outbox is only polled, LISTEN failed: " in caplog.messages[0]


def test_a_listen_url_that_cannot_be_read_is_named(notifying: Settings) -> None:
    with pytest.raises(ConfigurationError, match=r"^LEVELQ_LISTEN_URL: .*port"):
        Relay(notifying.model_copy(update={"listen_url": "postgresql://h:port/d"}), ["PLAYER"])


def test_a_relay_without_the_lease_ignores_notifications(outbox: OutboxSystem, notifying: Settings) -> None:
    leading, other = Relay(notifying, ["PLAYER", "COACH"]), Relay(notifying, ["PLAYER", "COACH"])
    assert (leading.poll(), other.poll()) == (0, 0)
    outbox.commit(level_up(1), settings=notifying)
    assert (other.poll_notified({"PLAYER"}), leading.poll_notified({"COACH", "WIZARD"}), outbox.lane()) == (0, 0, [])
    assert (leading.poll_notified({"PLAYER"}), outbox.lane()) == (1, [1])
    leading.release()
    other.release()


@pytest.mark.usefixtures("unpolled", "redis")
def test_a_failing_relay_keeps_its_delay_whatever_it_is_notified_of(
    notifying: Settings, relays: Relays, monkeypatch: pytest.MonkeyPatch
) -> None:
    relay = relays(notifying)
    rounds: list[Any] = []

    def broken(*_: Any) -> Any:
        rounds.append(None)
        raise RedisConnectionError("cut")

    with monkeypatch.context() as patch:
        patch.setattr(relay._lanes, "lease", broken)
        for _ in range(3):  # the first round fails; an empty queue shows that the last one is over
            relay._notifications.put("PLAYER")
            until(relay._notifications.empty, what="the relay to take it")
    assert len(rounds) == 1
