"""The outbox: written with the application's data, relayed by one worker at a time, put back when Redis lost it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import psycopg
import pytest
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from sqlalchemy import Engine, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from levelq.cli.app import run
from levelq_core import InvalidCommand, LevelUp, Settings, apply_commands
from levelq_core.domain.codec import STAMP_DIGITS, encode
from levelq_core.keys import Partition
from levelq_core.lanes.client import Lanes
from levelq_core.lanes.shard_layout import Layout
from levelq_core.lanes.wakeups import Waker
from levelq_producer import Outbox, OutcomeTimeout, Producer
from levelq_worker.draining.context import Runtime
from levelq_worker.draining.drain import Drain
from levelq_worker.relay.outbox_rows import OutboxRows
from levelq_worker.relay.partition import PartitionRelay
from levelq_worker.relay.restore import OutboxRestore
from levelq_worker.relay.thread import Relay
from tests.support.coupler import drain_all, ledger, push, runtime, wait_until_blocked_by
from tests.support.fixtures.keys import KEYS
from tests.support.fixtures.processes import Started
from tests.support.fixtures.waiting import until

PLAYER = Partition("PLAYER")


def level_up(number: int, user_id: int = 1, xp: int = 10, **fields: Any) -> LevelUp:
    """Command `number`."""
    return LevelUp(command_id=UUID(int=number), user_id=user_id, specialization="PLAYER", xp_gained=xp, **fields)


class Place:
    """One installation: its database, its Redis, a worker and relays."""

    def __init__(self, settings: Settings, engine: Engine, redis: Redis, worker: Runtime) -> None:
        self.settings, self.engine, self.worker = settings, engine, worker
        self.redis: Any = redis
        self.lanes = worker.lanes

    def send(self, *numbers: int, user_id: int = 1) -> None:
        """Commit these commands through the outbox."""
        with Session(self.engine) as session:
            Outbox(session, settings=self.settings).send_many([level_up(n, user_id) for n in numbers])
            session.commit()

    def relay(self, **settings: Any) -> PartitionRelay:
        """A relay of its own connections, as in another worker."""
        given = self.settings.model_copy(update=settings)
        return PartitionRelay(
            PLAYER, Lanes(self.redis, given), OutboxRows(self.engine), Waker(self.redis, self.redis, KEYS), given
        )

    def fill(self) -> bool:
        """Open the gate as a drain does."""
        return OutboxRestore(self.lanes, OutboxRows(self.engine), Waker(self.redis, self.redis, KEYS)).open(PLAYER)

    def lane(self, user_id: int = 1) -> list[int]:
        """The numbers of the commands in a lane."""
        entries = self.redis.lrange(KEYS.lane(PLAYER, user_id), 0, -1)
        return [UUID(bytes=entry[STAMP_DIGITS + 4 : STAMP_DIGITS + 20]).int for entry in entries]

    def rows(self) -> dict[int, tuple[bool, int]]:
        """What the outbox holds: number -> (marked, pushes)."""
        with self.engine.connect() as connection:
            found = connection.execute(text("SELECT command_id, pushed_at, pushes FROM levelq_outbox ORDER BY id"))
            return {command_id.int: (pushed_at is not None, pushes) for command_id, pushed_at, pushes in found}

    def sql(self, statement: str) -> None:
        """Change the database by hand."""
        with self.engine.begin() as connection:
            connection.execute(text(statement))

    def drain(self) -> None:
        """Apply what waits."""
        drain_all(self.worker, "PLAYER")

    def decided(self) -> list[int]:
        """The numbers of the commands in the ledger, in the order of effect."""
        with self.engine.connect() as connection:
            return [row["command_id"].int for row in ledger(connection)]

    def lose_from_lane(self, user_id: int = 1) -> None:
        """One lane is lost, as when a server comes back without the tail of its AOF; the rest stays."""
        self.redis.decrby(KEYS.of(PLAYER, "count"), self.redis.llen(KEYS.lane(PLAYER, user_id)))
        self.redis.delete(KEYS.lane(PLAYER, user_id))
        self.redis.zrem(KEYS.of(PLAYER, "ready"), user_id)


@pytest.fixture
def place(settings: Settings, own_engine: Engine, redis: Redis) -> Iterator[Place]:
    with runtime(settings) as worker:
        yield Place(settings, own_engine, redis, worker)


# Writing


def test_a_command_is_sent_with_the_applications_data(place: Place) -> None:
    with Session(place.engine) as session:
        session.execute(text("CREATE TABLE matches (id int)"))
        session.execute(text("INSERT INTO matches VALUES (1)"))
        handle = Outbox(session, settings=place.settings).send(level_up(1, xp=2600))
        assert place.relay().poll() == 0
        with pytest.raises(OutcomeTimeout):
            handle.result(timeout=0.01)
        session.commit()
    assert place.relay().poll() == 0  # somebody else has the lease
    place.redis.delete(KEYS.of(PLAYER, "relay"))
    assert place.relay().poll() == 1
    place.drain()
    assert (handle.result().status, handle.result().to_level) == ("applied", 3)
    assert (place.rows(), place.decided()) == ({}, [1])


def test_a_rolled_back_transaction_sends_nothing(place: Place) -> None:
    with Session(place.engine) as session:
        Outbox(session, settings=place.settings).send(level_up(1))
        session.rollback()
    assert (place.rows(), place.relay().poll()) == ({}, 0)


class Base(DeclarativeBase):
    pass


class Match(Base):
    __tablename__ = "matches"
    id: Mapped[int] = mapped_column(primary_key=True)


def test_pending_objects_are_not_flushed(place: Place) -> None:
    with Session(place.engine) as session:
        session.add(match := Match(id=1))
        Outbox(session, settings=place.settings).send(level_up(1))
        assert match in session.new


def test_the_same_command_again_makes_no_second_row(place: Place) -> None:
    with Session(place.engine) as session:
        outbox = Outbox(session, settings=place.settings)
        handles = [outbox.send(level_up(1)), *outbox.send_many([level_up(1), level_up(2), level_up(2)])]
        assert [handle.command_id.int for handle in handles] == [1, 1, 2, 2]
        session.commit()
    place.send(1, 2, 3)
    assert list(place.rows()) == [1, 2, 3]


@pytest.mark.parametrize("committed", [True, False])
def test_an_id_with_other_content_is_refused_and_the_transaction_goes_on(place: Place, committed: bool) -> None:
    with Session(place.engine) as session:
        outbox = Outbox(session, settings=place.settings)
        outbox.send(level_up(1))
        if committed:
            session.commit()
        with pytest.raises(InvalidCommand, match=r"command_id: 0+-0+-0+-0+-0+1 is in the outbox with other content"):
            outbox.send_many([level_up(2), level_up(1, xp=11), level_up(3)])
        outbox.send(level_up(4))
        session.commit()
    assert list(place.rows()) == [1, 4]


def test_an_id_twice_in_one_call_with_other_content_is_refused(place: Place) -> None:
    with Session(place.engine) as session, pytest.raises(InvalidCommand, match="other content"):
        Outbox(session, settings=place.settings).send_many([level_up(1), level_up(1, user_id=2)])


def test_what_a_producer_refuses_the_outbox_refuses_before_any_statement(place: Place) -> None:
    with Session(place.engine) as session:
        outbox = Outbox(session, settings=place.settings)
        with pytest.raises(InvalidCommand, match="WIZARD"):
            outbox.send_many([level_up(1), LevelUp(user_id=1, specialization="WIZARD")])
        assert outbox.send_many([]) == []
        assert not session.in_transaction()


def test_a_row_decided_meanwhile_may_be_sent_again_and_changes_nothing(place: Place) -> None:
    place.send(1)
    relay = place.relay()
    relay.poll()
    place.drain()
    place.send(1)
    relay.poll()
    place.drain()
    assert (place.decided(), place.rows()) == ([1], {})


def test_many_commands_keep_their_order(place: Place) -> None:
    numbers = list(range(1, 501))
    place.send(*numbers)
    place.relay().poll()
    assert place.lane() == numbers


# Relaying


def test_rows_are_marked_then_pushed_in_order_of_id(place: Place) -> None:
    place.send(1, 2)
    place.send(3, user_id=2)
    relay = place.relay()
    assert relay.poll() == 3
    assert (place.lane(1), place.lane(2)) == ([1, 2], [3])
    assert place.rows() == {1: (True, 1), 2: (True, 1), 3: (True, 1)}
    place.send(4)
    assert relay.poll() == 1  # behind rows whose push is known
    assert place.lane(1) == [1, 2, 4]


def test_the_whole_window_and_more_goes_in_one_round(place: Place) -> None:
    place.send(*range(1, 4501))
    assert place.relay().poll() == 4500
    assert place.lane() == list(range(1, 4501))


def test_no_row_is_locked_while_the_relay_talks_to_redis(place: Place) -> None:
    place.send(1)
    relay = place.relay()
    pushed = relay._lanes.relay
    seen: list[tuple[bool, int]] = []

    def spied(*args: Any, **options: Any) -> Any:
        with place.engine.begin() as connection:
            connection.execute(text("SELECT * FROM levelq_outbox FOR UPDATE NOWAIT"))
        seen.extend(place.rows().values())
        return pushed(*args, **options)

    relay._lanes.relay = spied  # type: ignore[method-assign]
    relay.poll()
    assert seen == [(True, 1)]  # committed before


@contextmanager
def failing(relay: PartitionRelay, *, after: bool) -> Iterator[None]:
    """The connection breaks before the push, or its reply is lost."""
    real = relay._lanes.relay

    def broken(*args: Any, **options: Any) -> Any:
        if after:
            real(*args, **options)
        raise RedisConnectionError("cut")

    relay._lanes.relay = broken  # type: ignore[method-assign]
    yield
    relay._lanes.relay = real  # type: ignore[method-assign]


def lost_push(place: Place, relay: PartitionRelay, *, after: bool = False) -> None:
    with failing(relay, after=after), pytest.raises(RedisConnectionError):
        relay.poll()
    relay.doubt()


def test_a_crash_between_mark_and_push_holds_later_rows_back_until_it_is_mended(place: Place) -> None:
    place.relay().release()
    crashed = place.relay()
    place.send(1, 2)
    lost_push(place, crashed)
    crashed.release()
    assert (place.rows(), place.lane()) == ({1: (True, 1), 2: (True, 1)}, [])
    place.send(3)
    place.send(4, user_id=2)
    push(place.worker, [level_up(100)])  # somebody's direct command: the lane is not empty
    relay = place.relay()
    assert relay.poll() == 1
    assert (place.lane(1), place.lane(2)) == ([100], [4])
    place.drain()
    assert relay.poll() == 2  # the lost ones
    assert relay.poll() == 1  # what followed them
    assert place.lane() == [1, 2, 3]
    place.drain()
    assert place.decided() == [100, 4, 1, 2, 3] or place.decided() == [4, 100, 1, 2, 3]


def test_a_claimed_lane_is_not_pushed_to_again(place: Place) -> None:
    relay = place.relay()
    place.send(1)
    lost_push(place, relay)
    relay.poll()
    assert place.lane() == [1]
    relay.doubt()
    claim = place.lanes.claim(PLAYER, "drain", "token", 100, gated=True)
    assert len(claim.lanes) == 1
    place.redis.delete(KEYS.lane(PLAYER, 1))  # empty, but somebody has it in hand
    assert relay.poll() == 0
    assert place.rows() == {1: (True, 2)}  # marked again, refused, unmarked again


def test_a_lost_reply_pushes_twice_at_most_and_applies_once(place: Place) -> None:
    relay = place.relay()
    place.send(1, 2)
    lost_push(place, relay, after=True)
    place.send(3)
    assert relay.poll() == 0
    assert place.lane() == [1, 2]
    place.drain()
    assert relay.poll() == 1
    place.drain()
    assert (place.decided(), place.rows()) == ([1, 2, 3], {})


def pass_time(place: Place, relay: PartitionRelay, seconds: int) -> None:
    """Let time pass for the outbox's only row, without the relay mistaking it for somebody else's mark."""
    with place.engine.begin() as connection:
        move = f"UPDATE levelq_outbox SET pushed_at = pushed_at - interval '{seconds} s' RETURNING xmin::text"
        relay._trusted[connection.execute(text(move)).scalar_one()] = float("inf")


def test_a_row_not_decided_in_time_is_pushed_again_with_growing_delay(place: Place) -> None:
    relay = place.relay()
    place.send(1)
    relay.poll()
    for pushes, seconds in enumerate((10, 20, 40, 80, 160, 300, 300), 1):
        place.lose_from_lane()
        assert relay.poll() == 0  # nothing tells that it is missing, but time
        pass_time(place, relay, seconds - 5)
        assert relay.poll() == 0
        pass_time(place, relay, 5)
        assert relay.poll() == 1
        assert place.rows() == {1: (True, pushes + 1)}


def test_a_full_lane_is_no_loss(
    place: Place, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    relay = place.relay(lane_limit=2)
    place.send(1, 2, 3)
    place.send(4, user_id=2)
    assert relay.poll() == 3
    assert (place.lane(1), place.lane(2)) == ([1, 2], [4])
    assert place.rows() == {1: (True, 1), 2: (True, 1), 3: (False, 0), 4: (True, 1)}
    assert relay.poll() == 0  # parked
    monkeypatch.setattr(relay._parked, "now", set)
    assert relay.poll() == 0
    assert caplog.messages == ["outbox: levelq:{PLAYER:1:0}:lane:1 is full; its rows wait"]
    place.send(5, user_id=2)
    assert relay.poll() == 1  # the other lanes are none the worse
    place.drain()
    assert relay.poll() == 1
    place.drain()
    assert sorted(place.decided()) == [1, 2, 3, 4, 5]
    assert [n for n in place.decided() if n < 4] == [1, 2, 3]


def test_a_full_partition_pauses(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    relay = place.relay(partition_limit=1)
    place.send(1, 2)
    assert (relay.poll(), relay.poll()) == (1, 0)
    assert place.rows() == {1: (True, 1), 2: (False, 0)}
    assert caplog.messages == ["outbox: PLAYER:1:0 is full; its rows wait"]


def test_a_row_that_is_no_command_goes_into_the_quarantine(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    place.send(1, 2)
    foreign = encode(level_up(1, user_id=2)).hex()
    place.sql(
        f"UPDATE levelq_outbox SET payload = decode('{foreign}', 'hex') WHERE id = (SELECT min(id) FROM levelq_outbox)"
    )
    place.relay().poll()
    assert place.lane() == [2]
    assert list(place.rows()) == [2]
    assert "quarantined: the digest does not match: damaged, or another lane's entry" in caplog.text
    with place.engine.connect() as connection:
        found = connection.execute(text("SELECT user_id, encode(raw, 'hex') FROM levelq_quarantine")).all()
    assert [tuple(row) for row in found] == [(1, foreign)]


def test_shards_have_relays_of_their_own(place: Place) -> None:
    users = range(1, 9)
    for user_id in users:
        place.send(user_id, user_id=user_id)
    settings = place.settings.model_copy(update={"shards": 2})
    shares = []
    for shard in (0, 1):
        partition = Partition("PLAYER", 1, shard)
        rows = OutboxRows(place.engine)
        waker = Waker(place.redis, place.redis, KEYS)
        PartitionRelay(partition, Lanes(place.redis, settings), rows, waker, settings, Layout(1, 2)).poll()
        shares.append({u for u in users if place.redis.llen(KEYS.lane(partition, u)) == 1})
    assert shares[0] | shares[1] == set(users)
    assert not shares[0] & shares[1]
    assert all(shares)


# The lease


def test_one_relay_at_a_time(place: Place) -> None:
    first, second = place.relay(), place.relay()
    first.poll()
    place.send(1)
    assert second.poll() == 0
    assert second.elsewhere()
    assert first.poll() == 1
    first.release()
    place.send(2, user_id=2)
    assert second.poll() == 1
    assert first.poll() == 0
    assert 0 < place.redis.pttl(KEYS.of(PLAYER, "relay")) <= 3000


def paused(relay: PartitionRelay, meanwhile: Callable[[], None]) -> None:
    """`meanwhile` happens between this relay's next mark and its push."""
    real = relay._lanes.relay

    def late(*args: Any, **options: Any) -> Any:
        relay._lanes.relay = real  # type: ignore[method-assign]
        meanwhile()
        return real(*args, **options)

    relay._lanes.relay = late  # type: ignore[method-assign]


