"""One AsyncProducer for all event loops of a process: each loop has connections of its own, closed when it ends."""

import asyncio
import gc
import threading
import time
import warnings
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import asgiref.sync
import pytest
from redis import Redis
from rq import Queue
from rq.serializers import JSONSerializer

from levelq.embedded import Servers
from levelq_producer import AsyncProducer, ProducerClosed, QueueUnavailable, SendUnknown
from levelq_worker.draining.context import Runtime
from tests.support.coupler import drain_all
from tests.support.fixtures.proxy import Fault, Proxy
from tests.support.fixtures.waiting import until
from tests.support.producing import blocked, clients, level_up, queued


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Nothing is left open, and asyncio logs nothing."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        yield
        gc.collect()
    assert [str(warning.message) for warning in warned] == []
    assert [record.getMessage() for record in caplog.records if record.name == "asyncio"] == []


@pytest.fixture
def producer(servers: Servers) -> AsyncProducer:
    return AsyncProducer.from_url(servers.valkey.url)


def test_asyncio_run_several_times_leaves_no_connection(producer: AsyncProducer, redis: Redis, worker: Runtime) -> None:
    before = clients(redis)
    for _ in range(3):
        handle = asyncio.run(producer.send(level_up()))
        assert handle.error is None
        until(lambda: clients(redis) <= before + 2, what="the end of the loop's connections")  # the waker's two stay
    assert queued(worker) == 3
    asyncio.run(producer.close())


def test_handle_of_one_loop_is_awaited_on_another(producer: AsyncProducer, worker: Runtime) -> None:
    handle = asyncio.run(producer.send(level_up()))
    drain_all(worker, "PLAYER")
    for _ in range(2):
        assert asyncio.run(handle.result()).status == "applied"
    asyncio.run(producer.close())


def test_loop_that_is_only_closed_leaves_nothing_open(producer: AsyncProducer, redis: Redis, worker: Runtime) -> None:
    before = clients(redis)
    for _ in range(3):
        loop = asyncio.new_event_loop()
        loop.run_until_complete(producer.send(level_up()))
        loop.close()
    asyncio.run(producer.close())
    del loop
    gc.collect()
    until(lambda: clients(redis) <= before, what="the end of the connections")
    assert queued(worker) == 3


def async_to_sync(function: Callable[..., Awaitable[Any]], *args: Any) -> Any:
    """What asgiref does where no loop runs in the thread: a new loop for each call."""
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(function(*args))
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


def test_loops_in_several_threads_send_and_wait_at_once(producer: AsyncProducer, worker: Runtime) -> None:
    async def send_and_wait(user: int) -> str:
        handle = await producer.level_up(user, "PLAYER", 10)
        return (await handle.result(timeout=30)).status

    stop = threading.Event()

    def drain() -> None:
        while not stop.is_set():
            drain_all(worker, "PLAYER")
            time.sleep(0.01)

    draining = threading.Thread(target=drain)
    draining.start()
    try:
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda user: async_to_sync(send_and_wait, user), range(1, 41)))
    finally:
        stop.set()
        draining.join()
    assert found == ["applied"] * 40
    asyncio.run(producer.close())


def test_async_to_sync_of_django_works(producer: AsyncProducer, worker: Runtime) -> None:
    for user in (1, 2, 3):
        assert asgiref.sync.async_to_sync(producer.level_up)(user, "PLAYER", 5).error is None
    assert queued(worker) == 3
    asyncio.run(producer.close())


def test_wake_up_is_sent_from_each_loop(producer: AsyncProducer, redis: Redis) -> None:
    for specialization in ("PLAYER", "COACH", "INTERNSHIP"):
        asyncio.run(producer.level_up(1, specialization, 5))
        queue = Queue(f"levelq.{specialization}", connection=redis, serializer=JSONSerializer)
        assert [job.args for job in queue.get_jobs()] == [[f"{specialization}:1:0"]]
    asyncio.run(producer.close())


@pytest.fixture(scope="module")
def shared(servers: Servers) -> Iterator[AsyncProducer]:
    """One producer for all tests, as an application's test suite has it; each test has its own loop."""
    yield AsyncProducer.from_url(servers.valkey.url)


