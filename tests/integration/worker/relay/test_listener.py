"""NOTIFY: an outbox says at each commit that it has rows, and the relay that leads hears it at once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from uuid import UUID

import psycopg
import pytest
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from levelq_core import ConfigurationError, LevelUp, Settings
from levelq_core.domain.codec import STAMP_DIGITS
from levelq_core.keys import Partition
from levelq_producer import Outbox
from levelq_worker.relay import thread as relaying
from levelq_worker.relay.thread import Relay
from tests.support.fixtures.keys import KEYS
from tests.support.fixtures.waiting import until

PLAYER = Partition("PLAYER")
NOWHERE = "postgresql://nobody@127.0.0.1:1/none"


def level_up(number: int, specialization: str = "PLAYER") -> LevelUp:
    return LevelUp(command_id=UUID(int=number), user_id=1, specialization=specialization, xp_gained=1)


@pytest.fixture
def notifying(settings: Settings) -> Settings:
    return settings.model_copy(update={"notify": True})


@pytest.fixture
def unpolled(monkeypatch: pytest.MonkeyPatch) -> None:
    """After its first round a relay polls no more within this test: what it does, it does because it heard."""
    monkeypatch.setattr(relaying, "POLL_SECONDS", 3600.0)


@pytest.fixture
def relays() -> Iterator[Callable[[Settings], Relay]]:
    """Start relays that have the lease, and stop them."""
    with ExitStack() as stack:

        def start(settings: Settings) -> Relay:
            relay = Relay(settings, ["PLAYER", "COACH"])
            relay.start()
            stack.callback(relay.stop)
            until(
                lambda: len(relay._relays) == 2 and all(r.has_lease for r in relay._relays.values()), what="the leases"
            )
            return relay

        yield start


def commit(engine: Engine, settings: Settings, *commands: LevelUp) -> None:
    with Session(engine) as session:
        Outbox(session, settings=settings).send_many(commands)
        session.commit()


def lane(redis: Any) -> list[int]:
    entries = redis.lrange(KEYS.lane(PLAYER, 1), 0, -1)
    return [UUID(bytes=entry[STAMP_DIGITS + 4 : STAMP_DIGITS + 20]).int for entry in entries]


@contextmanager
def ear(url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("LISTEN levelq_outbox")
        yield connection


def heard_before(connection: psycopg.Connection[Any], mark: str) -> list[str]:
    """What was heard before a mark that is set now."""
    connection.execute("SELECT pg_notify('levelq_outbox', %s)", (mark,))
    heard: list[str] = []

    def marked() -> bool:
        heard.extend(notification.payload for notification in connection.notifies(timeout=0.1))
        return mark in heard

    until(marked, what="the mark")
    return heard[:-1]


def listeners(url: str) -> list[int]:
    """The backends that listen for relays."""
    query = """
        SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'levelq listener'
            AND query LIKE 'LISTEN%' AND state = 'idle'
    """
    with psycopg.connect(url) as connection:
        return [pid for (pid,) in connection.execute(query)]


def test_a_commit_tells_once_what_has_new_rows(own_engine: Engine, notifying: Settings, own_database_url: str) -> None:
    with ear(own_database_url) as listening:
        commit(own_engine, notifying, level_up(1), level_up(2), level_up(3, "COACH"))
        assert sorted(heard_before(listening, "first")) == ["COACH", "PLAYER"]
        commit(own_engine, notifying, level_up(1))  # there already
        with Session(own_engine) as session:
            Outbox(session, settings=notifying).send(level_up(4))
            session.rollback()
        assert heard_before(listening, "second") == []


def test_unless_configured_nobody_is_told(own_engine: Engine, settings: Settings, own_database_url: str) -> None:
    with ear(own_database_url) as listening:
        commit(own_engine, settings, level_up(1))
        assert heard_before(listening, "end") == []
    assert Relay(settings, ["PLAYER"])._listener is None


@pytest.mark.usefixtures("unpolled")
def test_a_relay_that_leads_pushes_what_it_hears_of(
    own_engine: Engine, notifying: Settings, redis: Redis, relays: Callable[[Settings], Relay], own_database_url: str
) -> None:
    relays(notifying)
    until(lambda: listeners(own_database_url), what="the listener")
    for number in (1, 2, 3):
        commit(own_engine, notifying, level_up(number))
        until(lambda number=number: lane(redis)[-1:] == [number], what="the push")  # type: ignore[misc]
    assert lane(redis) == [1, 2, 3]


@pytest.mark.usefixtures("unpolled")
def test_a_listener_whose_backend_is_terminated_listens_again(
    own_engine: Engine,
    notifying: Settings,
    redis: Redis,
    relays: Callable[[Settings], Relay],
    own_database_url: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    relays(notifying)
    for number in (1, 2, 3):
        (pid,) = until(lambda: listeners(own_database_url), what="the listener")
        with psycopg.connect(own_database_url) as connection:
            connection.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))
        until(lambda pid=pid: listeners(own_database_url) not in ([], [pid]), what="another")  # type: ignore[misc]
        commit(own_engine, notifying, level_up(number))
        until(lambda number=number: lane(redis)[-1:] == [number], what="the push")  # type: ignore[misc]
    said = "waiting: the outbox is only polled, LISTEN failed: "
    assert [message.startswith(said) for message in caplog.messages] == [True, False] * 3  # and that it works again


def test_while_nothing_can_be_heard_the_outbox_is_polled_and_it_is_said_once(
    own_engine: Engine,
    notifying: Settings,
    redis: Redis,
    relays: Callable[[Settings], Relay],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    relay = relays(notifying.model_copy(update={"listen_url": NOWHERE}))
    commit(own_engine, notifying, level_up(1))
    until(lambda: lane(redis) == [1], what="the poll")
    assert relay._listener is not None
    until(lambda: relay._listener and relay._listener._outage._backoff.failures >= 3, what="several attempts")
    assert len(caplog.messages) == 1
    assert "the outbox is only polled, LISTEN failed: " in caplog.messages[0]


def test_a_url_that_cannot_be_read_is_named(notifying: Settings) -> None:
    with pytest.raises(ConfigurationError, match=r"^LEVELQ_LISTEN_URL: .*port"):
        Relay(notifying.model_copy(update={"listen_url": "postgresql://h:port/d"}), ["PLAYER"])


def test_what_others_relay_is_theirs_to_hear(own_engine: Engine, notifying: Settings, redis: Redis) -> None:
    leading, other = Relay(notifying, ["PLAYER", "COACH"]), Relay(notifying, ["PLAYER", "COACH"])
    assert (leading.poll(), other.poll()) == (0, 0)
    commit(own_engine, notifying, level_up(1))
    assert (other.poll_notified({"PLAYER"}), leading.poll_notified({"COACH", "WIZARD"}), lane(redis)) == (0, 0, [])
    assert (leading.poll_notified({"PLAYER"}), lane(redis)) == (1, [1])
    leading.release()
    other.release()


@pytest.mark.usefixtures("unpolled")
def test_a_relay_that_fails_keeps_its_distance_whatever_it_hears(
    notifying: Settings, relays: Callable[[Settings], Relay], monkeypatch: pytest.MonkeyPatch
) -> None:
    relay = relays(notifying)
    rounds: list[Any] = []

    def broken(*_: Any) -> Any:
        rounds.append(None)
        raise RedisConnectionError("cut")

    with monkeypatch.context() as patch:
        patch.setattr(relay._lanes, "lease", broken)
        for _ in range(3):  # the first round fails; an empty queue tells that the last one is over
            relay._notifications.put("PLAYER")
            until(relay._notifications.empty, what="the relay to hear")
    assert len(rounds) == 1
