"""The relay of one partition: marks, pushes in order, repeated pushes, the lease."""

import threading
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from levelq_core.domain.codec import encode
from levelq_core.keys import Partition
from levelq_core.lanes.client import Lanes
from levelq_core.lanes.shard_layout import Layout
from levelq_worker.relay.outbox_rows import OutboxRows
from levelq_worker.relay.partition import PartitionRelay
from tests.support.coupler import wait_until_blocked_by
from tests.support.fixtures.keys import KEYS
from tests.support.outbox import OutboxSystem, level_up
from tests.support.system import PLAYER


def before_next_push(relay: PartitionRelay, meanwhile: Callable[[], object]) -> None:
    """Call `meanwhile` between this relay's next mark and its push; what it raises keeps the push from being made."""
    push = relay._lanes.relay

    def late(*args: Any, **options: Any) -> Any:
        relay._lanes.relay = push  # type: ignore[method-assign]
        meanwhile()
        return push(*args, **options)

    relay._lanes.relay = late  # type: ignore[method-assign]


def lose_push(relay: PartitionRelay, *, after: bool = False) -> None:
    """The connection breaks before the next push, or its reply is lost."""
    push = relay._lanes.relay

    def broken(*args: Any, **options: Any) -> Any:
        relay._lanes.relay = push  # type: ignore[method-assign]
        if after:
            push(*args, **options)
        raise RedisConnectionError("cut")

    relay._lanes.relay = broken  # type: ignore[method-assign]
    with pytest.raises(RedisConnectionError):
        relay.poll()
    relay.unconfirm_all()


def another_run(outbox: OutboxSystem, relay: PartitionRelay) -> None:
    """The lease as it looks after the server was restarted, or a replica took over: it names another run."""
    token, _, _ = relay._lease.partition(b":")
    relay._lease = token + b":" + b"0" * 40
    outbox.redis.set(KEYS.of(PLAYER, "relay"), relay._lease, px=3000)


def relay_under_way(outbox: OutboxSystem) -> PartitionRelay:
    """A relay that has pushed the first command."""
    relay = outbox.relay()
    outbox.send(1)
    relay.poll()
    return relay


@pytest.mark.parametrize("number", [500, 4500], ids=["one window", "several windows"])
def test_many_commands_are_pushed_in_order_in_one_round(outbox: OutboxSystem, number: int) -> None:
    outbox.send(*range(1, number + 1))
    assert outbox.relay().poll() == number
    assert outbox.lane() == list(range(1, number + 1))


def test_rows_are_marked_then_pushed_in_order_of_id(outbox: OutboxSystem) -> None:
    outbox.send(1, 2)
    outbox.send(3, user_id=2)
    relay = outbox.relay()
    assert relay.poll() == 3
    assert (outbox.lane(1), outbox.lane(2)) == ([1, 2], [3])
    assert outbox.marks() == {1: (True, 1), 2: (True, 1), 3: (True, 1)}
    outbox.send(4)
    assert relay.poll() == 1  # behind rows whose push is confirmed
    assert outbox.lane() == [1, 2, 4]


def test_no_row_is_locked_while_the_relay_talks_to_redis(outbox: OutboxSystem) -> None:
    outbox.send(1)
    relay = outbox.relay()
    seen: list[tuple[bool, int]] = []

    def look() -> None:
        outbox.sql("SELECT * FROM levelq_outbox FOR UPDATE NOWAIT")
        seen.extend(outbox.marks().values())

    before_next_push(relay, look)
    relay.poll()
    assert seen == [(True, 1)]  # committed before


def test_a_crash_between_mark_and_push_holds_later_rows_back_until_the_push_is_repeated(outbox: OutboxSystem) -> None:
    outbox.relay().release()
    crashed = outbox.relay()
    outbox.send(1, 2)
    lose_push(crashed)
    crashed.release()
    assert (outbox.marks(), outbox.lane()) == ({1: (True, 1), 2: (True, 1)}, [])
    outbox.send(3)
    outbox.send(4, user_id=2)
    outbox.push(level_up(100))  # a producer's command: the lane is not empty
    relay = outbox.relay()
    assert relay.poll() == 1
    assert (outbox.lane(1), outbox.lane(2)) == ([100], [4])
    outbox.drain()
    assert relay.poll() == 2  # the lost ones
    assert relay.poll() == 1  # what followed them
    assert outbox.lane() == [1, 2, 3]
    outbox.drain()
    assert outbox.decided() in ([100, 4, 1, 2, 3], [4, 100, 1, 2, 3])