@pytest.mark.parametrize("number", [1, 2, 3])
async def test_producer_of_a_wider_fixture_works_in_each_test(
    shared: AsyncProducer, worker: Runtime, number: int
) -> None:
    handle = await shared.level_up(number, "PLAYER", 5)
    drain_all(worker, "PLAYER")
    assert (await handle.result()).user_id == number


@contextmanager
def loop_in_thread() -> Iterator[Callable[[Any], asyncio.Future[Any]]]:
    """Another loop, which runs meanwhile; yields how to run something on it."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield lambda work: asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, loop))
    finally:
        asyncio.run_coroutine_threadsafe(other_tasks_ended(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def other_tasks_ended() -> None:
    """Wait for the loop's other tasks: the one that closes connections ends after the server has seen them end."""
    current = asyncio.current_task()
    await asyncio.gather(*(task for task in asyncio.all_tasks() if task is not current), return_exceptions=True)


async def test_close_ends_the_connections_of_every_loop(producer: AsyncProducer, redis: Redis, worker: Runtime) -> None:
    before = clients(redis)
    with loop_in_thread() as on_the_other:
        await producer.send(level_up())
        await on_the_other(producer.send(level_up()))
        assert clients(redis) > before
        await producer.close()
        await asyncio.to_thread(until, lambda: clients(redis) <= before, 30, "the end of all connections")


async def test_task_that_waits_on_another_loop_during_close_is_told_and_leaves_no_connection(
    producer: AsyncProducer, redis: Redis
) -> None:
    before = clients(redis)
    with loop_in_thread() as on_the_other:
        handle = await on_the_other(producer.send(level_up()))
        waiting = on_the_other(handle.result(timeout=30))
        await asyncio.to_thread(until, lambda: blocked(redis) == 1, 30, "the read")
        await producer.close()
        with pytest.raises(ProducerClosed):
            await waiting
        await asyncio.to_thread(until, lambda: clients(redis) <= before, 10, "the end of all connections")


# Errors of the connection


class _Broken:
    """A call that fails as a loop, a TLS library or an operating system may."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    async def __call__(self, *_: Any, **__: Any) -> Any:
        raise self._error


FAILURES = [RuntimeError("Event loop is closed"), OSError(24, "Too many open files"), ValueError("bad record MAC")]


@pytest.mark.parametrize("error", FAILURES, ids=repr)
async def test_error_after_the_first_byte_is_unknown_and_its_connection_is_closed(
    producer: AsyncProducer, redis: Redis, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    async with producer:
        await producer.send(level_up())
        with monkeypatch.context() as patch:
            patch.setattr(type(producer._connections.get().redis), "parse_response", _Broken(error))
            with pytest.raises(SendUnknown, match="it may be queued") as raised:
                await producer.send(level_up())
            assert raised.value.__cause__ is not None
        assert (await producer.send(level_up())).error is None


@pytest.mark.parametrize("error", FAILURES, ids=repr)
async def test_error_before_the_first_byte_queued_nothing(
    producer: AsyncProducer, redis: Redis, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    async with producer:
        pool = producer._connections.get().redis.connection_pool
        monkeypatch.setattr(type(pool), "get_connection", _Broken(error))
        with pytest.raises(QueueUnavailable) as raised:
            await producer.send(level_up())
        assert not isinstance(raised.value, SendUnknown)


async def test_cancelled_send_leaves_no_reply_to_the_next(servers: Servers, worker: Runtime) -> None:
    with Proxy(servers.valkey.url.removeprefix("unix://")) as proxy:
        async with AsyncProducer.from_url(f"redis://127.0.0.1:{proxy.port}/0", redis_seconds=9) as producer:
            await producer.send(level_up())
            trap = proxy.trap(Fault.DROP_REPLY, b"EVALSHA")
            send = asyncio.create_task(producer.send(level_up()))
            await asyncio.to_thread(trap.struck.wait, 30)
            send.cancel()
            with pytest.raises(asyncio.CancelledError):
                await send
            for _ in range(5):
                assert (await producer.send(level_up())).error is None
    assert queued(worker) == 7
