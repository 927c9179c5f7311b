"""Sends that come while a round trip is under way go together in the next one, and each gets its own answer."""

import asyncio
import queue
import signal
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from traceback import walk_tb
from typing import Any
from uuid import UUID

import pytest
from redis import Redis

from levelq.embedded import Servers
from levelq_core import Command
from levelq_core.domain.codec import IDENTITY_AT
from levelq_producer import AsyncProducer, LaneFull, Producer, ProducerClosed, QueueUnavailable, SendUnknown
from levelq_producer.sending import LOOP_WINDOW, WINDOW
from tests.support.fixtures.keys import KEYS, PLAYER
from tests.support.fixtures.proxy import Fault, Proxy
from tests.support.fixtures.waiting import until
from tests.support.producing import clients, level_up, level_ups

LIMIT = 3  # of a lane


def lane(redis: Redis, user_id: int = 1) -> list[UUID]:
    """The ids of a lane's commands, in order."""
    entries: Any = redis.lrange(KEYS.lane(PLAYER, user_id), 0, -1)
    return [UUID(bytes=entry[IDENTITY_AT : IDENTITY_AT + 16]) for entry in entries]


def ids(commands: Sequence[Command]) -> list[UUID]:
    return [command.command_id for command in commands]


def scripts_run(redis: Any) -> int:
    """How many scripts the server has run since its statistics were reset."""
    return int(redis.info("commandstats").get("cmdstat_evalsha", {"calls": 0})["calls"])


class Trips:
    """Holds every round trip of a producer's until `let` is called; `begun` has the size of each."""

    def __init__(self, producer: AsyncProducer) -> None:
        self.begun: asyncio.Queue[int] = asyncio.Queue()
        self.door = asyncio.Semaphore(0)
        lanes: Any = producer._connections.get().lanes
        self._push, lanes.push = lanes.push, self.push

    async def push(self, batches: Sequence[Any], then: Any) -> Any:
        self.begun.put_nowait(sum(len(entries) for _, lanes in batches for _, entries in lanes))
        await self.door.acquire()
        return await self._push(batches, then=then)


class ThreadTrips:
    """The same for threads; what is in `errors` is raised instead of the trip, a signal in `signals` before it."""

    def __init__(self, producer: Producer) -> None:
        self.begun: queue.SimpleQueue[int] = queue.SimpleQueue()  # which a signal handler may use, too
        self._door: queue.SimpleQueue[None] = queue.SimpleQueue()
        self.errors: list[BaseException] = []
        self.signals: list[signal.Signals] = []
        self.producer = producer
        lanes: Any = producer._connections.get().lanes
        self._push, lanes.push = lanes.push, self.push

    def push(self, batches: Sequence[Any], then: Any) -> Any:
        self.begun.put(sum(len(entries) for _, lanes in batches for _, entries in lanes))
        if self.signals:  # not from another thread: it may come just before the wait, which then does not end
            signal.raise_signal(self.signals.pop())
        self._door.get(timeout=60)  # a test that has failed lets nothing go on
        if self.errors:
            raise self.errors.pop()
        return self._push(batches, then=then)

    def let(self, count: int = 1) -> None:
        """Let this number of trips go on."""
        for _ in range(count):
            self._door.put(None)

    def until_waiting(self, count: int) -> None:
        """Wait until this number of calls waits for the next trip."""
        (trips,) = self.producer._connections.get()._trips.values()
        waiting = trips._waiting
        until(lambda: len(waiting) == count, what="the calls")


@pytest.fixture
async def sender(servers: Servers, redis: Redis) -> AsyncIterator[AsyncProducer]:
    """A producer that has sent before."""
    async with AsyncProducer.from_url(servers.valkey.url, lane_limit=1_000) as made:
        await made.send(level_up(99))
        yield made


@pytest.fixture
def producer(servers: Servers, redis: Redis) -> Iterator[Producer]:
    with Producer.from_url(servers.valkey.url, lane_limit=1_000) as made:
        made.send(level_up(99))
        yield made


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(64) as made:
        yield made


