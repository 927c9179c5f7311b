"""Changing the number of shards while commands wait: nothing is lost or reordered, whatever dies meanwhile."""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from redis import Redis
from sqlalchemy import Engine

from levelq.embedded import Servers
from levelq_core import Settings
from levelq_core.errors import ConfigurationError, Moved
from levelq_core.keys import Partition
from levelq_core.lanes.shard_layout import Layout
from levelq_core.operations.readings.status import status as look
from levelq_core.operations.verify import Options, verify
from levelq_producer import AsyncProducer, Producer
from levelq_worker.process.worker_main import drain_until_empty
from levelq_worker.relay import resharding
from levelq_worker.relay.thread import Relay
from tests.support.fixtures.command_line import Levelq
from tests.support.fixtures.keys import KEYS
from tests.support.fixtures.waiting import until
from tests.support.isolation import experience
from tests.support.system import System, up

USERS = range(1, 41)
OLD = Partition("PLAYER")
NEW = [Partition("PLAYER", 2, shard) for shard in range(4)]


class ShardedSystem(System):
    """A system whose users send commands of a known experience, so that their order can be read."""

    def send(self, xp: int, producer: Producer | None = None) -> None:
        """One command for each user."""
        handles = (producer or self.producer).send_many([up(user, xp) for user in USERS])
        assert not any(handle.error for handle in handles)

    def commit_for_all(self, *experiences: int) -> None:
        """One command of each experience for each user, through the outbox."""
        self.commit(*(up(user, xp) for user in USERS for xp in experiences))

    def begin(self, shards: int) -> Layout:
        return resharding.begin(self.lanes, "PLAYER", shards)

    def layout(self) -> Layout:
        return self.lanes.layouts(["PLAYER"])["PLAYER"]

    def burst(self) -> None:
        """Drain everything as a burst worker does."""
        drain_until_empty(self.settings, ["PLAYER"])

    def order(self) -> dict[int, list[int]]:
        """The experience of each user's commands, in the order of their effect."""
        found: dict[int, list[int]] = {}
        for user_id, xp in self.rows("SELECT user_id, xp FROM levelq_ledger ORDER BY id"):
            found.setdefault(user_id, []).append(xp)
        return found

    def waiting(self, *partitions: Partition) -> int:
        """How many commands wait in these."""
        return sum(self.status(partition).waiting for partition in partitions)


def each(*experiences: int) -> dict[int, list[int]]:
    """The order if each user's commands took effect as given."""
    return {user: list(experiences) for user in USERS}


@pytest.fixture
def settings(servers: Servers, own_database_url: str) -> Settings:
    return Settings.load(
        redis_url=servers.valkey.url, database_url=own_database_url, claim_seconds=2, redis_seconds=0.5
    )


@pytest.fixture
def system(settings: Settings, redis: Redis, own_engine: Engine) -> Iterator[ShardedSystem]:
    with ShardedSystem(settings, redis, own_engine) as made:
        yield made


@pytest.fixture
def relay(settings: Settings) -> Iterator[Relay]:
    made = Relay(settings, ["PLAYER"])
    yield made
    made.release()


def test_the_first_layout_is_the_one_that_was_written_first(system: ShardedSystem) -> None:
    system.producer.send(up(1), reply=False)
    assert system.redis.hget(KEYS.shards, "PLAYER") == b"1:1"
    with system.another_producer(shards=8) as other:
        other.send(up(1), reply=False)
    assert system.waiting(OLD) == 2


def test_a_change_step_by_step(system: ShardedSystem, relay: Relay) -> None:
    system.send(1)
    assert system.begin(4) == system.layout() == Layout(2, 4, previous_shards=1)
    # Pushes go to the new generation, and nothing of it is claimed.
    system.send(2)
    assert (system.waiting(*NEW), system.waiting(OLD)) == (len(USERS), len(USERS))
    system.run_drains(*NEW)
    relay.poll()
    assert system.order() == {}
    assert not system.layout().steady
    # A lane that is claimed still counts.
    claim = system.lanes.claim(OLD, "drain", "token", 10_000)
    relay.poll()
    assert not system.layout().steady
    system.lanes.ack(OLD, "token", [(user, 0, b"") for user, _ in claim.lanes])
    system.run_drains(OLD)
    relay.poll()
    assert system.layout() == Layout(2, 4)
    assert str(OLD).encode() not in system.redis.zrange(KEYS.registry, 0, -1)
    system.run_drains(*NEW)
    assert system.order() == each(1, 2)


def test_a_change_reports_no_loss(system: ShardedSystem, relay: Relay, caplog: pytest.LogCaptureFixture) -> None:
    system.send(10)
    system.run_drains(OLD)
    system.begin(4)
    system.send(10)
    system.run_drains(*NEW)
    relay.poll()
    system.run_drains(*NEW)
    assert system.layout().steady
    assert "holds nothing" not in caplog.text


