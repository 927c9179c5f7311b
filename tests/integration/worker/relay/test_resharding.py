"""Changing the number of shards while commands wait: nothing is lost, no lane is reordered, whoever dies on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from redis import Redis
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from levelq.cli.rebuild import rebuild
from levelq.cli.status_report import look
from levelq.embedded import Servers
from levelq_core import LevelUp, Settings
from levelq_core.errors import ConfigurationError, Moved
from levelq_core.keys import Partition
from levelq_core.lanes.shard_layout import Layout
from levelq_core.operations.verify import Options, verify
from levelq_producer import AsyncProducer, Outbox, Producer
from levelq_worker.draining.context import Runtime
from levelq_worker.draining.drain import Drain
from levelq_worker.process.worker_main import drain_until_empty
from levelq_worker.relay.resharding import begin
from levelq_worker.relay.thread import Relay
from tests.support.coupler import runtime
from tests.support.fixtures.keys import KEYS
from tests.support.fixtures.waiting import until
from tests.support.isolation import experience

USERS = range(1, 41)
OLD = Partition("PLAYER")
NEW = [Partition("PLAYER", 2, shard) for shard in range(4)]


@pytest.fixture
def settings(servers: Servers, own_database_url: str) -> Settings:
    return Settings.load(
        redis_url=servers.valkey.url, database_url=own_database_url, claim_seconds=2, redis_seconds=0.5
    )


@pytest.fixture
def worker(settings: Settings, redis: Redis) -> Iterator[Runtime]:
    with runtime(settings) as made:
        yield made


@pytest.fixture
def producer(settings: Settings, redis: Redis) -> Iterator[Producer]:
    with Producer(settings) as made:
        yield made


@pytest.fixture
def relay(settings: Settings) -> Iterator[Relay]:
    made = Relay(settings, ["PLAYER"])
    yield made
    made.release()


def level_up(user_id: int, xp: int = 10) -> LevelUp:
    return LevelUp(user_id=user_id, specialization="PLAYER", xp_gained=xp)


def layout(worker: Runtime) -> Layout:
    return worker.lanes.layouts(["PLAYER"])["PLAYER"]


def order(engine: Engine) -> dict[int, list[int]]:
    """The experience of each user's commands, in the order of their effect."""
    with engine.connect() as connection:
        found: dict[int, list[int]] = {}
        for user_id, xp in connection.execute(text("SELECT user_id, xp FROM levelq_ledger ORDER BY id")):
            found.setdefault(user_id, []).append(xp)
    return found


def test_the_first_layout_is_what_somebody_set_first(
    settings: Settings, redis: Redis, worker: Runtime, producer: Producer
) -> None:
    producer.send(level_up(1), reply=False)
    assert redis.hget(KEYS.shards, "PLAYER") == b"1:1"
    with Producer(settings.model_copy(update={"shards": 8})) as other:
        other.send(level_up(1), reply=False)
    assert worker.lanes.status(OLD).waiting == 2  # not 8 to one and 1 to the other


def test_a_change_step_by_step(
    producer: Producer, worker: Runtime, relay: Relay, redis: Redis, own_engine: Engine
) -> None:
    producer.send_many([level_up(user, 1) for user in USERS])
    assert begin(worker.lanes, "PLAYER", 4) == layout(worker) == Layout(2, 4, before=1)
    # Pushes go to the new generation, and nothing of it is claimed.
    assert not any(handle.error for handle in producer.send_many([level_up(user, 2) for user in USERS]))
    assert sum(worker.lanes.status(partition).waiting for partition in NEW) == len(USERS)
    assert worker.lanes.status(OLD).waiting == len(USERS)
    for partition in NEW:
        Drain(worker, partition).run()
    relay.poll()
    assert order(own_engine) == {}
    assert not layout(worker).steady
    # A lane that is claimed still counts.
    claim = worker.lanes.claim(OLD, "drain", "token", 10_000)
    relay.poll()
    assert not layout(worker).steady
    worker.lanes.ack(OLD, "token", [(user, 0, b"") for user, _ in claim.lanes])
    Drain(worker, OLD).run()
    relay.poll()
    assert layout(worker) == Layout(2, 4)
    assert str(OLD).encode() not in redis.zrange(KEYS.registry, 0, -1)
    for partition in NEW:
        Drain(worker, partition).run()
    assert order(own_engine) == {user: [1, 2] for user in USERS}


