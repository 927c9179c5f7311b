"""Many callers at once: connections stay few, nothing times out that only waits, and the event loop goes on."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from resource import RLIMIT_NOFILE, getrlimit, setrlimit
from typing import Any

import pytest
from redis import Redis

from levelq.embedded import Servers
from levelq_core import LevelUp, Outcome, OutcomeTimeout, QueueUnavailable, Settings
from levelq_core.lanes.outcome_streams import send_key
from levelq_core.redis_client.async_pool import AsyncNodePool
from levelq_core.redis_client.pool import BOUND
from levelq_producer import AsyncProducer, Handle, InvalidCommand, Producer
from levelq_worker.draining.context import Runtime
from tests.support.coupler import drain_all
from tests.support.fixtures.clusters import ValkeyCluster
from tests.support.fixtures.keys import KEYS
from tests.support.fixtures.proxy import Proxy
from tests.support.fixtures.waiting import until
from tests.support.producing import blocked, clients, decide, level_up, level_ups, outcome_of

WAITERS = 1_100


@pytest.fixture
def few_files() -> Iterator[None]:
    """What `ulimit -n 1024` allows."""
    before = getrlimit(RLIMIT_NOFILE)
    setrlimit(RLIMIT_NOFILE, (min(1024, before[0]), before[1]))
    yield
    setrlimit(RLIMIT_NOFILE, before)


@contextmanager
def most_connections(redis: Redis) -> Iterator[Callable[[], int]]:
    """While this block runs, count the server's connections; yields the most that were added."""
    stop = threading.Event()
    before, most = clients(redis), [0]

    def count() -> None:
        while not stop.wait(0.01):
            most.append(max(most.pop(), clients(redis) - before))

    thread = threading.Thread(target=count)
    thread.start()
    try:
        yield lambda: most[0]
    finally:
        stop.set()
        thread.join()


@pytest.fixture
def producer(servers: Servers) -> Iterator[Producer]:
    with Producer.from_url(servers.valkey.url) as made:
        yield made


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(20) as made:
        yield made


def waits(pool: ThreadPoolExecutor, handles: Sequence[Handle]) -> list[Future[Outcome]]:
    """A thread for each handle, which waits for its outcome."""
    return [pool.submit(handle.result, 60) for handle in handles]


def answered(waiting: Sequence[Future[Outcome]]) -> list[Any]:
    """The ids of the commands whose outcomes came."""
    return [future.result().command_id for future in waiting]


def ids(handles: Sequence[Any]) -> list[Any]:
    return [handle.command_id for handle in handles]


# Sends


async def test_thousand_tasks_send_on_one_connection(servers: Servers, redis: Redis) -> None:
    async with AsyncProducer.from_url(servers.valkey.url) as producer:
        with most_connections(redis) as most:
            sent = await asyncio.gather(*(producer.level_up(user, "PLAYER", 5) for user in range(1, 1_001)))
    assert len(sent) == 1_000
    assert 1 <= most() <= 3  # one for sends, two for wake-ups


def test_hundreds_of_threads_send_on_one_connection(producer: Producer, redis: Redis) -> None:
    with ThreadPoolExecutor(300) as pool, most_connections(redis) as most:
        sent = list(pool.map(lambda user: producer.level_up(user, "PLAYER", 5), range(1, 601)))
    assert len(sent) == 600
    assert 1 <= most() <= 3  # one for sends, two for wake-ups


async def test_callers_that_wait_for_a_connection_do_not_wait_for_a_silent_server_one_by_one(tmp_path: Any) -> None:
    """A server that accepts and never answers: all callers fail in the time that two attempts take."""
    silent = await asyncio.start_unix_server(_never, str(tmp_path / "silent"))
    async with AsyncProducer.from_url(f"unix://{tmp_path}/silent", redis_seconds=0.5) as producer:
        began = time.monotonic()
        found = await asyncio.gather(
            *(producer.level_up(n, "PLAYER", 5) for n in range(1, 201)), return_exceptions=True
        )
        assert {type(error) for error in found} == {QueueUnavailable}
        assert time.monotonic() - began < 200 / BOUND * 0.5
    silent.close()


async def _never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    writer.close()


async def test_tasks_cancelled_during_the_wait_for_a_connection_leave_it_to_others(
    servers: Servers, redis: Redis
) -> None:
    async with AsyncProducer.from_url(servers.valkey.url) as producer:
        for _ in range(5):
            tasks = [asyncio.create_task(producer.level_up(n, "PLAYER", 5)) for n in range(1, 301)]
            await asyncio.sleep(0.01)
            for task in tasks[::2]:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        sent = await asyncio.gather(*(producer.level_up(n, "PLAYER", 5) for n in range(1, 301)))
        assert len(sent) == 300


