"""Many callers at once: connections stay few, nothing times out that only waits, and the event loop goes on."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from resource import RLIMIT_NOFILE, getrlimit, setrlimit
from typing import Any

import pytest
from redis import Redis

from levelq.embedded import Servers
from levelq_core import LevelUp, Outcome, OutcomeTimeout, QueueUnavailable, Settings
from levelq_core.lanes import outcome_streams as replies
from levelq_core.redis_client.pool import BOUND
from levelq_producer import AsyncProducer, InvalidCommand, Producer
from levelq_worker.draining.context import Runtime
from tests.support.coupler import drain_all, runtime
from tests.support.fixtures.clusters import ValkeyCluster
from tests.support.fixtures.keys import KEYS
from tests.support.fixtures.proxy import Proxy
from tests.support.fixtures.waiting import until

WAITERS = 1_100


@pytest.fixture
def worker(settings: Settings) -> Iterator[Runtime]:
    with runtime(settings) as made:
        yield made


@pytest.fixture
def few_files() -> Iterator[None]:
    """What `ulimit -n 1024` allows."""
    before = getrlimit(RLIMIT_NOFILE)
    setrlimit(RLIMIT_NOFILE, (min(1024, before[0]), before[1]))
    yield
    setrlimit(RLIMIT_NOFILE, before)


def level_up(user_id: int) -> LevelUp:
    return LevelUp(user_id=user_id, specialization="PLAYER", xp_gained=10)


def connections(redis: Redis) -> int:
    return len(redis.client_list())


class Watched:
    """The most connections that a server had while this block ran."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self.before = connections(redis)
        self.most = 0

    def _look(self) -> None:
        while not self._stop.wait(0.01):
            self.most = max(self.most, connections(self._redis) - self.before)

    def __enter__(self) -> Watched:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


# Sends


async def test_a_thousand_tasks_send_on_a_bounded_number_of_connections(servers: Servers, redis: Redis) -> None:
    async with AsyncProducer.from_url(servers.valkey.url) as producer:
        with Watched(redis) as watched:
            sent = await asyncio.gather(*(producer.level_up(user, "PLAYER", 5) for user in range(1, 1_001)))
    assert len(sent) == 1_000
    assert 1 < watched.most <= BOUND + 5


def test_hundreds_of_threads_send_on_a_bounded_number_of_connections(servers: Servers, redis: Redis) -> None:
    with Producer.from_url(servers.valkey.url) as producer, ThreadPoolExecutor(300) as pool, Watched(redis) as watched:
        sent = list(pool.map(lambda user: producer.level_up(user, "PLAYER", 5), range(1, 601)))
    assert len(sent) == 600
    assert 1 < watched.most <= BOUND + 5


async def test_those_who_wait_for_a_connection_are_not_made_to_wait_for_a_silent_server_one_by_one(
    tmp_path: Any,
) -> None:
    """A server that accepts and never answers: all learn it in the time that two attempts take."""
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