def test_no_loss_is_reported_where_there_was_none(
    producer: Producer, worker: Runtime, relay: Relay, caplog: pytest.LogCaptureFixture
) -> None:
    producer.send_many([level_up(user) for user in USERS])
    Drain(worker, OLD).run()
    begin(worker.lanes, "PLAYER", 4)
    producer.send_many([level_up(user) for user in USERS])
    for partition in NEW:
        Drain(worker, partition).run()
    relay.poll()
    for partition in NEW:
        Drain(worker, partition).run()
    assert layout(worker).steady
    assert not [record for record in caplog.records if "holds nothing" in record.message]


def test_a_burst_worker_sees_a_change_through(producer: Producer, worker: Runtime, own_engine: Engine) -> None:
    for xp, shards in enumerate((3, 8, 2, 1), 1):
        producer.send_many([level_up(user, xp) for user in USERS])
        begin(worker.lanes, "PLAYER", shards)
        producer.send_many([level_up(user, 10 * xp) for user in USERS])
        drain_until_empty(worker.settings, ["PLAYER"])
    assert order(own_engine) == {user: [1, 10, 2, 20, 3, 30, 4, 40] for user in USERS}
    assert layout(worker) == Layout(5, 1)


@pytest.mark.parametrize("closed", [0, 1, 3])
def test_an_operator_who_dies_midway_is_made_up_for(
    closed: int, producer: Producer, worker: Runtime, relay: Relay, own_engine: Engine
) -> None:
    """The layout says that it is being closed, and some of the partitions are."""
    begin(worker.lanes, "PLAYER", 3)
    relay.poll()
    relay.poll()
    three = layout(worker)
    assert three == Layout(2, 3)
    producer.send_many([level_up(user, 1) for user in USERS])
    assert worker.lanes.change_layout("PLAYER", three, three.to(5))
    for partition in three.partitions("PLAYER")[:closed]:
        worker.lanes.close_partition(partition, three.to(5).after)
    with ThreadPoolExecutor(1) as others:  # a producer waits for somebody to go on
        sending = others.submit(producer.send_many, [level_up(user, 2) for user in USERS])
        relay.poll()
        assert not any(handle.error for handle in sending.result())
    drain_until_empty(worker.settings, ["PLAYER"])
    assert order(own_engine) == {user: [1, 2] for user in USERS}
    assert layout(worker) == Layout(3, 5)


def test_a_producer_does_not_wait_for_ever(producer: Producer, worker: Runtime, own_engine: Engine) -> None:
    producer.send(level_up(1), reply=False)
    assert worker.lanes.change_layout("PLAYER", Layout(1, 1), Layout(1, 1, becoming=2))
    worker.lanes.close_partition(OLD, Layout(2, 2))
    with pytest.raises(Moved, match="the number of shards changed"):
        producer.send(level_up(1))
    drain_until_empty(worker.settings, ["PLAYER"])
    producer.send(level_up(1), reply=False)
    drain_until_empty(worker.settings, ["PLAYER"])
    assert experience(own_engine) == {1: 20}


async def test_an_asyncio_producer_follows(settings: Settings, worker: Runtime, own_engine: Engine) -> None:
    async with AsyncProducer(settings) as producer:
        await producer.send_many([level_up(user, 1) for user in USERS])
        begin(worker.lanes, "PLAYER", 4)
        handles = await producer.send_many([level_up(user, 2) for user in USERS])
        assert not any(handle.error for handle in handles)
        worker.lanes.change_layout("PLAYER", Layout(2, 4, before=1), Layout(2, 4, becoming=2))  # nobody goes on
        for partition in NEW:
            worker.lanes.close_partition(partition, Layout(3, 2))
        with pytest.raises(Moved):
            await producer.send(level_up(1, 3))


def test_the_outbox_follows(settings: Settings, worker: Runtime, own_engine: Engine, relay: Relay) -> None:
    def commit(xp: int) -> None:
        with Session(own_engine) as session:
            Outbox(session, settings=settings).send_many([level_up(user, xp) for user in USERS])
            session.commit()

    commit(1)
    until(lambda: relay.poll() == 0)  # pushed into the old one
    assert worker.lanes.status(OLD).waiting == len(USERS)
    begin(worker.lanes, "PLAYER", 4)
    commit(2)
    relay.poll()
    assert sum(worker.lanes.status(partition).waiting for partition in NEW) == 0
    drain_until_empty(settings, ["PLAYER"])
    assert order(own_engine) == {user: [1, 2] for user in USERS}
    with own_engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM levelq_outbox")).scalar_one() == 0


