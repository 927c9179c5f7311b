"""1, 2, 4 and 8 worker processes on the same load: rate, processor time by part, contention."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

from ..drain import Drained, timed_drain
from ..rivals.levelq import Levelq
from ..site import Site
from ..workload import Workload
from . import counted

WORKERS = (1, 2, 4, 8)
LOADS = (Workload("one command per user", 200_000, 200_000), Workload("500 users", 500, 600_000))


class Crowded(NamedTuple):
    """One trial. `counts`: see counted.py.

    `twice`: effects beyond one for each command. `again`: entries claimed more than once.
    """

    workers: int
    load: str
    drained: Drained
    counts: Counter[str]
    twice: int
    again: int

    @property
    def of_claims(self) -> dict[str, float]:
        """Shares: of claims that found nothing, of lanes parked and of lanes whose claim was lost."""
        counts = self.counts
        return {
            "empty": counts["empty"] / counts["claims"],
            "parked": counts["parked"] / counts["lanes"],
            "lost": counts["lost"] / counts["lanes"],
        }


def crowd(site: Site, workers: int, load: Workload) -> Crowded:
    """Drain the load with some workers."""
    folder = site.folder / "counts"
    folder.mkdir(exist_ok=True)
    counted.read(folder)
    rival = Levelq(workers, "benchmarks.scaling.counted", **{counted.FOLDER: str(folder)})
    drained = timed_drain(site, rival, load)
    counts = counted.read(Path(folder))
    assert drained.commands == load.commands, f"{drained.commands} of {load.commands} were done in time"
    twice, again = site.applied() - load.commands, counts["entries"] - load.commands
    return Crowded(workers, load.name, drained, counts, twice, again)


def rates(trials: Sequence[Crowded], load: str) -> dict[int, float]:
    """The median rate by the number of workers."""
    return {n: median(t.drained.rate for t in trials if t.load == load and t.workers == n) for n in WORKERS}


def shares(trials: Sequence[Crowded]) -> dict[str, float]:
    """The medians of these trials, by the names of `of_claims`."""
    return {name: median(t.of_claims[name] for t in trials) for name in ("empty", "parked", "lost")}
