"""Servers that fork after loading the application: each process has connections of its own, and nothing is mixed up."""

from __future__ import annotations

import asyncio
import faulthandler
import os
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from redis import Redis
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session

from levelq_core import LevelUp, Settings
from levelq_core.per_process import PerProcess
from levelq_producer import AsyncProducer, Outbox, Producer
from levelq_worker.embedded import Servers
from levelq_worker.runtime import Runtime
from tests.integration.coupler_support import drain_all, runtime

CHILDREN, CALLS = 4, 25


@pytest.fixture
def worker(settings: Settings) -> Iterator[Runtime]:
    with runtime(settings) as made:
        yield made


def in_children(work: Callable[[int], None], count: int = CHILDREN, meanwhile: Callable[[], object] = int) -> None:
    """Run `work` in forked processes at once, and `meanwhile` here; fails the test if it raises in one of them."""
    children = []
    for number in range(count):
        child = os.fork()
        if not child:
            code = 1
            faulthandler.dump_traceback_later(60, exit=True)  # a child that hangs says where
            try:
                work(number)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        children.append(child)
    meanwhile()
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * count


def level_up(user_id: int) -> LevelUp:
    return LevelUp(user_id=user_id, specialization="PLAYER", xp_gained=10)


def decided(settings: Settings, worker: Runtime, count: int, *, reply: bool = False) -> list[Any]:
    """The ids of so many decided commands, of users 1, 2, ..."""
    with Producer(settings) as producer:
        handles = producer.send_many([level_up(user) for user in range(1, count + 1)], reply=reply)
        drain_all(worker, "PLAYER")
        return [handle.command_id for handle in handles]


def connections_of(redis: Redis, url: str) -> int:
    """How many sessions of producers PostgreSQL has."""
    engine = create_engine(url)
    with engine.connect() as connection:
        found = connection.execute(
            text(
                "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'levelq producer' "
                "AND datname = current_database()"
            )
        ).scalar_one()
    engine.dispose()
    return int(found)


@pytest.mark.parametrize("reply", [False, True])
def test_after_a_fork_each_process_is_told_of_its_own_commands(
    settings: Settings, worker: Runtime, redis: Redis, reply: bool
) -> None:
    ids = decided(settings, worker, CHILDREN * CALLS + CALLS, reply=reply)
    if reply:
        for key in redis.scan_iter("levelq:reply:*"):
            redis.persist(key)
    with Producer(settings if not reply else settings.model_copy(update={"database_url": None})) as producer:
        assert producer.handle(ids[-1]).result().user_id == len(ids)  # the connection that is inherited

        def ask(number: int) -> None:
            for at in range(number * CALLS, (number + 1) * CALLS):
                outcome = producer.handle(ids[at]).result(timeout=20)
                assert (outcome.user_id, outcome.command_id) == (at + 1, ids[at])

        in_children(ask, meanwhile=lambda: ask(CHILDREN))
        ask(0)  # the parent's own connection works on


def test_handles_of_an_outbox_made_before_a_fork_are_asked_after_it(
    settings: Settings, worker: Runtime, own_database_url: str
) -> None:
    engine = create_engine(own_database_url.replace("postgresql://", "postgresql+psycopg://"))
    ids = decided(settings, worker, CALLS)
    with Session(engine) as session:
        sent = [Outbox(session, settings=settings).send(LevelUp(user_id=1, specialization="COACH")) for _ in ids]
        session.rollback()
        handles = [type(handle)(handle._context.source, settings, handle._context.ledger, command_id, None, False)
                   for handle, command_id in zip(sent, ids, strict=True)]  # fmt: skip
    assert handles[0].result().user_id == 1

    def ask(_: int) -> None:
        assert [handle.result(timeout=20).user_id for handle in handles] == list(range(1, CALLS + 1))

    in_children(ask, meanwhile=lambda: ask(0))
    engine.dispose()