def test_a_burst_worker_finishes_a_change(system: ShardedSystem) -> None:
    for xp, shards in enumerate((3, 8, 2, 1), 1):
        system.send(xp)
        system.begin(shards)
        system.send(10 * xp)
        system.burst()
    assert system.order() == each(1, 10, 2, 20, 3, 30, 4, 40)
    assert system.layout() == Layout(5, 1)


@pytest.mark.parametrize("closed", [0, 1, 3])
def test_a_relay_goes_on_after_an_operator_dies_midway(closed: int, system: ShardedSystem, relay: Relay) -> None:
    """By the layout it is being closed, and some of the partitions are."""
    system.begin(3)
    relay.poll()
    relay.poll()
    three = system.layout()
    assert three == Layout(2, 3)
    system.send(1)
    assert system.lanes.change_layout("PLAYER", three, three.begin_change(5))
    for partition in three.partitions("PLAYER")[:closed]:
        system.lanes.close_partition(partition, three.begin_change(5).next_step)
    with ThreadPoolExecutor(1) as others:  # the producer waits for the change to go on
        sending = others.submit(system.send, 2)
        relay.poll()
        sending.result()
    system.burst()
    assert system.order() == each(1, 2)
    assert system.layout() == Layout(3, 5)


def test_a_producer_does_not_wait_for_ever(system: ShardedSystem) -> None:
    system.producer.send(up(1, 10), reply=False)
    assert system.lanes.change_layout("PLAYER", Layout(1, 1), Layout(1, 1, next_shards=2))
    system.lanes.close_partition(OLD, Layout(2, 2))
    with pytest.raises(Moved, match="the number of shards changed"):
        system.producer.send(up(1, 10))
    system.burst()
    system.producer.send(up(1, 10), reply=False)
    system.burst()
    assert experience(system.engine) == {1: 20}


async def test_an_asyncio_producer_follows_a_change(system: ShardedSystem) -> None:
    async with AsyncProducer(system.settings) as producer:
        await producer.send_many([up(user, 1) for user in USERS])
        system.begin(4)
        others = (producer.send_many([up(user, 3)]) for user in USERS)  # at the same time: each follows for itself
        found = await asyncio.gather(producer.send_many([up(user, 2) for user in USERS]), *others)
        assert not any(handle.error for handles in found for handle in handles)
        begun = Layout(2, 4, next_shards=2)  # and no relay carries it on
        system.lanes.change_layout("PLAYER", Layout(2, 4, previous_shards=1), begun)
        for partition in NEW:
            system.lanes.close_partition(partition, Layout(3, 2))
        with pytest.raises(Moved):
            await producer.send(up(1, 3))


def test_the_outbox_follows_a_change(system: ShardedSystem, relay: Relay) -> None:
    system.commit_for_all(1)
    until(lambda: relay.poll() == 0)
    assert system.waiting(OLD) == len(USERS)
    system.begin(4)
    system.commit_for_all(2)
    relay.poll()
    assert system.waiting(*NEW) == 0
    system.burst()
    assert system.order() == each(1, 2)
    assert system.rows("SELECT count(*) FROM levelq_outbox") == [(0,)]


@pytest.mark.parametrize("moment", ["before", "during", "after"])
def test_a_relay_puts_the_layout_back_after_redis_is_wiped(moment: str, system: ShardedSystem, relay: Relay) -> None:
    """The relay remembers the layout; what the outbox had is applied, in order."""
    system.commit_for_all(1, 2)
    relay.poll()
    if moment == "before":
        system.redis.flushall()
    system.begin(4)
    if moment == "during":
        relay.poll()
        system.redis.flushall()
    system.burst()
    relay.poll()
    if moment == "after":
        system.redis.flushall()
    with system.another_producer() as fresh:
        fresh.send_many([up(user, 3) for user in USERS])
        for _ in range(3):
            relay.poll()
        system.send(4)
        system.send(5, fresh)
    for _ in range(2):
        system.burst()
        relay.poll()
    assert system.order() == each(1, 2, 3, 4, 5)
    assert verify(system.engine, system.redis, system.settings, Options(at_rest=True)).violations == 0


def test_a_drain_that_is_first_after_a_wipe_leaves_an_unknown_generation_blocked(
    system: ShardedSystem, relay: Relay
) -> None:
    """It reads no layout, so it does not know which outbox rows come before the producers' pushes."""
    system.begin(4)
    relay.poll()
    system.commit_for_all(1)
    until(lambda: relay.poll() == 0)
    assert system.waiting(*NEW) == len(USERS)
    system.redis.flushall()
    system.producer._layouts = {"PLAYER": Layout(2, 4)}  # as one that has sent before
    system.send(2)
    system.run_drains(*NEW)
    assert system.order() == {}
    for _ in range(3):
        relay.poll()
    system.run_drains(*NEW)
    assert system.order() == each(1, 2)