def test_a_relay_that_lost_its_lease_midway_pushes_nothing(place: Place) -> None:
    first, second = place.relay(), place.relay()
    place.send(1)

    def meanwhile() -> None:
        place.redis.delete(KEYS.of(PLAYER, "relay"))  # it was expired
        place.send(2)
        assert second.poll() == 1  # knows what the other marked only as doubtful, and the lane is empty

    paused(first, meanwhile)
    assert first.poll() == 0
    assert place.lane() == [1]
    assert second.poll() == 1
    assert place.lane() == [1, 2]
    assert first.poll() == 0


def test_a_late_mark_of_another_relay_lets_nothing_overtake(place: Place, own_database_url: str) -> None:
    """It commits after the new relay has seen its row unmarked, and dies before its push."""
    relay = place.relay()
    relay.poll()
    place.send(1)
    with psycopg.connect(own_database_url) as other:
        other.execute("UPDATE levelq_outbox SET pushed_at = now(), pushes = pushes + 1")
        place.send(2)
        polled: list[int] = []
        thread = threading.Thread(target=lambda: polled.append(relay.poll()))
        thread.start()
        wait_until_blocked_by(own_database_url, other)
        other.commit()
        thread.join()
    assert polled == [2]
    assert place.lane() == [1, 2]
    assert place.rows() == {1: (True, 2), 2: (True, 1)}