async def test_connection_whose_time_ran_out_because_the_loop_was_late_is_made_again(
    servers: Servers, redis: Redis
) -> None:
    """Each of a few turns of the loop takes longer than the socket's limit."""

    async def hold_the_loop() -> None:
        for _ in range(3):
            time.sleep(0.3)
            await asyncio.sleep(0)

    with Proxy(servers.valkey.url.removeprefix("unix://")) as proxy:  # TCP, whose connections take turns of the loop
        async with AsyncProducer.from_url(f"redis://127.0.0.1:{proxy.port}/0", redis_seconds=0.2) as producer:
            holding = asyncio.create_task(hold_the_loop())
            assert (await producer.level_up(1, "PLAYER", 5)).error is None
            await holding


# Outcomes


@pytest.mark.parametrize("with_ledger", [False, True])
@pytest.mark.usefixtures("few_files")
async def test_thousand_tasks_wait_on_few_connections(
    settings: Settings, redis: Redis, worker: Runtime, with_ledger: bool
) -> None:
    chosen = settings if with_ledger else settings.model_copy(update={"database_url": None})
    async with AsyncProducer(chosen) as producer:
        handles = await producer.send_many(level_ups(WAITERS), reply=True)
        with most_connections(redis) as most:
            waiting = [asyncio.create_task(handle.result(timeout=60)) for handle in handles]
            await asyncio.to_thread(until, lambda: blocked(redis), what="the waiters")
            extra = await producer.level_up(WAITERS + 1, "PLAYER", 5)  # other sends go on
            await asyncio.to_thread(drain_all, worker, "PLAYER")
            outcomes = await asyncio.gather(*waiting)
            assert (await extra.result(timeout=60)).user_id == WAITERS + 1
    assert [outcome.user_id for outcome in outcomes] == list(range(1, WAITERS + 1))
    assert most() <= 12


@pytest.mark.usefixtures("few_files")
def test_thousand_threads_wait_on_few_connections(settings: Settings, redis: Redis, worker: Runtime) -> None:
    with Producer(settings) as producer, ThreadPoolExecutor(WAITERS) as pool:
        handles = producer.send_many(level_ups(WAITERS), reply=True)
        with most_connections(redis) as most:
            waiting = waits(pool, handles)
            drain_all(worker, "PLAYER")
            outcomes = [future.result() for future in waiting]
    assert [outcome.user_id for outcome in outcomes] == list(range(1, WAITERS + 1))
    assert most() <= 12


async def test_five_thousand_tasks_wait_and_each_gets_its_own_outcome(servers: Servers, worker: Runtime) -> None:
    async with AsyncProducer.from_url(servers.valkey.url) as producer:
        handles = await producer.send_many(level_ups(5_000), reply=True)
        waiting = [asyncio.create_task(handle.result(timeout=90)) for handle in handles]
        await asyncio.to_thread(drain_all, worker, "PLAYER")
        assert ids(await asyncio.gather(*waiting)) == ids(handles)


async def test_new_task_is_answered_while_the_others_go_on_waiting(servers: Servers, redis: Redis) -> None:
    """It does not wait for the end of the read that is under way, which began without it."""
    async with AsyncProducer.from_url(servers.valkey.url, redis_seconds=9) as producer:
        handles = await producer.send_many(level_ups(39), reply=True)
        waiting = [asyncio.create_task(handle.result(timeout=60)) for handle in handles]
        await asyncio.to_thread(until, lambda: blocked(redis) == 1, what="the waiters")
        took = []
        for _ in range(5):
            handle = await producer.level_up(41, "PLAYER", 5)
            task = asyncio.create_task(handle.result(timeout=60))
            await asyncio.sleep(0.02)
            began = time.monotonic()
            decide(redis, handle)
            assert (await task).command_id == handle.command_id
            took.append(time.monotonic() - began)
        assert min(took) < 2.0  # a read blocks for 4.5 s
        assert not any(task.done() for task in waiting)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


def test_new_thread_is_answered_while_the_others_go_on_waiting(
    servers: Servers, redis: Redis, pool: ThreadPoolExecutor
) -> None:
    with Producer.from_url(servers.valkey.url, redis_seconds=9) as producer:
        handles = producer.send_many(level_ups(10), reply=True)
        waiting = waits(pool, handles)
        until(lambda: blocked(redis) == 1, what="the waiters")
        late = producer.level_up(11, "PLAYER", 5)
        result = pool.submit(late.result, 60)
        began = time.monotonic()
        decide(redis, late)
        assert result.result().command_id == late.command_id
        assert time.monotonic() - began < 4
        for handle in handles:
            decide(redis, handle)
        assert answered(waiting) == ids(handles)