def test_a_generation_that_only_a_producer_remembers_is_ended(system: ShardedSystem) -> None:
    """All workers are new since the wipe: what is pushed to it is drained, and the producer reads the layout again."""
    system.producer._layouts = {"PLAYER": Layout(5, 4)}
    system.send(1)
    for _ in range(2):
        system.burst()
    assert system.layout() == Layout(6, 1)
    system.send(2)
    system.burst()
    assert system.order() == each(1, 2)


def test_rebuild_leaves_new_shards_blocked_while_the_old_ones_hold_something(
    system: ShardedSystem, levelq_here: Levelq
) -> None:
    system.send(1)
    system.begin(4)
    system.send(2)
    assert levelq_here("rebuild", "PLAYER")[0] == 0
    system.run_drains(*NEW, OLD, *NEW)
    assert system.order() == each(1)
    system.burst()
    assert system.order() == each(1, 2)


def test_status_writes_no_layout(system: ShardedSystem) -> None:
    look(system.settings)
    assert not system.redis.exists(KEYS.shards)


def test_a_change_made_while_a_relay_reads_is_no_loss(
    system: ShardedSystem, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has read the old layout, and then sees a partition of the new one."""
    system.send(1)
    relay.poll()
    known = relay._lanes.partitions

    def later() -> list[Partition]:
        monkeypatch.undo()
        system.begin(4)
        system.send(2)
        return known()

    monkeypatch.setattr(relay._lanes, "partitions", later)
    relay.poll()
    assert system.layout() == Layout(2, 4, previous_shards=1)
    stale = dict(relay._directory.layouts)
    relay._directory.layouts = {"PLAYER": Layout(1, 1)}
    relay._resharding.advance(relay._directory, [*NEW, OLD])
    relay._directory.layouts = stale
    for _ in range(3):
        relay.poll()
        system.run_drains(OLD, *NEW)
    assert system.layout() == Layout(2, 4)
    assert system.order() == each(1, 2)


def test_two_numbers_for_one_generation_become_one_for_the_next(system: ShardedSystem) -> None:
    """Redis was wiped, and a producer with another LEVELQ_SHARDS was the first to push."""
    relay = Relay(system.settings.model_copy(update={"shards": 4}), ["PLAYER"])
    with system.another_producer(shards=4) as producer:
        system.send(1, producer)
        relay.poll()
        system.burst()
        system.redis.flushall()
        system.send(2)
        for _ in range(2):
            relay.poll()
        assert system.layout() == Layout(2, 4, previous_shards=4)
        system.send(3, producer)
        system.burst()
    relay.release()
    assert system.order() == each(1, 2, 3)
    assert system.layout() == Layout(2, 4)


def test_a_relay_outlives_a_layout_that_it_cannot_read(system: ShardedSystem, relay: Relay) -> None:
    system.redis.hset(KEYS.shards, "PLAYER", "2:8=9")
    assert relay.poll() == 0
    system.redis.hset(KEYS.shards, "PLAYER", "1:1")
    relay.poll()
    assert system.lanes.lease(OLD, "take").is_holder is False


def test_of_several_operators_at_once_one_begins_a_change(system: ShardedSystem) -> None:
    with ThreadPoolExecutor(8) as people:
        tries = [people.submit(system.begin, shards) for shards in range(2, 10)]
        refused = [str(found.exception()) for found in tries if found.exception()]
    assert len(refused) == 7
    assert all("PLAYER: " in line and ("under way" in line or "another change" in line) for line in refused)


@pytest.mark.parametrize(
    "prepare, expected",
    [
        (lambda system: None, "expected another number of shards than 1"),
        (lambda system: system.begin(4), "a change to 4 shards is under way"),
    ],
    ids=["no change", "another change"],
)
def test_a_change_that_cannot_be_made_is_refused(
    system: ShardedSystem, prepare: Callable[[ShardedSystem], object], expected: str
) -> None:
    prepare(system)
    with pytest.raises(ConfigurationError) as refused:
        system.begin(1)
    assert expected in str(refused.value)


def test_status_names_what_holds_a_change_up_and_nothing_that_only_waits(system: ShardedSystem) -> None:
    system.send(10)
    system.begin(4)
    system.send(10)
    system.run_drains(OLD)
    impatient = system.settings.model_copy(update={"claim_seconds": 0.5, "sweep_seconds": 0.1})
    assert not [problem for problem in look(impatient).problems if "PLAYER" in problem]
    system.redis.zadd(KEYS.of(OLD, "ready"), {"1": 2e12})
    problem = "PLAYER: the change to 4 shards waits for 1 parked lane of the old ones"
    assert problem in look(system.settings).problems


def test_a_layout_that_cannot_be_read_is_named(system: ShardedSystem) -> None:
    system.redis.hset(KEYS.shards, "PLAYER", "1:x")
    with pytest.raises(ConfigurationError, match="levelq:shards: expected generation:shards, got '1:x'"):
        system.layout()