def test_a_mark_made_after_the_push_makes_the_row_doubtful_again(place: Place) -> None:
    relay = place.relay()
    place.send(1)
    relay.poll()
    place.sql("UPDATE levelq_outbox SET pushed_at = now(), pushes = pushes + 1")
    place.send(2)
    assert relay.poll() == 0
    place.drain()
    assert relay.poll() == 1


def test_a_push_under_way_when_an_error_was_seen_is_refused(place: Place) -> None:
    relay = place.relay()
    relay.poll()
    old = relay._lease
    relay.doubt()
    relay.poll()
    assert place.lanes.relay(PLAYER, old, [(1, [encode(level_up(1))])]).lost
    assert not place.lanes.relay(PLAYER, relay._lease, [(1, [encode(level_up(1))])]).lost


def another_run(place: Place, relay: PartitionRelay) -> None:
    """The lease as it looks after the server was restarted, or a replica took over: it names another run."""
    token, _, _ = relay._lease.partition(b":")
    relay._lease = token + b":" + b"0" * 40
    place.redis.set(KEYS.of(PLAYER, "relay"), relay._lease, px=3000)


def test_a_restart_of_the_server_begins_a_new_epoch(place: Place) -> None:
    """The lease may survive it, and the tail of the AOF may not."""
    relay = place.relay()
    place.send(1)
    relay.poll()
    another_run(place, relay)
    assert place.lanes.relay(PLAYER, relay._lease, [(1, [encode(level_up(9))])]).lost
    place.lose_from_lane()
    place.send(2)
    assert relay.poll() == 1
    assert place.lane() == [1]


