"""The demo: a burst of commands, a worker killed in the middle, direct calls beside the queue, and the verdict."""

from __future__ import annotations

import random
import threading
import time
from bisect import bisect_right
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

from rich.console import Console
from rich.text import Text
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from levelq.laboratory.charts import save
from levelq.laboratory.environment import embedded_environment
from levelq.laboratory.percentiles import Percentiles, duration
from levelq.laboratory.sampler import Sample
from levelq.laboratory.screen import Numbers, Screen, console
from levelq.laboratory.shutdown import Interrupts, interruptible, require_empty, run_folder
from levelq.loadtest.arrivals import GAINS, Schedule
from levelq.loadtest.load_test import LoadTest
from levelq.loadtest.options import LoadTestOptions
from levelq.loadtest.plots import Plots
from levelq.loadtest.result import Result
from levelq.loadtest.scenarios import Scenario
from levelq.loadtest.summary import show_end
from levelq_core import level_up_atomic
from levelq_core.operations.queries import out_of_step
from levelq_core.settings import Settings

from .burst import Burst
from .checks import Check, check_report, check_rows, counted, show_checks
from .kill import WorkerKill
from .watching import await_enter, stay, watched

_CLAIM_SECONDS = 3.0  # the default is 10; a demo should not make people wait
_MEMORY_BYTES = 200 * 2**20
_PAUSE_SECONDS = 0.01  # between two direct calls: an application does other things, too
_HELD_SECONDS = 60.0  # without a kill in this time, which fails a check, the rest is sent
_TARGET = 10_000  # commands a second that the demo is meant to reach on two cores


def run_demo(
    users: int = 1000,
    commands: int = 50_000,
    processes: int = 2,
    picture: Path = Path("demo.png"),
    folder: Path | None = None,
    seed: int | None = None,
    *,
    with_console: bool = False,
) -> int:
    """Run the demo. Returns 0 if every check passed, 1 if one failed, 130 if it was interrupted.

    `folder` keeps the servers' data; a temporary one is used and removed otherwise. The same `seed`
    simulates the same users. `with_console`: serve the console meanwhile; on a terminal the burst begins with Enter,
    and the servers stay until another. Raises ConfigurationError if the servers or a process cannot be started.
    """
    require_empty("folder", folder)
    seed = random.SystemRandom().randrange(10**6) if seed is None else seed
    scenario = Scenario("demo", "a burst", users, users, rate=commands, seconds=1.0)
    options = LoadTestOptions(scenario, seed, processes, out=picture)
    return interruptible("demo", lambda interrupts: _run(options, folder, console(), interrupts, with_console))


def _run(
    options: LoadTestOptions, folder: Path | None, terminal: Console, interrupts: Interrupts, with_console: bool
) -> int:
    settings = {name: about.get_default() for name, about in Settings.model_fields.items()}  # not the caller's
    settings |= {"claim_seconds": _CLAIM_SECONDS, "sweep_seconds": 1.0}
    terminal.print(f"[bold]levelq demo[/] · seed {options.seed} · starting PostgreSQL and Valkey from their wheels")
    with (
        run_folder("levelq-demo-", folder, servers=True) as where,
        embedded_environment("levelq demo", settings, options.workers, where.path) as environment,
        watched(environment.settings, terminal) if with_console else nullcontext() as watch,
    ):
        if watch is not None and watch.attended:
            await_enter(terminal, "Open it in a browser, then press Enter: the burst begins.")
        demo = Demo(environment, options, where.path, terminal, interrupts)
        result = demo.run()
        checks = demo.checks(result)
        show_checks(terminal, checks)
        saved = save_picture(options.out, demo.rate(result), result)
        show_end(terminal, result, saved=saved, headline=demo.headline(result), about=demo.about(result))
        if watch is not None:
            stay(watch, terminal)
    return 0 if all(check.passed for check in checks) else 1


