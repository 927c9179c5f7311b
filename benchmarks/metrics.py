"""What it costs a drain that workers count for Prometheus.

    .venv/bin/python -m benchmarks.metrics [--repeats 3]

First, one worker in this process drains a backlog, and the processor time of counting is taken out of that of all it
does. Then trials with and without LEVELQ_METRICS_PORT take turns, while the port is scraped every second; their
processor time for one command is compared, of workers, Redis and PostgreSQL together.
"""

from __future__ import annotations

import socket
import threading
import time
from statistics import median
from typing import NamedTuple
from urllib.request import urlopen

from levelq_worker.draining.context import Runtime, tune_gc
from levelq_worker.draining.drain import Drain
from levelq_worker.draining.observing import DecidedBatch
from levelq_worker.metrics.host import HostMetrics

from .command import options, temporary_site
from .drain import drain
from .rivals.levelq import Levelq
from .site import PARTITION, Site
from .workload import Workload

WORKLOADS = (
    Workload("one command per user", 60_000, 60_000),
    Workload("twenty commands per user", 6_000, 120_000),
    Workload("500 users", 500, 150_000),
)


class Counting(NamedTuple):
    """Processor time per command, in microseconds: of counting, and of the worker in all."""

    counting: float
    worker: float


def direct(site: Site, workload: Workload) -> Counting:
    """Drain the backlog in this process, and time the counting alone."""
    site.reset(workload.learners)
    Levelq().fill(site, workload.grants())
    runtime = Runtime(site.settings)
    metrics = HostMetrics.open(site.settings.model_copy(update={"metrics_port": free_port()}), 1)
    assert metrics is not None
    spent = 0.0

    def timed(batch: DecidedBatch) -> None:
        nonlocal spent
        begun = time.thread_time()
        metrics.figures[0].committed(batch)
        spent += time.thread_time() - begun

    runtime.observers.add(timed)
    tune_gc()
    begun = time.process_time()
    while site.waiting():
        Drain(runtime, PARTITION).run()
    whole = time.process_time() - begun
    runtime.close()
    return Counting(1e6 * spent / workload.commands, 1e6 * whole / workload.commands)


def compared(site: Site, workload: Workload, repeats: int) -> tuple[float, float]:
    """The median processor time of a command, without and with metrics, in microseconds."""
    port = str(free_port())
    spent: dict[bool, list[float]] = {False: [], True: []}
    for number in range(2 * repeats):
        metered = number % 4 in (1, 2)  # off on, on off
        environment = {"LEVELQ_METRICS_PORT": port} if metered else {}
        with Scrapes(port if metered else ""):
            spent[metered].append(sum(drain(site, Levelq(2, "levelq", **environment), workload).parts.values()))
    return median(spent[False]), median(spent[True])


class Scrapes:
    """Reads a port every second while the block runs; none if it is empty."""

    def __init__(self, port: str) -> None:
        self._port = port
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._scrape, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _scrape(self) -> None:
        while self._port and not self._ended.wait(1.0):
            try:
                urlopen(f"http://127.0.0.1:{self._port}/metrics", timeout=5).read()
            except OSError:  # the workers are not up yet, or have ended
                continue


def free_port() -> int:
    """A port that nothing listens on just now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    with temporary_site() as site:
        for workload in WORKLOADS:
            found = direct(site, workload)
            without, with_ = compared(site, workload, repeats)
            print(
                f"{workload.name:26} counting {found.counting:.3f} us of the worker's {found.worker:.1f} us: "
                f"{found.counting / without:.2%} of a command's {without:.1f} us; with metrics {with_:.1f} us",
                flush=True,
            )


if __name__ == "__main__":
    main()