@pytest.mark.parametrize("moment", ["before", "during", "after"])
def test_a_wipe_of_redis_is_made_up_for(
    moment: str, settings: Settings, producer: Producer, worker: Runtime, relay: Relay, redis: Redis, own_engine: Engine
) -> None:
    """The relay remembers the layout, so those that do not are told; what the outbox had is applied, in order."""
    with Session(own_engine) as session:
        Outbox(session, settings=settings).send_many([level_up(user, xp) for user in USERS for xp in (1, 2)])
        session.commit()
    relay.poll()
    if moment == "before":
        redis.flushall()
    begin(worker.lanes, "PLAYER", 4)
    if moment == "during":
        relay.poll()
        redis.flushall()
    drain_until_empty(settings, ["PLAYER"])
    relay.poll()
    if moment == "after":
        redis.flushall()
    with Producer(settings) as fresh:
        fresh.send_many([level_up(user, 3) for user in USERS])
        for _ in range(3):
            relay.poll()
        assert not any(handle.error for handle in producer.send_many([level_up(user, 4) for user in USERS]))
        assert not any(handle.error for handle in fresh.send_many([level_up(user, 5) for user in USERS]))
    for _ in range(2):
        drain_until_empty(settings, ["PLAYER"])
        relay.poll()
    assert order(own_engine) == {user: [1, 2, 3, 4, 5] for user in USERS}
    report = verify(own_engine, redis, settings, Options(at_rest=True))
    assert report.violations == 0


def test_a_drain_that_is_first_after_a_wipe_does_not_open_a_gate_it_knows_nothing_of(
    settings: Settings, producer: Producer, worker: Runtime, relay: Relay, redis: Redis, own_engine: Engine
) -> None:
    """It reads no layout, so it cannot tell which rows of the outbox go in front of what producers push."""
    begin(worker.lanes, "PLAYER", 4)
    relay.poll()
    with Session(own_engine) as session:
        Outbox(session, settings=settings).send_many([level_up(user, 1) for user in USERS])
        session.commit()
    until(lambda: relay.poll() == 0)
    assert sum(worker.lanes.status(partition).waiting for partition in NEW) == len(USERS)
    redis.flushall()
    producer._layouts = {"PLAYER": Layout(2, 4)}  # as one that has sent before
    producer.send_many([level_up(user, 2) for user in USERS])
    for partition in NEW:
        Drain(worker, partition).run()
    assert order(own_engine) == {}
    for _ in range(3):
        relay.poll()
    for partition in NEW:
        Drain(worker, partition).run()
    assert order(own_engine) == {user: [1, 2] for user in USERS}


def test_a_generation_that_only_a_producer_remembers_is_ended(
    settings: Settings, producer: Producer, worker: Runtime, redis: Redis, own_engine: Engine
) -> None:
    """All workers are new since the wipe: what is pushed to it is drained, and the producer is told to ask again."""
    producer._layouts = {"PLAYER": Layout(5, 4)}
    producer.send_many([level_up(user, 1) for user in USERS])
    for _ in range(2):
        drain_until_empty(settings, ["PLAYER"])
    assert layout(worker) == Layout(6, 1)
    producer.send_many([level_up(user, 2) for user in USERS])
    drain_until_empty(settings, ["PLAYER"])
    assert order(own_engine) == {user: [1, 2] for user in USERS}


