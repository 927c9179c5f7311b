"""Which number of threads suits the rivals best: `make bench` uses it.

    python -m benchmarks.sizes

Each in turn with 2, 4, 8 and 16 threads in two processes, on the work of 500 users; two rounds, seven minutes.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

from .command import temporary_site, wide_console
from .drain import drain
from .rivals.celery_app import CeleryTasks
from .rivals.direct import Direct
from .rivals.dramatiq_app import DramatiqMessages
from .rivals.kinds import Rival
from .rivals.procrastinate_app import ProcrastinateJobs
from .workload import Workload

SIZES = (2, 4, 8, 16)
ROUNDS = 2
SECONDS = 5  # of the ten that a rival's `most` commands take
PEERS: dict[str, Callable[[int], Rival]] = {
    "procrastinate": ProcrastinateJobs,
    "Celery": CeleryTasks,
    "Dramatiq": DramatiqMessages,
    "direct": lambda size: Direct("orm", size),
}


def main() -> None:
    console = wide_console()
    rates: dict[tuple[str, int], list[float]] = {}
    with temporary_site() as site:
        for _ in range(ROUNDS):
            for name, made in PEERS.items():
                for size in SIZES:
                    rival = made(size)
                    workload = Workload("500 users", 500, rival.most * SECONDS // 10)
                    rates.setdefault((name, size), []).append(drain(site, rival, workload).rate)
    console.print("commands a second, 500 users, median of two rounds: threads in each of two processes")
    for name in PEERS:
        row = (f"{size}: {median(rates[name, size]):,.0f}" for size in SIZES)
        console.print(f"  {name:<14} {'   '.join(row)}")


if __name__ == "__main__":
    main()