def test_sends_after_a_fork_use_connections_of_their_own(settings: Settings, worker: Runtime, servers: Servers) -> None:
    with Producer.from_url(servers.valkey.url) as producer:
        producer.send(level_up(1))

        def send(number: int) -> None:
            for _ in range(CALLS):
                producer.send(level_up(number + 1), reply=False)

        in_children(send, meanwhile=lambda: send(CHILDREN))
    assert worker.lanes.status(next(iter(worker.lanes.partitions()))).waiting == (CHILDREN + 1) * CALLS + 1


def test_one_async_producer_serves_a_loop_in_each_child(settings: Settings, worker: Runtime) -> None:
    ids = decided(settings, worker, CHILDREN * 5 + 5)
    producer = AsyncProducer(settings)

    async def ask(number: int) -> None:
        for at in range(number * 5, number * 5 + 5):
            assert (await producer.handle(ids[at]).result(timeout=20)).user_id == at + 1
        await producer.level_up(1, "COACH", 5)

    asyncio.run(ask(CHILDREN))
    in_children(lambda number: asyncio.run(ask(number)), meanwhile=lambda: asyncio.run(ask(CHILDREN)))
    asyncio.run(producer.close())


def test_a_child_of_a_running_loop_does_not_disturb_it(settings: Settings, worker: Runtime) -> None:
    producer = AsyncProducer(settings)

    async def parent() -> None:
        await producer.level_up(1, "PLAYER", 5)
        child = os.fork()
        if not child:
            os._exit(threading_run(producer))
        code = await asyncio.to_thread(lambda: os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        assert code == 0
        await producer.level_up(1, "PLAYER", 5)
        await producer.close()

    asyncio.run(parent())


def threading_run(producer: AsyncProducer) -> int:
    """Run a loop of its own in a thread: the child's main thread is inside the parent's."""
    codes: list[int] = []

    def run() -> None:
        try:
            asyncio.run(_send(producer))
            codes.append(0)
        except BaseException:
            traceback.print_exc()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return codes[0] if codes else 1


async def _send(producer: AsyncProducer) -> None:
    await producer.level_up(2, "PLAYER", 5)


def test_locks_held_by_other_threads_at_the_fork_do_not_stop_the_child(
    settings: Settings, worker: Runtime, redis: Redis
) -> None:
    """Threads that send and wait all the time: at the fork some of them hold what they hold."""
    ids = decided(settings, worker, 20)
    with Producer(settings) as producer:
        stop = threading.Event()

        def busy(user: int) -> None:
            while not stop.is_set():
                producer.send(level_up(user), reply=False)
                producer.handle(ids[user]).result(timeout=20)

        threads = [threading.Thread(target=busy, args=(n,)) for n in range(1, 7)]
        for thread in threads:
            thread.start()

        def once(number: int) -> None:
            producer.send(level_up(100 + number))
            assert producer.handle(ids[number]).result(timeout=20).user_id == number + 1

        try:
            for _ in range(3):
                in_children(once, 3)
        finally:
            stop.set()
            for thread in threads:
                thread.join()


def test_a_child_closes_nothing_of_its_parent(settings: Settings, worker: Runtime, own_database_url: str) -> None:
    (command_id,) = decided(settings, worker, 1)
    with Producer(settings) as producer:
        producer.handle(command_id).result()
        before = connections_of(worker.lanes.redis, own_database_url)

        def end(_: int) -> None:
            producer.handle(command_id).result()
            producer.close()

        in_children(end, 2)
        assert before == 1
        assert producer.handle(command_id).result().command_id == command_id
        assert connections_of(worker.lanes.redis, own_database_url) == 1


def test_what_a_process_made_is_its_own() -> None:
    made: PerProcess[list[int]] = PerProcess(list)
    made.get().append(os.getpid())
    assert made.get() is made.get()

    def look(_: int) -> None:
        assert made.get() == []

    in_children(look, 1)
    assert made.get() == [os.getpid()]