# Tasks


async def test_thousand_tasks_share_trips_on_one_connection_in_the_order_of_their_calls(
    sender: AsyncProducer, redis: Redis
) -> None:
    trips, before = Trips(sender), clients(redis)
    redis.config_resetstat()
    commands = [level_up(1 + n % 2) for n in range(1_001)]
    sends = [asyncio.create_task(sender.send(command, reply=False)) for command in commands]
    for size in (1, LOOP_WINDOW, LOOP_WINDOW):
        assert await trips.begun.get() == size
        trips.door.release()
    await asyncio.gather(*sends)
    assert (lane(redis, 1), lane(redis, 2)) == (ids(commands[::2]), ids(commands[1::2]))
    assert scripts_run(redis) == 3
    assert clients(redis) <= before  # one of an earlier test may have ended meanwhile


async def test_tasks_that_send_one_after_the_other_keep_their_order(sender: AsyncProducer, redis: Redis) -> None:
    called: list[Command] = []

    async def send_some() -> None:
        for _ in range(5):
            called.append(level_up())
            await sender.send(called[-1], reply=False)

    await asyncio.gather(*(send_some() for _ in range(100)))
    assert lane(redis) == ids(called)


async def test_lone_send_is_one_round_trip_of_its_own(sender: AsyncProducer, producer: Producer, redis: Any) -> None:
    for send in (sender.send, lambda command: asyncio.to_thread(producer.send, command)):
        redis.config_resetstat()
        await send(level_up())
        stats = {name.removeprefix("cmdstat_") for name in redis.info("commandstats")}
        assert stats - {"config|resetstat"} <= {"evalsha", "info"} | _OF_THE_SCRIPT
        assert scripts_run(redis) == 1


_OF_THE_SCRIPT = {"mget", "llen", "zmscore", "zadd", "incrby", "rpush", "time"}


async def test_cancelled_task_gives_up_only_its_own_command(sender: AsyncProducer, redis: Redis) -> None:
    trips = Trips(sender)
    commands = [level_up(number) for number in range(1, 6)]
    alone, waiting, travelling, other, last = (
        asyncio.create_task(sender.send(command)) for command in commands
    )  # fmt: skip
    assert await trips.begun.get() == 1
    waiting.cancel()
    alone.cancel()  # its trip ends; the others have one of their own
    assert await trips.begun.get() == 3
    travelling.cancel()
    trips.door.release()
    assert [(await send).error for send in (other, last)] == [None, None]
    assert [send.cancelled() for send in (alone, waiting, travelling)] == [True] * 3
    trips.door.release()
    await sender.send(level_up(1))
    sent = [[user_id for user_id in range(1, 6) if lane(redis, user_id)]]
    assert sent == [[1, 3, 4, 5]]


async def test_full_lane_refuses_its_own_commands(servers: Servers, redis: Redis) -> None:
    async with AsyncProducer.from_url(servers.valkey.url, lane_limit=LIMIT) as producer:
        trips, first = Trips(producer), asyncio.create_task(producer.send(level_up(3)))
        await trips.begun.get()
        one, others = ([asyncio.create_task(producer.send(level_up(user))) for _ in range(5)] for user in (1, 2))
        many_commands = [*(level_up(1) for _ in range(LOOP_WINDOW - 10)), level_up(4)]
        many = asyncio.create_task(producer.send_many(many_commands))
        after = asyncio.create_task(producer.send(level_up(4)))
        for _ in range(3):
            trips.door.release()
        found = await asyncio.gather(first, *one, *others, after, return_exceptions=True)
        errors = [error for error in found if isinstance(error, Exception)]
        assert [type(error) for error in errors] == [LaneFull] * 4
        assert {len(list(walk_tb(error.__traceback__))) for error in errors} == {1}  # its own call's frames
        assert [type(handle.error) for handle in await many] == [LaneFull] * (LOOP_WINDOW - 10) + [type(None)]
    assert [len(lane(redis, user)) for user in (1, 2, 3, 4)] == [LIMIT, LIMIT, 1, 2]