def test_timeout_is_each_waiters_own(producer: Producer, redis: Redis, pool: ThreadPoolExecutor) -> None:
    handles = producer.send_many(level_ups(8), reply=True)
    short = [pool.submit(handle.result, 0.1 * number) for number, handle in enumerate(handles[:4], 1)]
    long = waits(pool, handles[4:])
    assert all(isinstance(future.exception(), OutcomeTimeout) for future in short)
    for handle in handles[4:]:
        decide(redis, handle)
    assert answered(long) == ids(handles[4:])


@pytest.mark.parametrize("rule", ["-client|unblock", "-client|id", "-client"])
def test_waiters_read_briefly_where_client_unblock_is_not_allowed(
    servers: Servers, redis: Any, pool: ThreadPoolExecutor, rule: str
) -> None:
    redis.execute_command("ACL", "SETUSER", "poor", "on", ">pass", "~*", "&*", "+@all", rule)
    try:
        with Producer.from_url(servers.valkey.url.replace("unix://", "unix://poor:pass@")) as producer:
            handles = producer.send_many(level_ups(4), reply=True)
            waiting = waits(pool, handles)
            for handle in reversed(handles):
                decide(redis, handle)
            assert answered(waiting) == ids(handles)
    finally:
        redis.execute_command("ACL", "DELUSER", "poor")


def test_outcome_of_another_command_is_an_error(producer: Producer, redis: Redis) -> None:
    handle, other = producer.send_many(level_ups(2), reply=True)
    send = send_key(handle.digest, handle.pushed_ms)
    redis.xadd(KEYS.reply(handle.command_id.bytes), {"outcome": outcome_of(other).model_dump_json(), "send": send})
    with pytest.raises(QueueUnavailable, match=f"asked for the outcome of {handle.command_id}, got that of"):
        handle.result()


def test_key_of_another_type_is_the_error_of_its_own_waiter(
    producer: Producer, redis: Redis, pool: ThreadPoolExecutor
) -> None:
    bad, *good = producer.send_many(level_ups(4), reply=True)
    waiting = waits(pool, good)
    redis.set(KEYS.reply(bad.command_id.bytes), "no stream")
    with pytest.raises(QueueUnavailable, match="WRONGTYPE"):
        bad.result()
    for handle in good:
        decide(redis, handle)
    assert answered(waiting) == ids(good)


async def test_many_wait_on_a_cluster(cluster: ValkeyCluster, servers: Servers) -> None:
    settings = Settings.load(redis_url=cluster.url, rq_url=servers.valkey.url, shards=8)
    before = [clients(node.client) for node in cluster.nodes]
    async with AsyncProducer(settings) as producer:
        with Producer(settings) as other:
            handles = await producer.send_many(level_ups(300), reply=True)
            waiting = [asyncio.create_task(handle.result(timeout=60)) for handle in handles[:-30]]
            threads = [
                asyncio.create_task(asyncio.to_thread(other.handle(h.command_id).result, 60)) for h in handles[-4:]
            ]
            await asyncio.sleep(0.2)
            now = [clients(node.client) for node in cluster.nodes]
            assert max(b - a for a, b in zip(before, now, strict=True)) <= 10
            await asyncio.to_thread(decide_all, cluster, handles)
            outcomes = await asyncio.gather(*waiting, *threads)
    assert ids(outcomes) == ids([*handles[:-30], *handles[-4:]])