async def test_tasks_cancelled_while_they_wait_for_a_connection_leave_it_to_the_others(
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
async def test_a_thousand_tasks_wait_on_few_connections(
    servers: Servers, settings: Settings, redis: Redis, worker: Runtime, with_ledger: bool
) -> None:
    chosen = settings if with_ledger else settings.model_copy(update={"database_url": None})
    async with AsyncProducer(chosen) as producer:
        handles = await producer.send_many([level_up(user) for user in range(1, WAITERS + 1)], reply=True)
        with Watched(redis) as watched:
            waiting = [asyncio.create_task(handle.result(timeout=60)) for handle in handles]
            await asyncio.to_thread(until, lambda: redis.info("clients")["blocked_clients"] >= 1, 30, "the waiters")
            extra = await producer.level_up(WAITERS + 1, "PLAYER", 5)  # other sends go on
            await asyncio.to_thread(drain_all, worker, "PLAYER")
            outcomes = await asyncio.gather(*waiting)
            assert (await extra.result(timeout=60)).user_id == WAITERS + 1
    assert [outcome.user_id for outcome in outcomes] == list(range(1, WAITERS + 1))
    assert watched.most <= 12


@pytest.mark.usefixtures("few_files")
def test_a_thousand_threads_wait_on_few_connections(settings: Settings, redis: Redis, worker: Runtime) -> None:
    outcomes: list[Outcome] = []
    with Producer(settings) as producer:
        handles = producer.send_many([level_up(user) for user in range(1, WAITERS + 1)], reply=True)
        threads = [
            threading.Thread(target=lambda handle=handle: outcomes.append(handle.result(timeout=60)))
            for handle in handles
        ]
        with Watched(redis) as watched:
            for thread in threads:
                thread.start()
            drain_all(worker, "PLAYER")
            for thread in threads:
                thread.join()
    assert sorted(outcome.user_id for outcome in outcomes) == list(range(1, WAITERS + 1))
    assert watched.most <= 12


async def test_five_thousand_may_wait_and_each_gets_its_own(servers: Servers, redis: Redis, worker: Runtime) -> None:
    async with AsyncProducer.from_url(servers.valkey.url) as producer:
        handles = await producer.send_many([level_up(user) for user in range(1, 5_001)], reply=True)
        waiting = [asyncio.create_task(handle.result(timeout=90)) for handle in handles]
        await asyncio.to_thread(drain_all, worker, "PLAYER")
        outcomes = await asyncio.gather(*waiting)
    assert [outcome.command_id for outcome in outcomes] == [handle.command_id for handle in handles]


OUTCOME: dict[str, Any] = {"user_id": 1, "specialization": "PLAYER", "status": "applied"}


def decide(redis: Redis, handle: Any) -> None:
    """What a worker writes when it has decided the command."""
    outcome = Outcome(command_id=handle.command_id, **OUTCOME)
    replies.write(redis, KEYS, [(outcome, replies.send_key(handle.digest, handle.pushed_ms))], 60)


async def test_a_new_waiter_is_answered_while_the_others_go_on_waiting(servers: Servers, redis: Redis) -> None:
    """It does not wait for the end of the read that is under way, which began without it."""
    async with AsyncProducer.from_url(servers.valkey.url, redis_seconds=9) as producer:
        handles = await producer.send_many([level_up(user) for user in range(1, 41)], reply=True)
        waiting = [asyncio.create_task(handle.result(timeout=60)) for handle in handles[:-1]]
        await asyncio.to_thread(until, lambda: redis.info("clients")["blocked_clients"] == 1, 30, "the waiters")
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


def test_a_thread_that_comes_later_is_answered_while_the_others_go_on_waiting(servers: Servers, redis: Redis) -> None:
    with Producer.from_url(servers.valkey.url, redis_seconds=9) as producer, ThreadPoolExecutor(20) as pool:
        handles = producer.send_many([level_up(user) for user in range(1, 11)], reply=True)
        waiting = [pool.submit(handle.result, 60) for handle in handles]
        until(lambda: redis.info("clients")["blocked_clients"] == 1, what="the waiters")
        late = producer.level_up(11, "PLAYER", 5)
        result = pool.submit(late.result, 60)
        began = time.monotonic()
        decide(redis, late)
        assert result.result().command_id == late.command_id
        assert time.monotonic() - began < 4
        for handle in handles:
            decide(redis, handle)
        assert [future.result().command_id for future in waiting] == [handle.command_id for handle in handles]


def test_timeouts_are_each_waiter_s_own(servers: Servers, redis: Redis) -> None:
    with Producer.from_url(servers.valkey.url) as producer, ThreadPoolExecutor(20) as pool:
        handles = producer.send_many([level_up(user) for user in range(1, 9)], reply=True)
        short = [pool.submit(handle.result, 0.1 * number) for number, handle in enumerate(handles[:4])]
        long = [pool.submit(handle.result, 60) for handle in handles[4:]]
        assert all(isinstance(future.exception(), OutcomeTimeout) for future in short)
        for handle in handles[4:]:
            decide(redis, handle)
        assert [future.result().command_id for future in long] == [handle.command_id for handle in handles[4:]]


@pytest.mark.parametrize("rule", ["-client|unblock", "-client|id", "-client"])
def test_where_client_unblock_is_not_allowed_short_reads_do(servers: Servers, redis: Any, rule: str) -> None:
    redis.execute_command("ACL", "SETUSER", "poor", "on", ">pass", "~*", "&*", "+@all", rule)
    url = servers.valkey.url.replace("unix://", "unix://poor:pass@")
    try:
        with Producer.from_url(url) as producer, ThreadPoolExecutor(8) as pool:
            handles = producer.send_many([level_up(user) for user in range(1, 5)], reply=True)
            waiting = [pool.submit(handle.result, 60) for handle in handles]
            for handle in reversed(handles):
                decide(redis, handle)
            assert [future.result().command_id for future in waiting] == [handle.command_id for handle in handles]
    finally:
        redis.execute_command("ACL", "DELUSER", "poor")


def test_an_answer_about_another_command_is_an_error_and_its_connection_is_dropped(
    servers: Servers, redis: Redis
) -> None:
    with Producer.from_url(servers.valkey.url) as producer:
        handle, other = producer.send_many([level_up(1), level_up(2)], reply=True)
        outcome = Outcome(command_id=other.command_id, **OUTCOME)
        fields: Any = {"outcome": outcome.model_dump_json(), "send": replies.send_key(handle.digest, handle.pushed_ms)}
        redis.xadd(KEYS.reply(handle.command_id.bytes), fields)
        with pytest.raises(QueueUnavailable, match=f"asked for the outcome of {handle.command_id}, got that of"):
            handle.result()


def test_a_key_of_the_wrong_type_is_the_error_of_its_own_waiter(servers: Servers, redis: Redis) -> None:
    with Producer.from_url(servers.valkey.url) as producer, ThreadPoolExecutor(8) as pool:
        bad, *good = producer.send_many([level_up(user) for user in range(1, 5)], reply=True)
        waiting = [pool.submit(handle.result, 60) for handle in good]
        redis.set(KEYS.reply(bad.command_id.bytes), "no stream")
        with pytest.raises(QueueUnavailable, match="WRONGTYPE"):
            bad.result()
        for handle in good:
            decide(redis, handle)
        assert [future.result().command_id for future in waiting] == [handle.command_id for handle in good]


async def test_many_wait_on_a_cluster(cluster: ValkeyCluster, servers: Servers) -> None:
    settings = Settings.load(redis_url=cluster.url, rq_url=servers.valkey.url, shards=8)
    before = [len(node.client.client_list()) for node in cluster.nodes]
    async with AsyncProducer(settings) as producer:
        with Producer(settings) as other:
            handles = await producer.send_many([level_up(user) for user in range(1, 301)], reply=True)
            waiting = [asyncio.create_task(handle.result(timeout=60)) for handle in handles[:-30]]
            threads = [
                asyncio.create_task(asyncio.to_thread(other.handle(h.command_id).result, 60)) for h in handles[-4:]
            ]
            await asyncio.sleep(0.2)
            now = [len(node.client.client_list()) for node in cluster.nodes]
            assert max(b - a for a, b in zip(before, now, strict=True)) <= 10
            for handle in handles:
                node = cluster.holder(KEYS.reply(handle.command_id.bytes))
                decide(node.client, handle)
            outcomes = await asyncio.gather(*waiting, *threads)
    expected = [*handles[:-30], *handles[-4:]]
    assert [outcome.command_id for outcome in outcomes] == [handle.command_id for handle in expected]


def test_waiters_read_on_when_the_server_has_ended_their_connection(servers: Servers, redis: Redis) -> None:
    with Producer.from_url(servers.valkey.url) as producer, ThreadPoolExecutor(8) as pool:
        handles = producer.send_many([level_up(user) for user in range(1, 5)], reply=True)
        waiting = [pool.submit(handle.result, 60) for handle in handles]
        until(lambda: redis.info("clients")["blocked_clients"] == 1, what="the waiters")
        for client in redis.client_list():
            if "b" in client["flags"]:
                redis.client_kill_filter(_id=client["id"])
        for handle in handles:
            decide(redis, handle)
        assert [future.result().command_id for future in waiting] == [handle.command_id for handle in handles]


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


async def ticking_during(producer: AsyncProducer, commands: Sequence[LevelUp]) -> Ticking:
    async with Ticking() as ticking:
        handles = await producer.send_many(commands)
    assert [handle.command_id for handle in handles] == [command.command_id for command in commands]
    return ticking


@pytest.fixture
def own_heap() -> Iterator[None]:
    """The garbage collector as a fresh process has it, over what this test makes.

    Tests before it left many objects. And a worker that ran in this process has the collector look rarely, at 100,000
    objects at once, which takes 20 ms.
    """
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(700, 10, 10)
    yield
    gc.set_threshold(*before)
    gc.unfreeze()


@pytest.mark.usefixtures("own_heap")
async def test_a_hundred_thousand_commands_never_hold_the_loop_for_20_ms(servers: Servers, redis: Redis) -> None:
    commands = [level_up(1 + n % 30_000) for n in range(100_000)]
    async with AsyncProducer.from_url(servers.valkey.url) as producer:
        await producer.send(level_up(1))
        ticking = await ticking_during(producer, commands)
    assert ticking.longest < ticking.most


@pytest.mark.usefixtures("own_heap")
async def test_a_hundred_thousand_that_cannot_be_sent_do_not_hold_it_either(tmp_path: Any) -> None:
    commands = [level_up(1 + n % 30_000) for n in range(100_000)]
    async with AsyncProducer.from_url(f"unix://{tmp_path}/none") as producer:
        async with Ticking() as ticking:
            handles = await producer.send_many(commands)
        assert {type(handle.error) for handle in handles} == {QueueUnavailable}
        assert ticking.longest < ticking.most


async def test_the_last_of_many_that_is_invalid_is_refused_before_anything_is_sent(
    servers: Servers, redis: Redis
) -> None:
    async with AsyncProducer.from_url(servers.valkey.url) as producer:
        commands = [*(level_up(n) for n in range(1, 3_001)), LevelUp(user_id=1, specialization="WIZARD")]
        with pytest.raises(InvalidCommand):
            await producer.send_many(commands)
    assert list(redis.scan_iter("levelq:{*")) == []
