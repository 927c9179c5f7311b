"""Concurrent sends: many tasks or threads that share one producer, beside a producer for each and beside send_many.

    .venv/bin/python -m benchmarks.concurrent

With one producer for each caller nothing is shared: each send is a round trip of its own.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack
from statistics import median
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from levelq_core import LevelUp
from levelq_producer import AsyncProducer, Producer

from .command import temporary_site, wide_console
from .site import Site
from .workload import Workload, level_ups

TASKS, THREADS = 500, 64
COMMANDS, FEWER = 10_000, 2_000  # FEWER: of callers that share nothing
P99 = 0.99


class Shared(NamedTuple):
    """Commands a second and milliseconds of one kind of callers; `alone` is one caller, `separate` a producer each."""

    callers: str
    shared: float
    p99: float
    separate: float
    alone: float
    send_many: float

    @property
    def of_alone(self) -> float:
        """How many times the rate of one caller, who sends one by one."""
        return self.shared / self.alone

    @property
    def of_send_many(self) -> float:
        """Which share of send_many's rate."""
        return self.shared / self.send_many


def concurrent(site: Site) -> list[Shared]:
    """One trial of each, tasks and threads."""
    site.reset(500)
    return [asyncio.run(_tasks(site)), _threads(site)]


def _commands(count: int) -> Iterator[LevelUp]:
    return level_ups(Workload("", 500, count).grants())


def _rate_and_p99(waits: Sequence[float], seconds: float) -> tuple[float, float]:
    return len(waits) / seconds, 1000 * sorted(waits)[int(P99 * (len(waits) - 1))]


async def _tasks(site: Site) -> Shared:
    async with AsyncExitStack() as stack:
        producers = [await stack.enter_async_context(AsyncProducer(site.settings)) for _ in range(TASKS)]
        for producer in producers:
            await producer.send_many(_commands(1))  # connects
        one = producers[0]
        shared, p99 = await _run_tasks([one.send] * TASKS, COMMANDS)
        separate, _ = await _run_tasks([producer.send for producer in producers], FEWER)
        alone, _ = await _run_tasks([one.send], FEWER)
        commands = _commands(COMMANDS)
        begun = time.perf_counter()
        await one.send_many(commands)
        return Shared(f"{TASKS} tasks", shared, p99, separate, alone, COMMANDS / (time.perf_counter() - begun))


async def _run_tasks(sends: Sequence[Callable[[LevelUp, bool], Awaitable[object]]], count: int) -> tuple[float, float]:
    waits: list[float] = []

    async def work(send: Callable[[LevelUp, bool], Awaitable[object]]) -> None:
        for command in commands:  # all take from one iterator
            called = time.perf_counter()
            await send(command, False)
            waits.append(time.perf_counter() - called)

    commands = _commands(count)
    begun = time.perf_counter()
    await asyncio.gather(*(work(send) for send in sends))
    return _rate_and_p99(waits, time.perf_counter() - begun)


def _threads(site: Site) -> Shared:
    with ExitStack() as stack:
        producers = [stack.enter_context(Producer(site.settings)) for _ in range(THREADS)]
        for producer in producers:
            producer.send_many(_commands(1))
        one = producers[0]
        shared, p99 = _run_threads([one.send] * THREADS, COMMANDS)
        separate, _ = _run_threads([producer.send for producer in producers], FEWER)
        alone, _ = _run_threads([one.send], FEWER)
        commands = _commands(COMMANDS)
        begun = time.perf_counter()
        one.send_many(commands)
        return Shared(f"{THREADS} threads", shared, p99, separate, alone, COMMANDS / (time.perf_counter() - begun))


def _run_threads(sends: Sequence[Callable[[LevelUp, bool], object]], count: int) -> tuple[float, float]:
    waits: list[float] = []

    def work(send: Callable[[LevelUp, bool], object], commands: Iterator[LevelUp]) -> None:
        for command in commands:
            called = time.perf_counter()
            send(command, False)
            waits.append(time.perf_counter() - called)

    threads = [threading.Thread(target=work, args=(send, _commands(count // len(sends)))) for send in sends]
    begun = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return _rate_and_p99(waits, time.perf_counter() - begun)


def medians(trials: Sequence[Sequence[Shared]]) -> list[Shared]:
    """The median of each figure."""
    return [
        Shared(kind[0].callers, *(median(values) for values in zip(*(trial[1:] for trial in kind), strict=True)))
        for kind in zip(*trials, strict=True)
    ]


def table(found: Sequence[Shared]) -> Table:
    """One line for tasks and one for threads."""
    shown = Table(title="Concurrent sends, commands a second", title_justify="left")
    for name in ("", "one producer", "99 of 100 within", "a producer each", "send_many", "", "one caller", ""):
        shown.add_column(name, justify="right" if name else "left")
    for one in found:
        shown.add_row(
            one.callers, f"{one.shared:,.0f}", f"{one.p99:.0f} ms", f"{one.separate:,.0f}",
            f"{one.send_many:,.0f}", f"{one.of_send_many:.2f} of it", f"{one.alone:,.0f}", f"{one.of_alone:.1f} x it",
        )  # fmt: skip
    return shown


def main() -> None:
    console: Console = wide_console()
    with temporary_site() as site:
        console.print(table(medians([concurrent(site) for _ in range(3)])))


if __name__ == "__main__":
    main()
