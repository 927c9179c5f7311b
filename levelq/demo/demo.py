"""The demo from the servers' start to the verdict; everything it started ends with it."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.text import Text

from levelq.laboratory.environment import Environment, embedded_environment
from levelq.laboratory.processes import Helper, counts_of
from levelq.laboratory.sampler import Sample, Sampler
from levelq.laboratory.screen import Numbers, Screen, console
from levelq.laboratory.shutdown import Interrupts, require_empty, run_folder
from levelq_core.errors import ConfigurationError
from levelq_core.operations.queries import out_of_step
from levelq_core.settings import Settings

from .checks import Check, Recorded, check_all
from .figures import Figures, measure
from .kill import WorkerKill
from .scenario import Scenario
from .summary import megabytes, show_checks, show_summary

_SENDERS = 2
_CLAIM_SECONDS = 3.0  # the default is 10; a demo should not make people wait
_MOST_SECONDS, _LEAST_RATE = 60.0, 500  # what is not decided after this time, at this rate, fails the checks
_LOOK_SECONDS = 0.1
_MEMORY_BYTES = 200 * 2**20
_LINE = ("waiting", "decided/s", "batch size", "level-ups", "oldest waits")


def run(users: int, commands: int, processes: int, picture: Path, folder: Path | None, seed: int | None) -> int:
    """See run_demo."""
    for name, value in {"users": users, "commands": commands, "processes": processes}.items():
        if value < 1:
            raise ConfigurationError(f"{name}: expected at least 1, got {value}")
    require_empty("folder", folder)
    seed = random.SystemRandom().randrange(10**6) if seed is None else seed
    scenario = Scenario(seed, users, commands, int(time.time() * 1000))
    terminal = console()
    with Interrupts(), run_folder("levelq-demo-", folder, servers=True) as where:
        try:
            terminal.print(f"[bold]levelq demo[/] · seed {seed} · starting PostgreSQL and Valkey from their wheels")
            settings = {name: field.get_default() for name, field in Settings.model_fields.items()}  # not the caller's
            settings |= {"claim_seconds": _CLAIM_SECONDS, "sweep_seconds": 1.0}
            with (
                embedded_environment("levelq demo", settings, processes, where.path) as environment,
                ExitStack() as stack,
            ):
                return Demo(environment, scenario, where.path, terminal).run(stack, picture)
        except KeyboardInterrupt:
            # Not by rich: its buffer may hold what it was about to print.
            print("interrupted: all processes and servers of the demo are stopped", flush=True)  # noqa: T201
            return 130


@dataclass
class Demo:
    """One run."""

    _environment: Environment
    _scenario: Scenario
    _folder: Path
    _terminal: Console
    _memory: dict[int, int] = field(default_factory=dict)
    _peak_bytes: int = 0
    _out_of_step: int = 0

    def __post_init__(self) -> None:
        self._workers = self._environment.workers
        self._sampler = Sampler(self._environment, range(1, 10 * self._scenario.users + 1), lambda _: 0.0)
        self._kill = WorkerKill(self._environment, self._scenario.commands)

    def run(self, stack: ExitStack, picture: Path) -> int:
        """Burst, verify, sum up. The stack ends the helpers. Returns the exit code."""
        self._start_helpers(stack)
        spans, recorded = self._burst()
        figures = measure(self._environment.engine, [call["seconds"] for call in recorded.calls], self._kill)
        begun, sends = time.perf_counter(), self._scenario.sends()
        checks = [*check_all(self._environment, sends, recorded), *self._of_the_run()]
        show_checks(self._terminal, checks, time.perf_counter() - begun)
        show_summary(self._terminal, self._scenario, sends, figures, self._kill, self._workers, self._peak_bytes)
        save_picture(self._terminal, picture, self._scenario, figures, self._sampler.samples, spans, self._kill)
        return 0 if all(check.passed for check in checks) else 1

    def _start_helpers(self, stack: ExitStack) -> None:
        begun = time.perf_counter()
        settings = self._environment.settings
        without_database = settings.model_copy(update={"database_url": None})  # answers come from the queue itself
        self._records = [self._folder / f"sends-{number}.jsonl" for number in range(_SENDERS)]

        def start(module: str, task: dict[str, object], settings: Settings) -> Helper:
            log = self._folder / f"{module}-{task.get('sender', 0)}.log"
            task |= {"scenario": self._scenario}
            return stack.enter_context(Helper(f"levelq.demo.{module}", task, settings, log))

        tasks = [{"sender": n, "senders": _SENDERS, "record": str(path)} for n, path in enumerate(self._records)]
        self._senders = [start("sender", task, without_database) for task in tasks]
        self._caller = start("caller", {}, settings)
        for helper in (*self._senders, self._caller):
            helper.await_ready()
        self._terminal.print(f"[dim]senders ready after {time.perf_counter() - begun:.1f} s[/]")

    def _burst(self) -> tuple[list[tuple[float, float]], Recorded]:
        """From the first word to the senders until the lanes are empty and the workers complete again."""
        scenario = self._scenario
        self._deadline = time.monotonic() + _MOST_SECONDS + scenario.commands / _LEAST_RATE
        title = f"levelq demo · {scenario.users:,} users · {scenario.commands:,} commands · seed {scenario.seed}"
        with Screen(self._terminal, title, self._sampler, self._numbers, _LINE) as screen:
            self._screen = screen
            screen.note(f"{self._workers.processes} worker processes start; two producers push meanwhile")
            self._workers.start()  # the burst piles up until the workers are ready, a second or two
            for helper in (self._caller, *self._senders):
                helper.send()
            self._look_until(lambda _: all(sender.ready.is_set() for sender in self._senders))
            with self._kill:
                self._look_until(self._killed)
                screen.note("the producers push the rest meanwhile")
                for sender in self._senders:
                    sender.send()
                self._look_until(self._settled)
            self._caller.send("stop")
            calls = self._caller.result()["calls"]
            self._look_until(lambda _: True)
        results = [sender.result() for sender in self._senders]
        spans, answers = ([one for result in results for one in result[name]] for name in ("spans", "answers"))
        return spans, Recorded(self._records, counts_of(self._senders)["failed"], answers, calls)

    def _look_until(self, condition: Callable[[Sample], bool]) -> None:
        """Look and show until the condition holds or time is up; what is not done then fails a check."""
        while True:
            self._workers.check()
            self._look()
            if condition(self._sampler.last) or time.monotonic() > self._deadline:
                return
            time.sleep(_LOOK_SECONDS)

    def _look(self) -> None:
        sample, kill, screen = self._sampler.look(), self._kill, self._screen
        pushed = kill.pushed = counts_of(self._senders)["pushed"]
        with self._environment.engine.connect() as connection:
            self._out_of_step += sum(1 for _ in out_of_step(connection))
        self._memory = self._workers.memory()
        self._peak_bytes = max([self._peak_bytes, *self._memory.values()])
        if sample.batch:
            screen.note("the workers are up")
        if kill.killed_at:
            expiry = f"its claims expire within {_CLAIM_SECONDS:g} s (default 10)"
            screen.note(f"SIGKILL for worker {kill.pid}; {expiry}", kill.killed_at, mark=True)
        if kill.returned_at:
            held = f"the {kill.lanes_held} lanes it held are back" if kill.lanes_held else "it held no lane"
            screen.note(held, kill.returned_at)
        if pushed >= self._scenario.commands and not sample.waiting:
            screen.note("all lanes are empty")
        screen.show()

    def _killed(self, sample: Sample) -> bool:
        if not sample.waiting:  # so small a burst that its middle passed between two looks: kill an idle worker
            self._kill.now.set()
        return self._kill.killed_at > 0

    def _settled(self, sample: Sample) -> bool:
        empty = all(sender.done.is_set() for sender in self._senders) and not sample.waiting
        return empty and self._kill.returned_at > 0 and len(self._memory) == self._workers.processes

    def _numbers(self, sample: Sample) -> Numbers:
        numbers: Numbers = {
            "pushed": f"{self._kill.pushed:,}",
            "waiting": f"{sample.waiting:,}",
            "decided": f"{sample.decided:,}",
            "lanes claimed": f"{sample.claimed:,}",
            "decided/s": f"{self._sampler.rate(sample.at):,.0f}",
            "batch size": f"{sample.batch:,}",
            "level-ups": f"{sample.level_ups:,}",
            "oldest waits": f"{sample.oldest_seconds:.1f} s",
            "levels differ": f"{self._out_of_step} seen",
            **{f"worker {pid}": megabytes(size) for pid, size in self._memory.items()},
        }
        if self._kill.killed_at:
            numbers[f"worker {self._kill.pid}"] = Text("killed", "bold red")
        return numbers

    def _of_the_run(self) -> Iterator[Check]:
        alive = len(self._workers.workers())
        replaced = bool(self._kill.killed_at) and alive == self._workers.processes
        yield Check("a worker was killed and replaced", replaced, f"{alive} workers alive")
        looks, peak = f"{len(self._sampler.samples)} looks", self._peak_bytes
        yield Check("a reader never saw two levels differ", self._out_of_step == 0, looks)
        yield Check("no worker grew past 200 MB", 0 < peak < _MEMORY_BYTES, f"{megabytes(peak)} at most")


def save_picture(
    terminal: Console,
    path: Path,
    scenario: Scenario,
    figures: Figures,
    samples: list[Sample],
    pushes: list[tuple[float, float]],
    kill: WorkerKill,
) -> None:
    """Save the picture, or print what is missing for one."""
    try:
        from .picture import draw  # noqa: PLC0415 - matplotlib is an extra, and slow to import
    except ModuleNotFoundError as error:
        terminal.print(f"no picture: {error.name} is not installed; pip install 'levelq[demo]'", markup=False)
        return
    draw(path, scenario, figures, samples, pushes, kill)
    terminal.print(f"  picture: {path.resolve()}", soft_wrap=True, markup=False)