def test_an_older_replica_promoted_keeps_the_outboxs_order_but_a_producers_command_may_overtake(place: Place) -> None:
    relay = place.relay()
    place.send(1)
    relay.poll()
    place.send(2)
    relay.poll()
    place.redis.rpop(KEYS.lane(PLAYER, 1))  # the replica never saw the second
    place.redis.decr(KEYS.of(PLAYER, "count"))
    another_run(place, relay)
    place.send(3)
    push(place.worker, [level_up(100)])
    while place.rows():
        relay.poll()
        place.drain()
    assert place.decided() == [1, 100, 2, 3]


# The gate


def wiped(place: Place, *numbers: int) -> None:
    """Commands that were pushed, before Redis lost everything."""
    place.send(*numbers)
    relay = place.relay()
    assert relay.poll() == len(numbers)
    place.redis.flushall()


def test_what_redis_lost_goes_in_before_anything_new(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    wiped(place, 1, 2, 3)
    place.send(4)
    push(place.worker, [level_up(100)])
    Drain(place.worker, PLAYER).run()
    place.relay().poll()
    place.drain()
    assert place.decided() == [1, 2, 3, 100, 4]
    assert place.lanes.status(PLAYER).waiting == 0
    assert caplog.messages == [
        "PLAYER:1:0: Redis holds nothing of this partition: 3 outbox commands were put back; "
        "commands sent by other ways and not yet applied are lost"
    ]


def test_nothing_is_claimed_while_the_gate_is_closed(place: Place) -> None:
    push(place.worker, [level_up(100)])
    claim = place.lanes.claim(PLAYER, "drain", "token", 100, gated=True)
    assert (claim.unfilled, claim.lanes, claim.retired) == (True, [], False)
    assert place.fill()
    assert len(place.lanes.claim(PLAYER, "drain", "token", 100, gated=True).lanes) == 1


def test_a_fresh_installation_opens_its_gate_without_a_word(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    with place.engine.begin() as connection:
        apply_commands(connection, [level_up(1)])  # a direct call, before Redis was ever used
    push(place.worker, [level_up(2)])
    place.drain()
    assert (place.decided(), caplog.messages) == ([1, 2], [])


def test_a_wiped_redis_is_reported_also_if_the_outbox_had_nothing(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    push(place.worker, [level_up(1)])
    place.drain()
    place.redis.flushall()
    assert place.relay().poll() == 0
    assert "0 outbox commands were put back" in caplog.text


def test_while_one_fills_another_waits(place: Place) -> None:
    wiped(place, 1)
    place.relay().poll()
    place.redis.delete(KEYS.of(PLAYER, "filled"))
    assert not place.fill()  # the relay has the lease
    assert place.lanes.claim(PLAYER, "drain", "token", 100, gated=True).unfilled


class Interrupted(Exception):
    pass


def interrupt(filling: OutboxRestore, at: int, what: Callable[[], None]) -> None:
    """`what` happens before the step number `at` of the filling."""
    real = filling._lanes.refill
    steps = iter(range(100))

    def step(*args: Any, **options: Any) -> Any:
        if next(steps) == at:
            what()
        return real(*args, **options)

    filling._lanes.refill = step  # type: ignore[method-assign]


def crash() -> None:
    raise Interrupted


@pytest.mark.parametrize("at", [0, 1, 2])
@pytest.mark.parametrize("fault", ["crash", "flushall", "lease"])
def test_a_filling_broken_off_at_any_step_is_made_good(
    place: Place, at: int, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("levelq_worker.relay.restore.CHUNK", 1)
    place.send(1, 2, 3)
    place.send(4, 5, user_id=2)
    place.relay().poll()
    place.redis.flushall()
    push(place.worker, [level_up(100)])
    settings = place.settings
    filling = OutboxRestore(
        Lanes(place.redis, settings), OutboxRows(place.engine), Waker(place.redis, place.redis, KEYS)
    )

    def flushall() -> None:
        place.redis.flushall()
        push(place.worker, [level_up(100)])

    def steal() -> None:
        place.redis.set(KEYS.of(PLAYER, "relay"), "somebody else's", px=1)

    faults: dict[str, Callable[[], None]] = {"crash": crash, "flushall": flushall, "lease": steal}
    interrupt(filling, at, faults[fault])
    if fault == "crash":
        with pytest.raises(Interrupted):
            filling.open(PLAYER)
    else:
        assert not filling.open(PLAYER)
    assert place.lanes.claim(PLAYER, "drain", "token", 100, gated=True).unfilled
    until(place.fill, what="the lease to be free")
    assert place.lane(1) == [1, 2, 3, 100]
    assert place.lane(2) == [4, 5]
    assert place.lanes.status(PLAYER).waiting == 6
    place.drain()
    assert [n for n in place.decided() if n < 4] == [1, 2, 3]


def test_a_lane_is_put_back_whole_however_long(place: Place) -> None:
    numbers = list(range(1, 6001))
    wiped_in_windows(place, numbers)
    push(place.worker, [level_up(100_000)])
    assert place.fill()
    assert place.lane() == [*numbers, 100_000]
    assert place.lanes.status(PLAYER).waiting == 6001


def wiped_in_windows(place: Place, numbers: Sequence[int]) -> None:
    place.send(*numbers)
    assert place.relay().poll() == len(numbers)
    place.redis.flushall()


@pytest.mark.parametrize("held", [True, False])
def test_a_gate_closed_by_hand_opens_only_when_no_lane_is_claimed(place: Place, held: bool) -> None:
    place.send(1)
    relay = place.relay()
    relay.poll()
    if held:
        place.lanes.claim(PLAYER, "drain", "token", 100)
    place.redis.delete(KEYS.of(PLAYER, "filled"))
    relay.poll()
    assert bool(place.redis.exists(KEYS.of(PLAYER, "filled"))) is not held
    assert place.lane() == [1]


def test_a_wrong_type_in_a_lane_does_not_keep_the_gate_closed(place: Place) -> None:
    wiped(place, 1)
    place.redis.set(KEYS.lane(PLAYER, 1), "somebody else's")
    assert place.fill()
    assert place.redis.get(KEYS.lane(PLAYER, 1)) == b"somebody else's"


def test_a_full_memory_does_not_keep_the_gate_closed(place: Place) -> None:
    wiped(place, 1, 2)
    place.redis.config_set("maxmemory", place.redis.info("memory")["used_memory"] + 1024)
    try:
        assert place.fill()
    finally:
        place.redis.config_set("maxmemory", 0)
    assert place.lane() == [1, 2]


def test_workers_wait_at_the_gate_while_the_database_is_down(place: Place, settings: Settings) -> None:
    push(place.worker, [level_up(1)])
    down = settings.model_copy(update={"database_url": "postgresql://nobody@127.0.0.1:1/none", "slice_seconds": 0.1})
    worker = Runtime(down)
    Drain(worker, PLAYER).run()
    worker.close()
    assert place.lane() == [1]
    place.drain()
    assert place.decided() == [1]


# The command and the thread


def rebuild(place: Place, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    for name, value in place.settings.environment().items():
        monkeypatch.setenv(name, value)
    return run(["rebuild", *arguments])


def test_rebuild_puts_back_what_a_lane_lost(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    relay = place.relay()
    place.send(1, 2)
    place.send(3, user_id=2)
    relay.poll()
    place.lose_from_lane(1)
    push(place.worker, [level_up(100)])
    assert rebuild(place, monkeypatch, "player") == 0
    assert capsys.readouterr().out.split() == ["PLAYER:1:0", "2", "commands", "put", "back", "into", "1", "lane"]
    assert (place.lane(1), place.lane(2)) == ([1, 2, 100], [3])
    assert rebuild(place, monkeypatch) == 0
    assert place.lane(1) == [1, 2, 100]
    assert capsys.readouterr().out.count("0 commands put back into 0 lanes") == 3
    assert relay.poll() == 0
    place.drain()
    assert [n for n in place.decided() if n != 3] == [1, 2, 100]


def test_rebuild_refuses_an_unknown_specialization(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rebuild(place, monkeypatch, "WIZARD") == 2
    assert "expected one of PLAYER, COACH, INTERNSHIP, got 'WIZARD'" in capsys.readouterr().err


def test_rebuild_gives_up_when_a_drain_does_not_give_its_lanes_back(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    push(place.worker, [level_up(1)])
    place.lanes.claim(PLAYER, "drain", "token", 100)
    monkeypatch.setattr("levelq.cli.rebuild._SPARE_SECONDS", -place.settings.claim_seconds)
    assert rebuild(place, monkeypatch, "PLAYER") == 2
    assert "run `levelq rebuild` again" in capsys.readouterr().err


def test_the_thread_relays_and_releases_its_leases(place: Place) -> None:
    relay = Relay(place.settings, ["PLAYER", "COACH"])
    relay.start()
    until(lambda: place.redis.exists(KEYS.of(PLAYER, "filled")), what="the first round")
    place.send(1)
    until(lambda: place.lane() == [1], what="the relay")
    relay.stop()
    assert not relay.is_alive()
    assert not place.redis.exists(KEYS.of(PLAYER, "relay"), KEYS.of(Partition("COACH"), "relay"))


def test_the_thread_says_a_failure_once_and_goes_on(
    place: Place, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.WARNING)
    relay = Relay(place.settings, ["PLAYER"])
    relay.poll()
    with monkeypatch.context() as patch:
        patch.setattr(relay._lanes, "lease", broken_lease)
        assert (relay.poll(), relay.poll()) == (0, 0)
    place.send(1)
    assert relay.poll() == 1
    relay.release()
    assert caplog.messages == ["relay: Redis: cut"]


def broken_lease(*_: Any, **__: Any) -> None:
    raise RedisConnectionError("cut")


def test_a_database_without_the_outbox_is_weather(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    place.sql("DROP TABLE levelq_outbox")
    relay = Relay(place.settings, ["PLAYER"])
    assert relay.poll() == 0
    relay.release()
    assert caplog.messages == ['relay: PostgreSQL: relation "levelq_outbox" does not exist (SQLSTATE 42P01)']


def test_a_producer_and_an_outbox_may_send_the_same_command(place: Place) -> None:
    place.send(1)
    with Producer(place.settings) as producer:
        producer.send(level_up(1))
    place.relay().poll()
    place.drain()
    assert (place.decided(), place.rows()) == ([1], {})


def test_a_burst_relays_first_and_outwaits_a_dead_workers_lease(place: Place, start: Callable[..., Started]) -> None:
    place.send(1, 2)
    place.redis.set(KEYS.of(PLAYER, "relay"), "dead", px=1000)
    process = start("worker", "--burst", "-s", "PLAYER")
    output, _ = process.communicate(timeout=60)
    assert (process.returncode, output.strip()) == (0, "done: nothing is due; lanes parked for later: 0")
    assert (place.decided(), place.rows()) == ([1, 2], {})
