"""The outbox: written with the application's data, relayed by the worker's thread, and by a burst."""

import logging
from collections.abc import Callable

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from levelq_core import InvalidCommand, LevelUp
from levelq_core.keys import Partition
from levelq_producer import Outbox, OutcomeTimeout
from levelq_worker.relay.thread import Relay
from tests.support.fixtures.keys import KEYS
from tests.support.fixtures.processes import Started
from tests.support.fixtures.waiting import until
from tests.support.orm import Match
from tests.support.outbox import OutboxSystem, broken_lease, level_up
from tests.support.system import PLAYER


def test_a_command_is_sent_with_the_applications_data(outbox: OutboxSystem) -> None:
    with Session(outbox.engine) as session:
        session.execute(text("CREATE TABLE matches (id int)"))
        session.execute(text("INSERT INTO matches VALUES (1)"))
        handle = Outbox(session, settings=outbox.settings).send(level_up(1, xp=2600))
        assert outbox.relay().poll() == 0
        with pytest.raises(OutcomeTimeout):
            handle.result(timeout=0.01)
        session.commit()
    assert outbox.relay().poll() == 0  # another relay has the lease
    outbox.redis.delete(KEYS.of(PLAYER, "relay"))
    assert outbox.relay().poll() == 1
    outbox.drain()
    assert (handle.result().status, handle.result().to_level) == ("applied", 3)
    assert (outbox.marks(), outbox.decided()) == ({}, [1])


def test_a_rolled_back_transaction_sends_nothing(outbox: OutboxSystem) -> None:
    with Session(outbox.engine) as session:
        Outbox(session, settings=outbox.settings).send(level_up(1))
        session.rollback()
    assert (outbox.marks(), outbox.relay().poll()) == ({}, 0)


def test_pending_objects_are_not_flushed(outbox: OutboxSystem) -> None:
    with Session(outbox.engine) as session:
        session.add(match := Match(id=1))
        Outbox(session, settings=outbox.settings).send(level_up(1))
        assert match in session.new


def test_the_same_command_again_makes_no_second_row(outbox: OutboxSystem) -> None:
    with Session(outbox.engine) as session:
        sender = Outbox(session, settings=outbox.settings)
        handles = [sender.send(level_up(1)), *sender.send_many([level_up(1), level_up(2), level_up(2)])]
        assert [handle.command_id.int for handle in handles] == [1, 1, 2, 2]
        session.commit()
    outbox.send(1, 2, 3)
    assert list(outbox.marks()) == [1, 2, 3]


@pytest.mark.parametrize("committed", [True, False])
def test_an_id_with_other_content_is_refused_and_the_transaction_goes_on(outbox: OutboxSystem, committed: bool) -> None:
    with Session(outbox.engine) as session:
        sender = Outbox(session, settings=outbox.settings)
        sender.send(level_up(1))
        if committed:
            session.commit()
        with pytest.raises(InvalidCommand, match=r"command_id: 0+-0+-0+-0+-0+1 is in the outbox with other content"):
            sender.send_many([level_up(2), level_up(1, xp=11), level_up(3)])
        sender.send(level_up(4))
        session.commit()
    assert list(outbox.marks()) == [1, 4]


def test_an_id_twice_in_one_call_with_other_content_is_refused(outbox: OutboxSystem) -> None:
    with pytest.raises(InvalidCommand, match="other content"):
        outbox.commit(level_up(1), level_up(1, user_id=2))


def test_an_invalid_command_is_refused_before_any_statement(outbox: OutboxSystem) -> None:
    with Session(outbox.engine) as session:
        sender = Outbox(session, settings=outbox.settings)
        with pytest.raises(InvalidCommand, match="WIZARD"):
            sender.send_many([level_up(1), LevelUp(user_id=1, specialization="WIZARD")])
        assert sender.send_many([]) == []
        assert not session.in_transaction()


def test_a_decided_command_that_is_sent_again_changes_nothing(outbox: OutboxSystem) -> None:
    relay = outbox.relay()
    for _ in range(2):
        outbox.send(1)
        relay.poll()
        outbox.drain()
    assert (outbox.decided(), outbox.marks()) == ([1], {})


def test_a_producer_and_an_outbox_may_send_the_same_command(outbox: OutboxSystem) -> None:
    outbox.send(1)
    outbox.producer.send(level_up(1))
    outbox.relay().poll()
    outbox.drain()
    assert (outbox.decided(), outbox.marks()) == ([1], {})


def test_the_thread_relays_and_releases_its_leases(outbox: OutboxSystem) -> None:
    relay = Relay(outbox.settings, ["PLAYER", "COACH"])
    relay.start()
    until(lambda: outbox.redis.exists(KEYS.of(PLAYER, "filled")), what="the first round")
    outbox.send(1)
    until(lambda: outbox.lane() == [1], what="the relay")
    relay.stop()
    assert not relay.is_alive()
    assert not outbox.redis.exists(KEYS.of(PLAYER, "relay"), KEYS.of(Partition("COACH"), "relay"))


def test_the_thread_logs_a_failure_once_and_goes_on(
    outbox: OutboxSystem, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.WARNING)
    relay = Relay(outbox.settings, ["PLAYER"])
    relay.poll()
    with monkeypatch.context() as patch:
        patch.setattr(relay._lanes, "lease", broken_lease)
        assert (relay.poll(), relay.poll()) == (0, 0)
    outbox.send(1)
    assert relay.poll() == 1
    relay.release()
    assert caplog.messages == ["relay: Redis: cut"]


def test_the_thread_outlives_a_missing_outbox_table(outbox: OutboxSystem, caplog: pytest.LogCaptureFixture) -> None:
    outbox.sql("DROP TABLE levelq_outbox")
    relay = Relay(outbox.settings, ["PLAYER"])
    assert relay.poll() == 0
    relay.release()
    assert caplog.messages == ['relay: PostgreSQL: relation "levelq_outbox" does not exist (SQLSTATE 42P01)']


def test_a_burst_relays_first_and_outwaits_a_dead_workers_lease(
    outbox: OutboxSystem, start: Callable[..., Started]
) -> None:
    outbox.send(1, 2)
    outbox.redis.set(KEYS.of(PLAYER, "relay"), "dead", px=1000)
    process = start("worker", "--burst", "-s", "PLAYER")
    output, _ = process.communicate(timeout=60)
    assert (process.returncode, output.strip()) == (0, "done: nothing is due; lanes parked for later: 0")
    assert (outbox.decided(), outbox.marks()) == ([1, 2], {})
