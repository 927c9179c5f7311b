"""Servers that fork after loading the application: each process has connections of its own, and nothing is mixed up."""

import asyncio
import faulthandler
import os
import threading
import traceback
from collections.abc import Callable, Coroutine
from typing import Any

import psycopg
import pytest
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from levelq.embedded import Servers
from levelq_core import Settings
from levelq_core.redis_client.per_process import PerProcess
from levelq_producer import AsyncProducer, Outbox, Producer
from levelq_worker.draining.context import Runtime
from levelq_worker.relay.thread import Relay
from tests.support.coupler import drain_all
from tests.support.fixtures.waiting import until
from tests.support.producing import level_up, level_ups, queued

CHILDREN, CALLS = 4, 25
SESSIONS = (
    "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'levelq producer' AND datname = current_database()"
)


def in_children(work: Callable[[int], object], count: int = CHILDREN, meanwhile: Callable[[], object] = int) -> None:
    """Run `work` in forked processes at once, and `meanwhile` here; fails the test if it raises in one of them."""
    children = []
    for number in range(count):
        child = os.fork()
        if not child:
            code = 1
            faulthandler.dump_traceback_later(60, exit=True)  # a child that hangs prints where
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


@pytest.mark.parametrize("reply", [False, True], ids=["from the ledger", "from Redis"])
def test_each_process_gets_the_outcomes_of_its_own_commands_after_a_fork(
    settings: Settings, worker: Runtime, reply: bool
) -> None:
    with Producer(settings) as producer:
        handles = producer.send_many(level_ups((CHILDREN + 1) * CALLS), reply=reply)
        drain_all(worker, "PLAYER")
        assert handles[-1].result().user_id == len(handles)  # on the connection that is inherited

        def ask(number: int) -> None:
            for at in range(number * CALLS, (number + 1) * CALLS):
                outcome = handles[at].result(timeout=20)
                assert (outcome.user_id, outcome.command_id) == (at + 1, handles[at].command_id)

        in_children(ask, meanwhile=lambda: ask(CHILDREN))
        ask(0)  # the parent's own connection works on


def test_outbox_handles_made_before_a_fork_answer_after_it(
    settings: Settings, worker: Runtime, own_database_url: str
) -> None:
    engine = create_engine(own_database_url.replace("postgresql://", "postgresql+psycopg://"))
    relay = Relay(settings, ["PLAYER"])
    with Session(engine) as session:
        handles = Outbox(session, settings=settings).send_many(level_ups(CALLS))
        session.commit()
    until(lambda: relay.poll() >= 0 and queued(worker) == CALLS, what="the relay")
    relay.release()
    drain_all(worker, "PLAYER")
    assert handles[0].result().user_id == 1

    def ask(_: int) -> None:
        assert [handle.result(timeout=20).user_id for handle in handles] == list(range(1, CALLS + 1))

    in_children(ask, meanwhile=lambda: ask(0))
    engine.dispose()


def test_sends_after_a_fork_use_connections_of_their_own(worker: Runtime, servers: Servers) -> None:
    with Producer.from_url(servers.valkey.url) as producer:
        producer.send(level_up(1))

        def send(number: int) -> None:
            for _ in range(CALLS):
                producer.send(level_up(number + 1), reply=False)

        in_children(send, meanwhile=lambda: send(CHILDREN))
    assert queued(worker) == (CHILDREN + 1) * CALLS + 1


def test_async_producer_serves_a_loop_in_each_child(settings: Settings, worker: Runtime) -> None:
    producer = AsyncProducer(settings)
    handles = asyncio.run(producer.send_many(level_ups((CHILDREN + 1) * CALLS)))
    drain_all(worker, "PLAYER")

    async def ask(number: int) -> None:
        for at in range(number * CALLS, (number + 1) * CALLS):
            assert (await handles[at].result(timeout=20)).user_id == at + 1
        await producer.level_up(1, "COACH", 5)

    asyncio.run(ask(CHILDREN))
    in_children(lambda number: asyncio.run(ask(number)), meanwhile=lambda: asyncio.run(ask(CHILDREN)))
    asyncio.run(producer.close())


def test_child_of_a_running_loop_does_not_disturb_it(settings: Settings, worker: Runtime) -> None:
    producer = AsyncProducer(settings)

    async def parent() -> None:
        await producer.level_up(1, "PLAYER", 5)
        child = os.fork()
        if not child:
            os._exit(run_in_thread(producer.level_up(2, "PLAYER", 5)))
        code = await asyncio.to_thread(lambda: os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        assert code == 0
        await producer.level_up(1, "PLAYER", 5)
        await producer.close()

    asyncio.run(parent())


def run_in_thread(send: Coroutine[Any, Any, object]) -> int:
    """Run a loop of its own in a thread, as the child's main thread is inside the parent's; returns an exit code."""
    codes: list[int] = []

    def run() -> None:
        try:
            asyncio.run(send)
            codes.append(0)
        except BaseException:
            traceback.print_exc()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return codes[0] if codes else 1


def test_locks_that_other_threads_hold_at_the_fork_do_not_stop_the_child(settings: Settings, worker: Runtime) -> None:
    """Threads send and wait all the time, so some hold locks at the fork."""
    with Producer(settings) as producer:
        handles = producer.send_many(level_ups(20))
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


def test_child_closes_nothing_of_its_parent(settings: Settings, worker: Runtime, own_database_url: str) -> None:
    with Producer(settings) as producer:
        handle = producer.send(level_up(1), reply=False)
        drain_all(worker, "PLAYER")
        handle.result()

        def end(_: int) -> None:
            handle.result()
            producer.close()

        in_children(end, 2)
        assert handle.result().user_id == 1
        with psycopg.connect(own_database_url) as connection:
            assert connection.execute(SESSIONS).fetchone() == (1,)


def test_object_of_a_process_is_not_its_childs() -> None:
    made: PerProcess[list[int]] = PerProcess(list)
    made.get().append(os.getpid())
    assert made.get() is made.get()

    def check(_: int) -> None:
        assert made.get() == []

    in_children(check, 1)
    assert made.get() == [os.getpid()]