async def test_late_event_loop_is_not_the_fault_of_a_clusters_server(
    cluster: ValkeyCluster, servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the replies to a read come, something holds the loop for longer than the connection's timeout."""
    settings = Settings.load(redis_url=cluster.url, rq_url=servers.valkey.url, shards=8, redis_seconds=0.5)
    send, begun = AsyncNodePool.send, asyncio.Event()

    async def late(connection: Any, commands: Sequence[Any]) -> None:
        await send(connection, commands)
        if commands[0][0] == "XREAD" and not begun.is_set():
            begun.set()
            asyncio.get_running_loop().call_soon(time.sleep, 0.8)

    async with AsyncProducer(settings) as producer:
        handles = await producer.send_many(level_ups(30), reply=True)
        monkeypatch.setattr(AsyncNodePool, "send", staticmethod(late))
        waiting = [asyncio.create_task(handle.result(timeout=60)) for handle in handles]
        await begun.wait()
        await asyncio.to_thread(decide_all, cluster, handles)
        assert ids(await asyncio.gather(*waiting)) == ids(handles)


def decide_all(cluster: ValkeyCluster, handles: Sequence[Any]) -> None:
    """In a thread of its own: an event loop that is held for long takes that for a server that does not answer."""
    for handle in handles:
        decide(cluster.holder(KEYS.reply(handle.command_id.bytes)).client, handle)


def test_waiters_read_on_when_the_server_has_ended_their_connection(
    producer: Producer, redis: Redis, pool: ThreadPoolExecutor
) -> None:
    handles = producer.send_many(level_ups(4), reply=True)
    waiting = waits(pool, handles)
    until(lambda: blocked(redis) == 1, what="the waiters")
    for client in redis.client_list():
        if "b" in client["flags"]:
            redis.client_kill_filter(_id=client["id"])
    for handle in handles:
        decide(redis, handle)
    assert answered(waiting) == ids(handles)


# The event loop


class Ticking:
    """The most processor time that this thread spent between two ticks of a task; a busy machine adds nothing to it.

    `most`: what it may be. A tracer, or a slow processor, stretches everything: then it is a hundredth of the whole.
    """

    def __init__(self) -> None:
        self.longest = self.whole = 0.0

    @property
    def most(self) -> float:
        return max(0.02, self.whole / 100)

    async def __aenter__(self) -> Ticking:
        self._task = asyncio.create_task(self._tick())
        await asyncio.sleep(0)
        return self

    async def _tick(self) -> None:
        last = time.thread_time()
        while True:
            await asyncio.sleep(0)
            now = time.thread_time()
            self.longest, self.whole, last = max(self.longest, now - last), self.whole + now - last, now

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


@pytest.fixture
def own_heap() -> Iterator[None]:
    """The garbage collector as a fresh process has it, over what this test makes.

    Earlier tests left many objects, and a worker in this process lets the collector run rarely, over 100,000 at once.
    """
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(700, 10, 10)
    yield
    gc.set_threshold(*before)
    gc.unfreeze()


@pytest.mark.usefixtures("own_heap")
async def test_hundred_thousand_commands_never_hold_the_loop_for_20_ms(servers: Servers, redis: Redis) -> None:
    commands = [level_up(1 + n % 30_000) for n in range(100_000)]
    async with AsyncProducer.from_url(servers.valkey.url) as producer:
        await producer.send(level_up(1))
        async with Ticking() as ticking:
            handles = await producer.send_many(commands)
    assert ids(handles) == ids(commands)
    assert ticking.longest < ticking.most


@pytest.mark.usefixtures("own_heap")
async def test_no_full_collection_falls_into_a_long_call(servers: Servers, redis: Redis) -> None:
    during: list[int] = []
    async with AsyncProducer.from_url(servers.valkey.url) as producer:
        await producer.send(level_up(1))
        gc.collect()
        commands = [level_up(1 + n) for n in range(10_000)]
        for _ in range(3):  # after which, as most objects are new, a full one is due: with the next thousand
            gc.collect(1)
        gc.callbacks.append(lambda phase, info: during.append(info["generation"]))
        gc.set_threshold(1_000, 1, 1)
        try:
            await producer.send_many(commands)
        finally:
            gc.set_threshold(700, 10, 10)
            del gc.callbacks[-1]
    assert 1 in during and 2 not in during


@pytest.mark.usefixtures("own_heap")
async def test_hundred_thousand_commands_that_cannot_be_sent_do_not_hold_it_either(tmp_path: Any) -> None:
    commands = [level_up(1 + n % 30_000) for n in range(100_000)]
    async with AsyncProducer.from_url(f"unix://{tmp_path}/none") as producer:
        async with Ticking() as ticking:
            handles = await producer.send_many(commands)
        assert {type(handle.error) for handle in handles} == {QueueUnavailable}
        assert ticking.longest < ticking.most


async def test_invalid_last_command_of_many_is_refused_before_anything_is_sent(servers: Servers, redis: Redis) -> None:
    async with AsyncProducer.from_url(servers.valkey.url) as producer:
        commands = [*(level_up(n) for n in range(1, 3_001)), LevelUp(user_id=1, specialization="WIZARD")]
        with pytest.raises(InvalidCommand):
            await producer.send_many(commands)
    assert list(redis.scan_iter("levelq:{*")) == []