def test_rebuild_leaves_the_new_shards_alone_while_the_old_ones_hold_something(
    settings: Settings, producer: Producer, worker: Runtime, own_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    producer.send_many([level_up(user, 1) for user in USERS])
    begin(worker.lanes, "PLAYER", 4)
    producer.send_many([level_up(user, 2) for user in USERS])
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    rebuild(["PLAYER"])
    for partition in (*NEW, OLD, *NEW):
        Drain(worker, partition).run()
    assert order(own_engine) == {user: [1] for user in USERS}
    drain_until_empty(settings, ["PLAYER"])
    assert order(own_engine) == {user: [1, 2] for user in USERS}


def test_those_who_only_look_write_no_layout(settings: Settings, redis: Redis) -> None:
    look(settings)
    assert not redis.exists(KEYS.shards)


def test_a_change_that_is_made_between_two_looks_of_a_relay_is_no_loss(
    producer: Producer, worker: Runtime, relay: Relay, own_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has read the old layout, and then sees a partition of the new one."""
    producer.send_many([level_up(user, 1) for user in USERS])
    relay.poll()
    known = relay._lanes.partitions

    def later() -> list[Partition]:
        monkeypatch.undo()
        begin(worker.lanes, "PLAYER", 4)
        producer.send_many([level_up(user, 2) for user in USERS])
        return known()

    monkeypatch.setattr(relay._lanes, "partitions", later)
    relay.poll()
    assert layout(worker) == Layout(2, 4, before=1)
    stale = dict(relay._places.layouts)
    relay._places.layouts = {"PLAYER": Layout(1, 1)}
    relay._resharding.tend(relay._places, [*NEW, OLD])
    relay._places.layouts = stale
    for _ in range(3):
        relay.poll()
        for partition in (OLD, *NEW):
            Drain(worker, partition).run()
    assert layout(worker) == Layout(2, 4)
    assert order(own_engine) == {user: [1, 2] for user in USERS}


def test_two_numbers_for_one_generation_become_one_for_the_next(
    settings: Settings, worker: Runtime, redis: Redis, own_engine: Engine
) -> None:
    """Redis was wiped, and somebody with another LEVELQ_SHARDS was the first to push."""
    four = settings.model_copy(update={"shards": 4})
    relay = Relay(four, ["PLAYER"])
    with Producer(four) as producer, Producer(settings) as other:
        producer.send_many([level_up(user, 1) for user in USERS])
        relay.poll()
        drain_until_empty(settings, ["PLAYER"])
        redis.flushall()
        other.send_many([level_up(user, 2) for user in USERS])
        for _ in range(2):
            relay.poll()
        assert layout(worker) == Layout(2, 4, before=4)
        producer.send_many([level_up(user, 3) for user in USERS])
        drain_until_empty(settings, ["PLAYER"])
    relay.release()
    assert order(own_engine) == {user: [1, 2, 3] for user in USERS}
    assert layout(worker) == Layout(2, 4)


def test_a_relay_outlives_a_layout_that_it_cannot_read(relay: Relay, redis: Redis, worker: Runtime) -> None:
    redis.hset(KEYS.shards, "PLAYER", "2:8=9")
    assert relay.poll() == 0
    redis.hset(KEYS.shards, "PLAYER", "1:1")
    relay.poll()
    assert worker.lanes.lease(OLD, "take").ours is False


def test_two_people_at_once(worker: Runtime) -> None:
    with ThreadPoolExecutor(8) as people:
        tries = [people.submit(begin, worker.lanes, "PLAYER", shards) for shards in range(2, 10)]
        refused = [str(found.exception()) for found in tries if found.exception()]
    assert len(refused) == 7
    assert all("PLAYER: " in line and ("under way" in line or "somebody else" in line) for line in refused)


@pytest.mark.parametrize(
    "prepare, expected",
    [
        (lambda lanes: None, "expected another number of shards than 1"),
        (lambda lanes: begin(lanes, "PLAYER", 4), "a change to 4 shards is under way"),
    ],
)
def test_what_cannot_be_changed(worker: Runtime, prepare: Callable[..., object], expected: str) -> None:
    prepare(worker.lanes)
    with pytest.raises(ConfigurationError) as refused:
        begin(worker.lanes, "PLAYER", 1)
    assert expected in str(refused.value)


def test_status_says_what_holds_a_change_up_and_nothing_of_what_only_waits(
    settings: Settings, producer: Producer, worker: Runtime, redis: Redis
) -> None:
    producer.send_many([level_up(user) for user in USERS])
    begin(worker.lanes, "PLAYER", 4)
    producer.send_many([level_up(user) for user in USERS])
    Drain(worker, OLD).run()
    old = settings.model_copy(update={"claim_seconds": 0.5, "sweep_seconds": 0.1})
    assert not [problem for problem in look(old).problems if "PLAYER" in problem]
    redis.zadd(KEYS.of(OLD, "ready"), {"1": 2e12})
    assert "PLAYER: the change to 4 shards waits for 1 parked lane of the old ones" in look(settings).problems


def test_rubbish_for_a_layout_is_named(worker: Runtime, redis: Redis) -> None:
    redis.hset(KEYS.shards, "PLAYER", "1:x")
    with pytest.raises(ConfigurationError, match="levelq:shards: expected generation:shards, got '1:x'"):
        layout(worker)