def test_a_claimed_lane_is_not_pushed_to_again(outbox: OutboxSystem) -> None:
    relay = outbox.relay()
    outbox.send(1)
    lose_push(relay)
    relay.poll()
    assert outbox.lane() == [1]
    relay.unconfirm_all()
    assert len(outbox.claim().lanes) == 1
    outbox.redis.delete(KEYS.lane(PLAYER, 1))  # empty, but claimed
    assert relay.poll() == 0
    assert outbox.marks() == {1: (True, 2)}  # marked again, refused, unmarked again


def test_a_lost_reply_pushes_twice_at_most_and_applies_once(outbox: OutboxSystem) -> None:
    relay = outbox.relay()
    outbox.send(1, 2)
    lose_push(relay, after=True)
    outbox.send(3)
    assert relay.poll() == 0
    assert outbox.lane() == [1, 2]
    outbox.drain()
    assert relay.poll() == 1
    outbox.drain()
    assert (outbox.decided(), outbox.marks()) == ([1, 2, 3], {})


def test_an_overdue_row_is_pushed_again_with_growing_delay(outbox: OutboxSystem) -> None:
    relay = relay_under_way(outbox)

    def pass_time(seconds: int) -> None:
        """Let time pass for the only row, and keep its mark confirmed."""
        with outbox.engine.begin() as connection:
            move = f"UPDATE levelq_outbox SET pushed_at = pushed_at - interval '{seconds} s' RETURNING xmin::text"
            relay._confirmed_xids[connection.exec_driver_sql(move).scalar_one()] = float("inf")

    for pushes, seconds in enumerate((10, 20, 40, 80, 160, 300, 300), 1):
        outbox.lose_from_lane()
        assert relay.poll() == 0  # it is missing only after a time
        pass_time(seconds - 5)
        assert relay.poll() == 0
        pass_time(5)
        assert relay.poll() == 1
        assert outbox.marks() == {1: (True, pushes + 1)}


