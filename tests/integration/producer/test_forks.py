"""Servers that fork after loading the application: each process has connections of its own, and nothing is mixed up."""

from __future__ import annotations

import asyncio
import faulthandler
import os
import threading
import traceback
from collections.abc import Callable, Iterator

import pytest
from redis import Redis
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session

from levelq.embedded import Servers
from levelq_core import LevelUp, Settings
from levelq_core.keys import Partition
from levelq_core.redis_client.per_process import PerProcess
from levelq_producer import AsyncProducer, Outbox, Producer
from levelq_worker.draining.context import Runtime
from levelq_worker.relay.thread import Relay
from tests.support.coupler import drain_all, runtime
from tests.support.fixtures.waiting import until

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


def connections_of(url: str) -> int:
    """How many sessions of producers PostgreSQL has."""
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
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
    settings: Settings, worker: Runtime, reply: bool
) -> None:
    """Without a reply the ledger answers, else Redis."""
    with Producer(settings) as producer:
        handles = producer.send_many([level_up(user) for user in range(1, (CHILDREN + 1) * CALLS + 1)], reply=reply)
        drain_all(worker, "PLAYER")
        assert handles[-1].result().user_id == len(handles)  # on the connection that is inherited

        def ask(number: int) -> None:
            for at in range(number * CALLS, (number + 1) * CALLS):
                outcome = handles[at].result(timeout=20)
                assert (outcome.user_id, outcome.command_id) == (at + 1, handles[at].command_id)

        in_children(ask, meanwhile=lambda: ask(CHILDREN))
        ask(0)  # the parent's own connection works on


def test_handles_of_an_outbox_made_before_a_fork_are_asked_after_it(
    settings: Settings, worker: Runtime, own_database_url: str
) -> None:
    engine = create_engine(own_database_url.replace("postgresql://", "postgresql+psycopg://"))
    relay = Relay(settings, ["PLAYER"])
    with Session(engine) as session:
        handles = Outbox(session, settings=settings).send_many([level_up(user) for user in range(1, CALLS + 1)])
        session.commit()
    until(lambda: relay.poll() >= 0 and relayed(worker), what="the relay")
    relay.release()
    drain_all(worker, "PLAYER")
    assert handles[0].result().user_id == 1

    def ask(_: int) -> None:
        assert [handle.result(timeout=20).user_id for handle in handles] == list(range(1, CALLS + 1))

    in_children(ask, meanwhile=lambda: ask(0))
    engine.dispose()


def relayed(worker: Runtime) -> bool:
    return worker.lanes.status(Partition("PLAYER")).waiting == CALLS


def test_sends_after_a_fork_use_connections_of_their_own(settings: Settings, worker: Runtime, servers: Servers) -> None:
    with Producer.from_url(servers.valkey.url) as producer:
        producer.send(level_up(1))

        def send(number: int) -> None:
            for _ in range(CALLS):
                producer.send(level_up(number + 1), reply=False)

        in_children(send, meanwhile=lambda: send(CHILDREN))
    assert worker.lanes.status(Partition("PLAYER")).waiting == (CHILDREN + 1) * CALLS + 1


def test_one_async_producer_serves_a_loop_in_each_child(settings: Settings, worker: Runtime) -> None:
    producer = AsyncProducer(settings)
    handles = asyncio.run(producer.send_many([level_up(user) for user in range(1, (CHILDREN + 1) * CALLS + 1)]))
    drain_all(worker, "PLAYER")

    async def ask(number: int) -> None:
        for at in range(number * CALLS, (number + 1) * CALLS):
            assert (await handles[at].result(timeout=20)).user_id == at + 1
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
    with Producer(settings) as producer:
        handles = producer.send_many([level_up(user) for user in range(1, 21)])
        drain_all(worker, "PLAYER")
        stop = threading.Event()

        def busy(user: int) -> None:
            while not stop.is_set():
                producer.send(level_up(user), reply=False)
                handles[user].result(timeout=20)

        threads = [threading.Thread(target=busy, args=(n,)) for n in range(1, 7)]
        for thread in threads:
            thread.start()

        def once(number: int) -> None:
            producer.send(level_up(100 + number))
            assert handles[number].result(timeout=20).user_id == number + 1

        try:
            for _ in range(3):
                in_children(once, 3)
        finally:
            stop.set()
            for thread in threads:
                thread.join()


def test_a_child_closes_nothing_of_its_parent(settings: Settings, worker: Runtime, own_database_url: str) -> None:
    with Producer(settings) as producer:
        handle = producer.send(level_up(1), reply=False)
        drain_all(worker, "PLAYER")
        handle.result()

        def end(_: int) -> None:
            handle.result()
            producer.close()

        in_children(end, 2)
        assert handle.result().user_id == 1
        assert connections_of(own_database_url) == 1


def test_what_a_process_made_is_its_own() -> None:
    made: PerProcess[list[int]] = PerProcess(list)
    made.get().append(os.getpid())
    assert made.get() is made.get()

    def look(_: int) -> None:
        assert made.get() == []

    in_children(look, 1)
    assert made.get() == [os.getpid()]
