"""More workers than cores, while the database is ever farther away.

    python -m benchmarks.scaling.distant

500 users; two and eight workers whose every batch waits longer, in turn; two rounds, five minutes. Shows where more
workers than cores are worth it.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import AbstractContextManager
from statistics import median

from levelq.cli import main as levelq
from levelq_worker.draining.transaction import Transaction, Transactions

from ..command import temporary_site, wide_console
from ..drain import drain
from ..rivals.levelq import Levelq
from .crowd import LOADS
from .tables import Rows

MODULE = "benchmarks.scaling.distant"
WAITS_MS = "LEVELQ_DISTANT_MS"
DISTANCES_MS = (0, 50, 200)
CREWS = {"2 workers": 2, "8": 8}
ROUNDS = 2


def far(seconds: float) -> None:
    """Have each batch of this process, and of those it forks, wait longer for the database, as over a distance."""
    open_ = Transactions.open

    def opened(self: Transactions) -> AbstractContextManager[Transaction]:
        time.sleep(seconds)
        return open_(self)

    Transactions.open = opened  # type: ignore[method-assign, assignment]


def main() -> None:
    console = wide_console()
    rates: dict[tuple[int, str], list[float]] = {}
    with temporary_site() as site:
        for _ in range(ROUNDS):
            for distance in DISTANCES_MS:
                for name, workers in CREWS.items():
                    found = drain(site, Levelq(workers, MODULE, **{WAITS_MS: str(distance)}), LOADS[-1])
                    rates.setdefault((distance, name), []).append(found.rate)
    rows = [(f"{ms} ms", *(f"{median(rates[ms, name]):,.0f}" for name in CREWS)) for ms in DISTANCES_MS]
    console.print(Rows("", ("waiting in each batch", *(f">{name}" for name in CREWS)), rows).markdown())


if __name__ == "__main__":
    if WAITS_MS in os.environ:
        far(int(os.environ[WAITS_MS]) / 1_000)
        sys.exit(levelq())
    main()