def test_rows_that_a_full_lane_refuses_are_pushed_later(
    outbox: OutboxSystem, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    relay = outbox.relay(lane_limit=2)
    outbox.send(1, 2, 3)
    outbox.send(4, user_id=2)
    assert relay.poll() == 3
    assert (outbox.lane(1), outbox.lane(2)) == ([1, 2], [4])
    assert outbox.marks() == {1: (True, 1), 2: (True, 1), 3: (False, 0), 4: (True, 1)}
    assert relay.poll() == 0  # left alone for now
    monkeypatch.setattr(relay._refusing, "now", set)
    assert relay.poll() == 0
    assert caplog.messages == ["outbox: levelq:{PLAYER:1:0}:lane:1 is full; its rows wait"]
    outbox.send(5, user_id=2)
    assert relay.poll() == 1  # into the other lane
    outbox.drain()
    assert relay.poll() == 1
    outbox.drain()
    assert sorted(outbox.decided()) == [1, 2, 3, 4, 5]
    assert [n for n in outbox.decided() if n < 4] == [1, 2, 3]


def test_rows_that_a_full_partition_refuses_wait(outbox: OutboxSystem, caplog: pytest.LogCaptureFixture) -> None:
    relay = outbox.relay(partition_limit=1)
    outbox.send(1, 2)
    assert (relay.poll(), relay.poll()) == (1, 0)
    assert outbox.marks() == {1: (True, 1), 2: (False, 0)}
    assert caplog.messages == ["outbox: PLAYER:1:0 is full; its rows wait"]


def test_a_row_that_is_no_command_goes_into_the_quarantine(
    outbox: OutboxSystem, caplog: pytest.LogCaptureFixture
) -> None:
    outbox.send(1, 2)
    foreign = encode(level_up(1, user_id=2)).hex()
    first = "(SELECT min(id) FROM levelq_outbox)"
    outbox.sql(f"UPDATE levelq_outbox SET payload = decode('{foreign}', 'hex') WHERE id = {first}")
    outbox.relay().poll()
    assert (outbox.lane(), list(outbox.marks())) == ([2], [2])
    assert "quarantined: the digest does not match: damaged, or another lane's entry" in caplog.text
    assert outbox.rows("SELECT user_id, encode(raw, 'hex') FROM levelq_quarantine") == [(1, foreign)]


def test_each_shard_has_a_relay_for_its_own_users(outbox: OutboxSystem) -> None:
    users = range(1, 9)
    for user_id in users:
        outbox.send(user_id, user_id=user_id)
    settings = outbox.settings.model_copy(update={"shards": 2})
    shares = []
    for shard in (0, 1):
        partition, lanes = Partition("PLAYER", 1, shard), Lanes(outbox.redis, settings)
        rows = OutboxRows(outbox.engine)
        PartitionRelay(partition, Layout(1, 2), lanes, rows, outbox.waker, settings).poll()
        shares.append({u for u in users if outbox.redis.llen(KEYS.lane(partition, u)) == 1})
    assert shares[0] | shares[1] == set(users)
    assert not shares[0] & shares[1]
    assert all(shares)


def test_only_the_relay_with_the_lease_pushes(outbox: OutboxSystem) -> None:
    first, second = outbox.relay(), outbox.relay()
    first.poll()
    outbox.send(1)
    assert second.poll() == 0
    assert second.waits_for_other_relay()
    assert first.poll() == 1
    first.release()
    outbox.send(2, user_id=2)
    assert second.poll() == 1
    assert first.poll() == 0
    assert 0 < outbox.redis.pttl(KEYS.of(PLAYER, "relay")) <= 3000


def test_a_relay_that_loses_its_lease_between_mark_and_push_pushes_nothing(outbox: OutboxSystem) -> None:
    first, second = outbox.relay(), outbox.relay()
    outbox.send(1)

    def meanwhile() -> None:
        outbox.redis.delete(KEYS.of(PLAYER, "relay"))  # it has expired
        outbox.send(2)
        assert second.poll() == 1  # the other's mark is unconfirmed, and the lane is empty

    before_next_push(first, meanwhile)
    assert first.poll() == 0
    assert outbox.lane() == [1]
    assert second.poll() == 1
    assert outbox.lane() == [1, 2]
    assert first.poll() == 0


def test_a_late_mark_of_another_relay_lets_nothing_overtake(outbox: OutboxSystem, own_database_url: str) -> None:
    """It commits after the new relay has seen its row unmarked, and dies before its push."""
    relay = outbox.relay()
    relay.poll()
    outbox.send(1)
    with psycopg.connect(own_database_url) as other:
        other.execute("UPDATE levelq_outbox SET pushed_at = now(), pushes = pushes + 1")
        outbox.send(2)
        polled: list[int] = []
        thread = threading.Thread(target=lambda: polled.append(relay.poll()))
        thread.start()
        wait_until_blocked_by(own_database_url, other)
        other.commit()
        thread.join()
    assert polled == [2]
    assert outbox.lane() == [1, 2]
    assert outbox.marks() == {1: (True, 2), 2: (True, 1)}


def test_a_mark_made_after_the_push_is_unconfirmed(outbox: OutboxSystem) -> None:
    relay = relay_under_way(outbox)
    outbox.sql("UPDATE levelq_outbox SET pushed_at = now(), pushes = pushes + 1")
    outbox.send(2)
    assert relay.poll() == 0
    outbox.drain()
    assert relay.poll() == 1


def test_a_push_in_flight_when_an_error_was_seen_is_refused(outbox: OutboxSystem) -> None:
    relay = outbox.relay()
    relay.poll()
    old = relay._lease
    relay.unconfirm_all()
    relay.poll()
    entries = [(1, [encode(level_up(1))])]
    assert outbox.lanes.relay(PLAYER, old, entries).lost
    assert not outbox.lanes.relay(PLAYER, relay._lease, entries).lost


def test_a_restart_of_the_server_makes_all_marks_unconfirmed(outbox: OutboxSystem) -> None:
    """The lease may survive it, and the tail of the AOF may not."""
    relay = relay_under_way(outbox)
    another_run(outbox, relay)
    assert outbox.lanes.relay(PLAYER, relay._lease, [(1, [encode(level_up(9))])]).lost
    outbox.lose_from_lane()
    outbox.send(2)
    assert relay.poll() == 1
    assert outbox.lane() == [1]


def test_an_older_replica_promoted_keeps_the_outboxs_order_but_a_producers_command_may_overtake(
    outbox: OutboxSystem,
) -> None:
    relay = relay_under_way(outbox)
    outbox.send(2)
    relay.poll()
    outbox.redis.rpop(KEYS.lane(PLAYER, 1))  # the replica never saw the second
    outbox.redis.decr(KEYS.of(PLAYER, "count"))
    another_run(outbox, relay)
    outbox.send(3)
    outbox.push(level_up(100))
    while outbox.marks():
        relay.poll()
        outbox.drain()
    assert outbox.decided() == [1, 100, 2, 3]
