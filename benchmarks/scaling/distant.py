"""More workers than cores, with and without seats, with more and more latency to the database.

    python -m benchmarks.scaling.distant

500 users; two and eight workers, in turn; two rounds, seven minutes. Shows whether workers rest where cores are short,
and only there (levelq_worker/support/seats.py).
"""

from __future__ import annotations

import os
import sys
import time
from statistics import median
from typing import Any

from rich.console import Console

from levelq.cli import main as levelq
from levelq.server_account import temporary_folder
from levelq_worker.draining.transaction import Applied, Transaction
from levelq_worker.process import supervisor as supervising
from levelq_worker.support.seats import Seats

from ..drain import drain
from ..rivals.levelq import Levelq
from ..site import Site
from .crowd import LOADS
from .tables import Rows

MODULE = "benchmarks.scaling.distant"
WAITS_MS, SEATLESS = "LEVELQ_DISTANT_MS", "LEVELQ_SEATLESS"
DISTANCES_MS = (0, 50, 200)
CREWS = (("2 workers", 2, False), ("8", 8, False), ("8, no seats", 8, True))
ROUNDS = 2


def far(seconds: float) -> None:
    """Make each batch of this process, and of those it forks, wait as if the database were distant."""
    apply = Transaction.apply

    def applied(self: Transaction, *args: Any, **options: Any) -> Applied:
        time.sleep(seconds)
        return apply(self, *args, **options)

    Transaction.apply = applied  # type: ignore[method-assign]


def main() -> None:
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    rates: dict[tuple[int, str], list[float]] = {}
    with temporary_folder("levelq-scaling-") as folder, Site(folder / "site") as site:
        for _ in range(ROUNDS):
            for distance in DISTANCES_MS:
                for name, workers, seatless in CREWS:
                    environment = {WAITS_MS: str(distance)} | ({SEATLESS: "1"} if seatless else {})
                    found = drain(site, Levelq(workers, MODULE, **environment), LOADS[-1])
                    rates.setdefault((distance, name), []).append(found.rate)
    rows = [
        (f"{distance} ms", *(f"{median(rates[distance, name]):,.0f}" for name, *_ in CREWS))
        for distance in DISTANCES_MS
    ]
    console.print(Rows("", ("waiting in each batch", *(f">{name}" for name, *_ in CREWS)), rows).markdown())


if __name__ == "__main__":
    if WAITS_MS in os.environ:
        far(int(os.environ[WAITS_MS]) / 1_000)
        if SEATLESS in os.environ:
            supervising.seats_for = lambda processes: Seats()  # type: ignore[attr-defined]
        sys.exit(levelq())
    main()
