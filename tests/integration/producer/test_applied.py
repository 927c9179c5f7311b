"""wait_until_applied: it returns when all that was pushed before is decided, and says why if that takes too long."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import text

from levelq_core import InvalidArgument, InvalidCommand, OutcomeTimeout, OutcomeUnknown, QueueUnavailable
from levelq_core.keys import Partition
from levelq_core.lanes.shard_layout import Layout
from levelq_core.operations import queries
from levelq_core.redis_client.pool import BOUND
from levelq_producer import AsyncProducer, Producer
from tests.conformance.kit import identity
from tests.support.fixtures.command_line import NOWHERE, Levelq
from tests.support.fixtures.keys import KEYS
from tests.support.fixtures.waiting import until
from tests.support.isolation import apply
from tests.support.outbox import OutboxSystem
from tests.support.producing import clients
from tests.support.system import PLAYER, System, up

Waits = Callable[..., Future[None]]


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> Iterator[Waits]:
    """Start a wait in a thread, and return once it has looked at the lane."""
    with ThreadPoolExecutor(4) as pool:

        def start(producer: Producer, timeout: float | None = 20) -> Future[None]:
            looked = threading.Event()
            lanes = producer._connections.get().lanes
            tail = lanes.tail

            def observed(*given: Any) -> Any:
                found = tail(*given)
                looked.set()
                return found

            monkeypatch.setattr(lanes, "tail", observed)
            wait = pool.submit(producer.wait_until_applied, 1, "PLAYER", timeout)
            assert looked.wait(20)
            monkeypatch.setattr(lanes, "tail", tail)
            return wait

        yield start


@pytest.mark.parametrize("reply", [True, False])
def test_wait_ends_when_what_any_process_pushed_before_is_decided(system: System, waits: Waits, reply: bool) -> None:
    system.producer.wait_until_applied(1, "player")  # nothing was ever pushed
    with system.another_producer(database_url=None) as another:
        another.send_many([up(1, 100), up(1, 5000), up(1, 200)], reply=reply)
        wait = waits(another)
        with pytest.raises(OutcomeTimeout):
            another.wait_until_applied(1, "PLAYER", timeout=0.01)
        system.drain()
        wait.result()
    assert system.total_xp() == 5300


def test_commands_pushed_after_the_call_are_not_waited_for(system: System, waits: Waits) -> None:
    system.push(up(1))
    wait = waits(system.producer)
    (held,) = system.lanes.claim(PLAYER, "drain", "token", 10).lanes
    system.push(up(1), up(1))
    user, (entry,) = held
    system.lanes.ack(PLAYER, "token", [(user, 0, identity(entry))])
    wait.result()
    assert system.status().waiting == 2


def test_wait_in_one_lane_does_not_wait_for_another(system: System) -> None:
    system.push(up(1), up(2, specialization="COACH"))
    system.producer.wait_until_applied(2, "PLAYER")
    system.producer.wait_until_applied(1, "COACH")


@pytest.mark.parametrize(
    ("prepare", "why"),
    [
        (lambda system: None, "commands waiting: 3; no worker drains PLAYER:1:0"),
        (
            lambda system: system.lanes.claim(PLAYER, "drain", "token", 10),
            "commands waiting: 3; a worker has claimed them",
        ),
        (
            lambda system: (
                system.lanes.claim(PLAYER, "drain", "token", 10),
                system.lanes.ack(PLAYER, "token", [(b"1", 60_000, b"")], {b"1": "a trigger\x1b (SQLSTATE P0001)"}),
            ),
            r"commands waiting: 3; the lane is parked: a trigger\x1b (SQLSTATE P0001)",
        ),
        (
            lambda system: system.redis.zadd(KEYS.of(PLAYER, "drains"), {"drain": 10**15}),
            "commands waiting: 3; workers drain PLAYER:1:0",
        ),
        (
            lambda system: system.commit(up(1)),
            "commands wait in the outbox, or their lane; a worker's relay pushes them",
        ),
    ],
)
def test_timeout_says_how_many_wait_and_why(system: System, prepare: Callable[[System], Any], why: str) -> None:
    system.push(up(1), up(1), up(1))
    prepare(system)
    with pytest.raises(OutcomeTimeout) as raised:
        system.producer.wait_until_applied(1, "PLAYER", timeout=0.02)
    assert str(raised.value) == f"user 1 PLAYER: not all is decided after 0.02 s: {why}"


def test_command_of_the_outbox_is_waited_for_until_it_is_decided(outbox: OutboxSystem, waits: Waits) -> None:
    outbox.send(1, 2)
    wait = waits(outbox.producer, timeout=None)
    outbox.ensure_restored()
    relay = outbox.relay()
    until(lambda: relay.poll() is not None and outbox.lane() == [1, 2])
    assert not wait.done()
    outbox.drain()
    wait.result()
    assert outbox.decided() == [1, 2]


def test_lane_is_found_by_an_index_among_many_rows_of_the_outbox(outbox: OutboxSystem) -> None:
    for user_id in range(2, 102):
        outbox.send(*range(100 * user_id, 100 * user_id + 10), user_id=user_id)
    with outbox.engine.connect() as connection:
        values = {"user": 1, "specialization": "PLAYER", "first": 0, "last": 2**63 - 1}
        plan = connection.execute(text(f"EXPLAIN {queries._LAST_IN_OUTBOX}"), values).scalars().all()
    assert "levelq_outbox_user" in "".join(plan)


@pytest.mark.parametrize("reply", [True, False])
def test_last_command_that_is_cancelled_leaves_those_before_it_to_wait_for(
    system: System, waits: Waits, levelq_here: Levelq, reply: bool
) -> None:
    _, last = system.producer.send_many([up(1), up(1)], reply=reply)
    wait = waits(system.producer)
    entry = system.redis.lindex(KEYS.lane(PLAYER, 1), -1)
    assert levelq_here("cancel", 1, "PLAYER", "--id", last.command_id, "--yes").code == 0
    with pytest.raises(OutcomeTimeout):
        system.producer.wait_until_applied(1, "PLAYER", timeout=0.01)
    assert system.lanes.tail(PLAYER, 1, entry).waiting == 1
    system.drain()
    wait.result()


def test_row_of_the_outbox_that_is_cancelled_leaves_those_before_it_to_wait_for(
    outbox: OutboxSystem, waits: Waits
) -> None:
    outbox.send(1, 2)
    wait = waits(outbox.producer)
    outbox.sql("DELETE FROM levelq_outbox WHERE id = 2")
    with pytest.raises(OutcomeTimeout, match="in the outbox"):
        outbox.producer.wait_until_applied(1, "PLAYER", timeout=0.01)
    assert not wait.done()
    outbox.sql("DELETE FROM levelq_outbox")
    wait.result()


def test_lane_of_another_generation_is_waited_for(system: System) -> None:
    """While the number of shards changes, new commands wait for those of the previous generation."""
    system.push(up(1))
    assert system.lanes.change_layout("PLAYER", Layout(), Layout(1, 1, next_shards=4))
    assert system.lanes.change_layout("PLAYER", Layout(1, 1, next_shards=4), Layout(2, 4, previous_shards=1))
    with pytest.raises(OutcomeTimeout, match="commands waiting: 1; no worker drains PLAYER:1:0"):
        system.producer.wait_until_applied(1, "PLAYER", timeout=0.01)
    system.run_drains(Partition("PLAYER"))
    system.producer.wait_until_applied(1, "PLAYER")


@pytest.mark.parametrize("decided", [True, False])
@pytest.mark.parametrize("ledger", [True, False])
def test_loss_in_redis_is_no_decision(system: System, waits: Waits, decided: bool, ledger: bool) -> None:
    command = up(1)
    system.redis.set(KEYS.of(PLAYER, "filled"), "1")  # as a worker's restore leaves it
    with system.another_producer(**{} if ledger else {"database_url": None}) as producer:
        producer.send(command, reply=False)
        wait = waits(producer)
        if decided:
            apply(system.engine, [command])
        system.redis.flushall()
        if ledger and decided:
            wait.result()
        else:
            with pytest.raises(OutcomeUnknown, match="restarted or emptied during this call"):
                wait.result()


async def test_many_tasks_share_a_bounded_number_of_connections(system: System) -> None:
    system.fill(300, users=300)
    before = clients(system.redis)
    async with AsyncProducer(system.settings.model_copy(update={"database_url": None})) as producer:
        waiting = [asyncio.create_task(producer.wait_until_applied(user, "PLAYER", 60)) for user in range(1, 301)]
        await asyncio.sleep(0)
        await asyncio.to_thread(system.drain)
        await asyncio.gather(*waiting)
        assert clients(system.redis) - before <= BOUND + 10


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((0, "PLAYER"), InvalidCommand, "user_id: "),
        ((1, "no name"), InvalidCommand, "specialization: "),
        ((1, "PLAYR"), InvalidCommand, "specialization: expected one of PLAYER, "),
        ((1, "PLAYER", 0), InvalidArgument, "timeout: expected a number of seconds above 0, or None"),
        ((1, "PLAYER", float("nan")), InvalidArgument, "timeout: expected"),
    ],
)
def test_wrong_argument_is_named(
    system: System, arguments: tuple[Any, ...], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        system.producer.wait_until_applied(*arguments)


def test_server_that_is_away_is_named() -> None:
    with (
        Producer.from_url(f"redis://{NOWHERE}/0") as producer,
        pytest.raises(QueueUnavailable, match="LEVELQ_REDIS_URL"),
    ):
        producer.wait_until_applied(1, "PLAYER")
