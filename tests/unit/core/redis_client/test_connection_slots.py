"""Slots are given first come, first served; a waiter that gives up leaves the queue; all can be refused at once."""

import asyncio
import signal
from concurrent.futures import ThreadPoolExecutor
from types import FrameType

import pytest

from levelq_core.redis_client.connection_slots import TaskSlots, ThreadSlots
from tests.support.fixtures.waiting import until


class Interrupted(Exception):
    """Raised by the handler of a signal."""


def interrupt(signum: int, frame: FrameType | None) -> None:
    raise Interrupted


def test_threads_get_slots_in_order_and_are_refused_together() -> None:
    slots, order = ThreadSlots(1), list[str]()

    def acquire(name: str) -> None:
        slots.acquire()
        order.append(name)

    def queued(number: int) -> None:
        until(lambda: len(slots._waiting) == number, what="the queue")

    with ThreadPoolExecutor(3) as threads:
        slots.acquire()
        first = threads.submit(acquire, "a")
        queued(1)
        before = signal.signal(signal.SIGALRM, interrupt)
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(Interrupted):
            slots.acquire()
        signal.signal(signal.SIGALRM, before)
        third = threads.submit(acquire, "c")
        queued(2)
        for thread in (first, third):
            slots.release()
            thread.result(5)
        assert order == ["a", "c"]
        refused = [threads.submit(acquire, name) for name in "de"]
        queued(2)
        slots.refuse_waiting(RuntimeError("away"))
        for thread in refused:
            with pytest.raises(RuntimeError, match="away"):
                thread.result(5)
        slots.release()
        slots.acquire()  # the only slot is free again


async def test_tasks_get_slots_in_order_and_are_refused_together() -> None:
    slots, order = TaskSlots(1), list[str]()

    async def acquire(name: str) -> None:
        await slots.acquire()
        order.append(name)

    await slots.acquire()
    first, second, third, fourth = (asyncio.create_task(acquire(name)) for name in "abcd")
    await asyncio.sleep(0)
    second.cancel()
    slots.release()
    slots.release()  # skips the cancelled task
    await asyncio.gather(first, third)
    slots.release()
    fourth.cancel()  # after it was given the slot, which it must pass on
    assert [type(found) for found in await asyncio.gather(second, fourth, return_exceptions=True)] == [
        asyncio.CancelledError
    ] * 2
    assert order == ["a", "c"]
    await slots.acquire()
    refused = [asyncio.create_task(acquire(name)) for name in "ef"]
    await asyncio.sleep(0)
    slots.refuse_waiting(RuntimeError("away"))
    assert [str(error) for error in await asyncio.gather(*refused, return_exceptions=True)] == ["away"] * 2
    slots.release()
    await asyncio.wait_for(slots.acquire(), 1)  # the only slot is free again