# The end of the producer


async def test_trips_of_tasks_after_close_leave_no_connection_and_those_that_wait_are_told(
    servers: Servers, redis: Redis
) -> None:
    before, producer = clients(redis), AsyncProducer.from_url(servers.valkey.url)
    await producer.send(level_up(1))
    redis.delete(KEYS.of(PLAYER, "wake"))  # the next trip wakes a drain
    trips = Trips(producer)
    travelling, waiting = (asyncio.create_task(producer.send(level_up(user))) for user in (2, 3))
    await trips.begun.get()
    await producer.close()
    trips.door.release()
    assert (await travelling).error is None
    with pytest.raises(ProducerClosed):
        await waiting
    await asyncio.to_thread(until, lambda: clients(redis) <= before, 10, "the end of all connections")


def test_trips_of_threads_after_close_leave_no_connection_and_those_that_wait_are_told(
    servers: Servers, redis: Redis, pool: ThreadPoolExecutor
) -> None:
    before, producer = clients(redis), Producer.from_url(servers.valkey.url)
    producer.send(level_up(1))
    redis.delete(KEYS.of(PLAYER, "wake"))
    trips = ThreadTrips(producer)
    travelling = pool.submit(producer.send, level_up(2))
    trips.begun.get()
    waiting = pool.submit(producer.send, level_up(3))
    trips.until_waiting(1)
    producer.close()
    trips.let()
    assert travelling.result().error is None
    with pytest.raises(ProducerClosed):
        waiting.result()
    until(lambda: clients(redis) <= before, 10, "the end of all connections")


# A lost connection