def call_directly(engine: Engine, burst: Burst, ended: threading.Event) -> list[float]:
    """Call `level_up_atomic` for the same users, beside the queue; how many seconds each call took.

    Raises LevelUpRefused if one does not succeed.
    """
    rng, seconds = random.Random(f"{burst.seed} direct"), list[float]()  # noqa: S311 - a simulation, repeatable
    lanes, weights = burst.lanes()
    with Session(engine) as session:
        while not ended.wait(_PAUSE_SECONDS):
            ((account, name),) = rng.choices(lanes, cum_weights=weights)
            begun = time.perf_counter()
            level_up_atomic(session, 1 + account, name, rng.choice(GAINS), 1, "demo", raise_on_failure=True)
            seconds.append(time.perf_counter() - begun)
    return seconds


@dataclass
class Demo(LoadTest):
    """One run."""

    sender_threads: ClassVar = 1
    line: ClassVar[tuple[str, ...]] = ("waiting", "decided", "decided/s", "batch size", "level-ups", "oldest waits")

    _memory: dict[int, int] = field(default_factory=dict)  # bytes by process id of a worker
    _peak_bytes: int = 0
    _rest_sent: bool = False
    _held_until: float = 0.0
    _call_seconds: list[float] = field(default_factory=list)
    _out_of_step: int = 0

    def __post_init__(self) -> None:
        scenario = self.options.scenario
        self._burst = Burst(self.options.seed or 0, scenario.users, scenario.commands)
        self._kill = WorkerKill(self.environment, self._burst.at_once)

    @property
    def title(self) -> str:
        """The heading of the screen."""
        burst = self._burst
        return f"levelq demo · {burst.users:,} users · {burst.commands:,} commands · seed {burst.seed}"

    def run(self) -> Result:
        """Burst, kill, wait until everything is decided, verify."""
        return replace(super().run(), paced=False)

    def schedule(self) -> Schedule:
        """What the senders follow."""
        return self._burst

    def start_workers(self) -> None:
        """They start when the senders do, so that the burst piles up: see `during`."""

    @contextmanager
    def during(self, screen: Screen) -> Iterator[None]:
        """Start the workers, call directly, kill a worker."""
        workers = self.environment.workers
        screen.note(f"{workers.processes} worker processes start; {self.options.senders} producers push meanwhile")
        workers.start()
        ended = threading.Event()
        self._held_until = time.monotonic() + _HELD_SECONDS
        with ThreadPoolExecutor() as pool:
            kill = pool.submit(self._kill.run, ended)
            calls = pool.submit(call_directly, self.environment.engine, self._burst, ended)
            try:
                yield
            finally:
                ended.set()
        kill.result()
        self._call_seconds = calls.result()

    def look(self, screen: Screen) -> None:
        """Take a sample, compare levels as any reader might, and note what happened."""
        sample, kill, counts = self.sampler.look(), self._kill, self.counts
        kill.pushed = counts["sent"] + counts["again"]
        with self.environment.engine.connect() as connection:
            self._out_of_step += sum(1 for _ in out_of_step(connection))
        self._memory = self.environment.workers.memory()
        self._peak_bytes = max([self._peak_bytes, *self._memory.values()])
        if sample.batch:
            screen.note("the workers are up")
        if (kill.killed_at or time.monotonic() > self._held_until) and not self._rest_sent:
            self._rest_sent = True
            for sender in self.senders:
                sender.send("rest")
            screen.note("the producers push the rest meanwhile")
        if kill.killed_at:
            expiry = f"its claims expire within {_CLAIM_SECONDS:g} s (default 10)"
            screen.note(f"SIGKILL for worker {kill.pid}; {expiry}", kill.killed_at, mark=True)
        if kill.returned_at:
            held = f"the {kill.lanes_held} lanes it held are back" if kill.lanes_held else "it held no lane"
            screen.note(held, kill.returned_at)
        if kill.pushed >= self._burst.commands and not sample.waiting:
            screen.note("all lanes are empty")

    @property
    def settled(self) -> bool:
        """Whether everything is decided, the killed worker's lanes are back, and it is replaced."""
        complete = len(self._memory) == self.environment.workers.processes
        return super().settled and self._kill.returned_at > 0 and complete

    def numbers(self, sample: Sample) -> Numbers:
        """What the screen shows of a sample."""
        numbers = super().numbers(sample) | {
            "lanes claimed": f"{sample.claimed:,}",
            "batch size": f"{sample.batch:,}",
            "level-ups": f"{sample.level_ups:,}",
            "levels differ": f"{self._out_of_step} seen",
            **{f"worker {pid}": _megabytes(size) for pid, size in self._memory.items()},
        }
        if self._kill.killed_at:
            numbers[f"worker {self._kill.pid}"] = Text("killed", "bold red")
        return numbers

    def marks(self, started: float) -> list[tuple[float, str]]:
        """What the charts mark, in seconds after the start."""
        return [
            (self._kill.killed_at - started, "worker killed"),
            (self._kill.returned_at - started, "its lanes are back"),
        ]

    def checks(self, result: Result) -> list[Check]:
        """All checks of the run."""
        sends = self._burst.commands + len(self._call_seconds)
        missing = self._burst.commands - result.counts["sent"] - result.counts["again"]
        failed = missing + result.counts["refused"] + result.counts["unknown"]
        alive = len(self.environment.workers.workers())
        replaced = bool(self._kill.killed_at) and alive == self.environment.workers.processes
        looks, peak = f"{len(result.samples)} looks", self._peak_bytes
        return [
            counted("every send was acknowledged, every direct call succeeded", failed, sends, "sends"),
            *check_report(result.report),
            *check_rows(self.environment.engine),
            Check("a worker was killed and replaced", replaced, f"{alive} workers alive"),
            Check("a reader never saw two levels differ", self._out_of_step == 0, looks),
            Check("no worker grew past 200 MB", 0 < peak < _MEMORY_BYTES, f"{_megabytes(peak)} at most"),
        ]

    def rate(self, result: Result, *, outage: bool = False) -> float:
        """Commits a second after the first batch's; with the outage of the killed worker, or without."""
        commits = sorted(timing.committed for timing in result.timings if timing.committed is not None)
        if not commits:
            return 0.0
        first, last, number = commits[0], commits[-1], len(commits) - bisect_right(commits, commits[0])
        if not outage:
            begins, ends = max(first, self._kill.killed_at), min(last, self._kill.returned_at)
            number -= bisect_right(commits, ends) - bisect_right(commits, begins)
            last -= max(0.0, ends - begins)
        return number / max(last - first, 0.001)

    def headline(self, result: Result) -> str:
        """The title of the figures."""
        rate, workers = self.rate(result), self.environment.workers.processes
        style = "bold green" if rate >= _TARGET else "bold yellow"
        return f"[{style}]{rate:,.0f} commands/s[/] · {workers} workers, one of them killed · seed {self._burst.seed}"

    def about(self, result: Result) -> list[str]:
        """What a load test does not show."""
        kill, calls = self._kill, Percentiles.of(self._call_seconds)
        with_outage, without = self.rate(result, outage=True), self.rate(result)
        seconds = kill.returned_at - kill.killed_at
        recovery = f"{seconds:.1f} s until {kill.lanes_held} lanes were back" if kill.lanes_held else "it held no lane"
        return [
            f"mean without the outage {without:,.0f}/s, with it {with_outage:,.0f}/s",
            f"batch size {max(sample.batch for sample in result.samples):,} at most",
            f"worker killed: {recovery} · worker memory {_megabytes(self._peak_bytes)} at most",
            f"direct calls {calls.size:,}: {duration(calls.p50)} in the median, 90 % within {duration(calls.p90)}",
        ]


def save_picture(path: Path, rate: float, result: Result) -> str:
    """Save the picture; where it is, or what is missing for one."""
    plots, scenario = Plots(result), result.options.scenario
    title = (
        f"{scenario.commands:,} commands from {scenario.users:,} users, a worker killed in the middle: {rate:,.0f}/s"
    )
    rates = plots.rates()
    rates = replace(rates, series=rates.series[:1])  # all were meant to arrive at once
    try:
        save(path, title, [("commands waiting", plots.waiting()), ("commands a second", rates)])
    except ModuleNotFoundError:
        return "no picture: matplotlib is not installed; pip install 'levelq[demo]'"
    return f"picture: {path.resolve()}"


def _megabytes(size: int) -> str:
    return f"{size / 2**20:.0f} MB"
