"""The course of the demo, from the servers' start to the verdict; everything it started ends with it."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psycopg
from redis import Redis
from rich.console import Console

from levelq.embedded import Servers
from levelq.server_account import temporary_folder
from levelq_core.database.engine import engine_for
from levelq_core.database.migrations import upgrade
from levelq_core.errors import ConfigurationError
from levelq_core.redis_client.pool import connect
from levelq_core.settings import Settings
from levelq_worker.process.startup import hand_over_unblocked, stop_signals

from .helpers import Helper, WorkerPool
from .measuring import Figures, Outage, measure
from .record import Record
from .scenario import Scenario
from .screen import WIDTH, Screen
from .summary import show_checks, show_memory, show_summary
from .verifying import Check, verify
from .watching import Killer, Sample, Watch

PRODUCERS = 2
CLAIM_SECONDS = 3.0  # the default is 10: here somebody is watching
MOST_SECONDS, LEAST_RATE = 60.0, 500  # what is not decided after so long, and this many a second, fails the checks
LOOK_SECONDS = 0.1
MEMORY_BYTES = 200 * 2**20


def run(users: int, commands: int, processes: int, picture: Path, folder: Path | None, seed: int | None) -> int:
    """See run_demo."""
    for name, value in {"users": users, "commands": commands, "processes": processes}.items():
        if value < 1:
            raise ConfigurationError(f"{name}: expected at least 1, got {value}")
    seed = random.SystemRandom().randrange(10**6) if seed is None else seed
    scenario = Scenario(seed, users, commands, int(time.time() * 1000))
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = WIDTH  # a file has no width; rich would take 80
    with _interruptible():
        try:
            with ExitStack() as stack:
                return Demo(scenario, processes, picture, console, stack).run(folder)
        except KeyboardInterrupt:
            # Not by rich: its buffer may hold what it was about to print.
            print("interrupted: all processes and servers of the demo are stopped", flush=True)  # noqa: T201
            return 130


class Demo:
    """One run. The stack ends, in reverse order, what was started."""

    def __init__(self, scenario: Scenario, processes: int, picture: Path, console: Console, stack: ExitStack) -> None:
        self._scenario = scenario
        self._processes = processes
        self._picture = picture
        self._console = console
        self._stack = stack
        self._record = Record(scenario.sends())

    def run(self, folder: Path | None) -> int:
        """Set up, burst, verify, sum up."""
        self._set_up(folder)
        self._burst()
        outage = Outage(self._killer.killed_at or 0.0, self._killer.returned_at or self._killer.killed_at or 0.0)
        figures = measure(self._database, self._record, self._watch.samples, outage)
        begun = time.perf_counter()
        checks = [*verify(self._database, self._redis, self._record, self._settings.namespace), *self._of_the_run()]
        show_checks(self._console, checks, time.perf_counter() - begun)
        show_summary(self._console, self._scenario, figures, self._killer, self._crew, self._record)
        self.draw(figures, outage)
        return 0 if all(check.passed for check in checks) else 1

    def _set_up(self, folder: Path | None) -> None:
        scenario, stack, console = self._scenario, self._stack, self._console
        begun = time.perf_counter()
        console.print(f"[bold]levelq demo[/] · seed {scenario.seed} · starting PostgreSQL and Valkey from their wheels")
        where = folder or stack.enter_context(temporary_folder("levelq-demo-"))
        where.mkdir(parents=True, exist_ok=True)
        servers = Servers(where)
        servers.postgres.options = ("track_commit_timestamp=on",)  # for the figures: when each batch committed
        stack.enter_context(servers)
        settings = self._settings = _settings(servers)
        engine = engine_for(settings)
        upgrade(engine)
        engine.dispose()
        self._redis = stack.enter_context(connect(settings.redis_url, settings.redis_seconds))
        self._database = stack.enter_context(psycopg.connect(servers.postgres.url, autocommit=True))
        _refuse_leftovers(self._database, self._redis, where)
        self._crew = stack.enter_context(WorkerPool(self._processes, settings, where / "workers.log"))
        self._producers = [self._helper("producing", i, settings, where) for i in range(PRODUCERS)]
        self._caller = self._helper("calling", 0, settings, where)
        for helper in (*self._producers, self._caller):
            helper.await_ready()
        self._watch = Watch(settings, self._database, self._redis, self._crew)
        console.print(f"[dim]set up in {time.perf_counter() - begun:.1f} s: servers, tables, producers[/]")

    def _helper(self, module: str, number: int, settings: Settings, where: Path) -> Helper:
        # Producers get no database: their handles' answers come from the queue itself.
        given = settings.model_copy(update={"database_url": None}) if module == "producing" else settings
        task = {"scenario": self._scenario, "producer": number, "producers": PRODUCERS}
        return self._stack.enter_context(Helper(module, task, given, where / f"{module}-{number}.log"))

    def _burst(self) -> None:
        """From the first word to the producers until the lanes are empty and the workers complete again."""
        commands = self._scenario.commands
        self._deadline = time.monotonic() + MOST_SECONDS + commands / LEAST_RATE
        self._killer = Killer(self._redis, self._settings, self._crew, self._pushed, commands)
        self._screen = Screen(self._console, self._scenario, self._killer, self._crew, CLAIM_SECONDS)
        with self._screen:
            self._crew.start()  # until the workers are up, a second or two, the burst piles up
            for helper in (self._caller, *self._producers):
                helper.go()
            self._until(lambda _: all(producer.ready for producer in self._producers))
            with self._killer:
                self._until(self._killed)
                for producer in self._producers:
                    producer.go()
                self._until(self._settled)
            self._caller.go()
            self._record.add_caller(self._caller.await_result())
            self._until(lambda _: True)
        for producer in self._producers:
            self._record.add_producer(producer.await_result())

    def _until(self, condition: Callable[[Sample], bool]) -> None:
        """Look and show, again and again, until it is so or time is up; what is undone then fails a check."""
        while True:
            self._crew.check()
            sample = self._watch.look()
            self._screen.show(sample, self._pushed())
            if condition(sample) or time.monotonic() > self._deadline:
                return
            time.sleep(LOOK_SECONDS)

    def _pushed(self) -> int:
        return sum(producer.sent for producer in self._producers)

    def _killed(self, sample: Sample) -> bool:
        if not sample.waiting:  # so small a burst that its middle was over between two looks: an idle worker dies
            self._killer.now.set()
        return self._killer.killed_at is not None

    def _settled(self, sample: Sample) -> bool:
        empty = all(producer.done for producer in self._producers) and not sample.waiting
        return empty and self._killer.returned_at is not None and len(sample.workers) == self._processes

    def _of_the_run(self) -> Iterator[Check]:
        alive = len(self._crew.workers())
        yield Check("a worker was killed and replaced", bool(self._killer.killed_at) and alive == self._processes,
                    f"{alive} workers alive")  # fmt: skip
        samples = self._watch.samples
        apart = sum(sample.out_of_step for sample in samples)
        yield Check("a reader never saw two levels differ", apart == 0, f"{len(samples)} looks during the burst")
        peak = self._crew.peak_bytes
        yield Check("no worker grew past 200 MB", 0 < peak < MEMORY_BYTES, show_memory(peak))

    def draw(self, figures: Figures, outage: Outage) -> None:
        """Save the picture, or say what is missing for one."""
        try:
            from .picture import draw  # noqa: PLC0415 - matplotlib is an extra, and slow to import
        except ModuleNotFoundError as error:
            self._console.print(f"no picture: {error.name} is not installed; pip install 'levelq[demo]'", markup=False)
            return
        draw(self._picture, self._scenario, figures, self._watch.samples, self._record, outage)
        self._console.print(f"  picture: {self._picture.resolve()}", soft_wrap=True, markup=False)


def _settings(servers: Servers) -> Settings:
    """Settings for the demo's own servers; what the environment says of others does not count."""
    given: dict[str, Any] = {name: field.get_default() for name, field in Settings.model_fields.items()}
    given |= {"redis_url": servers.valkey.url, "database_url": servers.postgres.url}
    return Settings.load(**given | {"claim_seconds": CLAIM_SECONDS, "sweep_seconds": 1.0})


def _refuse_leftovers(database: psycopg.Connection[Any], redis: Redis, where: Path) -> None:
    """The verdict is about this run alone."""
    row = database.execute("SELECT EXISTS (SELECT FROM levelq_ledger)").fetchone()
    if (row and row[0]) or redis.dbsize():
        raise ConfigurationError(f"folder {where}: expected an empty one, got one that holds data of an earlier run")


@contextmanager
def _interruptible() -> Iterator[None]:
    """A stop signal ends the demo once; what follows then, the cleaning up, is not to be interrupted."""
    numbers = stop_signals()

    def interrupt(*_: object) -> None:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = [signal.signal(number, interrupt) for number in numbers]
    hand_over_unblocked()
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