async def test_lost_connection_hits_the_tasks_of_its_trip(servers: Servers, redis: Redis) -> None:
    with Proxy(servers.valkey.url.removeprefix("unix://")) as proxy:
        async with AsyncProducer.from_url(f"redis://127.0.0.1:{proxy.port}/0") as producer:
            await producer.send(level_up())
            trips = Trips(producer)
            calls = [asyncio.create_task(producer.send_many(level_ups(LOOP_WINDOW // 2))) for _ in range(5)]
            await trips.begun.get()
            trips.door.release()
            await trips.begun.get()
            proxy.trap(Fault.RESET_REPLY, b"EVALSHA")
            trips.door.release()
            await trips.begun.get()
            trips.door.release()
            found = [{type(handle.error) for handle in handles} for handles in await asyncio.gather(*calls)]
    assert found == [{type(None)}, {SendUnknown}, {SendUnknown}, {type(None)}, {type(None)}]


def test_lost_connection_hits_the_threads_of_its_trip(servers: Servers, redis: Redis, pool: ThreadPoolExecutor) -> None:
    proxied = Proxy(servers.valkey.url.removeprefix("unix://"))
    with proxied as proxy, Producer.from_url(f"redis://127.0.0.1:{proxy.port}/0") as producer:
        producer.send(level_up())
        trips = ThreadTrips(producer)
        calls = []
        for waiting in range(5):
            calls.append(pool.submit(producer.send_many, level_ups(WINDOW // 2)))
            trips.until_waiting(waiting)
        trips.begun.get()
        trips.let()
        trips.begun.get()
        proxy.trap(Fault.RESET_REPLY, b"EVALSHA")
        trips.let()
        trips.begun.get()
        trips.let()
        found = [{type(handle.error) for handle in call.result()} for call in calls]
    assert found == [{type(None)}, {SendUnknown}, {SendUnknown}, {type(None)}, {type(None)}]


# Threads


def test_threads_share_trips_on_one_connection(producer: Producer, redis: Redis, pool: ThreadPoolExecutor) -> None:
    trips, before = ThreadTrips(producer), clients(redis)
    redis.config_resetstat()
    commands = [level_up() for _ in range(41)]
    sends = []
    for waiting, command in enumerate(commands):
        sends.append(pool.submit(producer.send, command))
        trips.until_waiting(waiting)
    for size in (1, 40):
        assert trips.begun.get() == size
        trips.let()
    assert [send.result().error for send in sends] == [None] * 41
    assert lane(redis) == ids(commands)
    assert scripts_run(redis) == 2
    assert clients(redis) <= before


def test_many_threads_lose_no_command_and_keep_their_own_order(
    producer: Producer, redis: Redis, pool: ThreadPoolExecutor
) -> None:
    commands = [[level_up() for _ in range(10)] for _ in range(64)]

    def send_some(mine: Sequence[Command]) -> None:
        for command in mine:
            producer.send(command, reply=False)

    list(pool.map(send_some, commands))
    queued = lane(redis)
    assert len(queued) == 640
    for mine in commands:
        assert [found for found in queued if found in ids(mine)] == ids(mine)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(), MemoryError()], ids=repr)
def test_thread_that_dies_with_the_trip_of_others_leaves_them_unknown_and_the_next_goes_on(
    producer: Producer, pool: ThreadPoolExecutor, error: BaseException
) -> None:
    trips = ThreadTrips(producer)
    sends: list[Any] = []
    for waiting in range(4):
        sends.append(pool.submit(producer.send, level_up(waiting + 1)))
        trips.until_waiting(waiting)
    trips.begun.get()
    trips.let()
    assert trips.begun.get() == 3
    last = pool.submit(producer.send, level_up(5))
    trips.until_waiting(1)
    trips.errors.append(error)
    trips.let()
    trips.let()
    assert [type(send.exception()) for send in sends] == [type(None), type(error), SendUnknown, SendUnknown]
    assert last.result().error is None


def test_thread_interrupted_while_it_waits_sends_nothing_and_strands_no_other(
    producer: Producer, redis: Redis, pool: ThreadPoolExecutor
) -> None:
    trips, main = ThreadTrips(producer), threading.main_thread().ident
    assert main is not None
    first = pool.submit(producer.send, level_up(1))
    trips.begun.get()

    interrupted = threading.Event()

    def handle(*_: Any) -> None:
        if not interrupted.is_set():
            interrupted.set()
            raise KeyboardInterrupt

    def interrupt() -> None:
        trips.until_waiting(1)
        while not interrupted.wait(0.05):  # a signal that comes just before the wait does not end it
            signal.pthread_kill(main, signal.SIGINT)

    before = signal.signal(signal.SIGINT, handle)
    try:
        interrupting = pool.submit(interrupt)
        with pytest.raises(KeyboardInterrupt):
            producer.send(level_up(2))
        interrupting.result()
    finally:
        signal.signal(signal.SIGINT, before)
    last = pool.submit(producer.send, level_up(3))
    trips.until_waiting(2)  # the interrupted one is left out of the next trip
    trips.let(2)
    assert (first.result().error, last.result().error) == (None, None)
    assert [len(lane(redis, user)) for user in (1, 2, 3)] == [1, 0, 1]


def test_signal_handler_sends_during_a_send_of_its_own_thread(producer: Producer, redis: Redis) -> None:
    trips = ThreadTrips(producer)
    trips.signals.append(signal.SIGUSR1)

    def handle(*_: Any) -> None:
        trips.let(2)
        producer.send(level_up(2))

    before = signal.signal(signal.SIGUSR1, handle)
    try:
        assert producer.send(level_up(1)).error is None
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert [len(lane(redis, user)) for user in (1, 2)] == [1, 1]


async def test_sends_to_a_server_that_is_gone_fail_in_their_trips_and_recover(servers: Servers, redis: Redis) -> None:
    with Proxy(servers.valkey.url.removeprefix("unix://")) as proxy:
        async with AsyncProducer.from_url(f"redis://127.0.0.1:{proxy.port}/0") as producer:
            await producer.send(level_up())
            proxy.lead_to("/nowhere")
            found = await asyncio.gather(*(producer.send(level_up()) for _ in range(50)), return_exceptions=True)
            assert {type(error) for error in found} <= {QueueUnavailable, SendUnknown}
            proxy.lead_to(servers.valkey.url.removeprefix("unix://"))
            await asyncio.gather(*(producer.send(level_up()) for _ in range(50)))
