"""A load test from the checks of its options to the report; everything it started ends with it."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar
from uuid import UUID

from redis.exceptions import RedisError
from rich.console import Console
from rich.text import Text

from levelq.laboratory.environment import Environment, connected_environment, embedded_environment
from levelq.laboratory.percentiles import Percentiles, duration
from levelq.laboratory.sampler import Sample, Sampler
from levelq.laboratory.screen import Numbers, Screen, console
from levelq.laboratory.shutdown import Interrupts, interruptible, run_folder
from levelq_core.errors import ConfigurationError
from levelq_core.operations.verify import Options, Report, verify
from levelq_core.settings import Settings
from levelq_worker.support.preflight import preflight

from .arrivals import Plan, Schedule, intended_in, new_tag, tag_in
from .options import LoadTestOptions, check
from .report import render
from .result import Result, facts
from .sender import THREADS, SenderProcess, Task
from .summary import show_end
from .timing import figures, timings

_LOOK_SECONDS = 0.1
_BEGIN_SECONDS = 0.3  # from the word to the senders until the schedule begins
_DRAIN_SECONDS, _DRAIN_RATE = 30.0, 500  # what is not decided this long after the last send, at this rate, is a failure
_RECENT_SECONDS = 5.0  # the percentiles on the screen are of this time


def run_loadtest(settings: Settings, options: LoadTestOptions) -> int:
    """Run a load test.

    Returns 0 if the checker found nothing, 1 if it found violations or commands were not decided in time, 130 if the
    test was interrupted. Raises ConfigurationError for impossible options, before anything is started.
    """
    check(settings, options)
    if options.seed is None:
        options = options._replace(seed=random.SystemRandom().randrange(10**6))
    return interruptible("load test", lambda interrupts: _run(settings, options, console(), interrupts))


def _run(settings: Settings, options: LoadTestOptions, terminal: Console, interrupts: Interrupts) -> int:
    with run_folder("levelq-loadtest-", options.keep, servers=not options.external) as folder:
        _announce(terminal, options)
        with _environment(settings, options, folder.path) as environment:
            result = LoadTest(environment, options, folder.path, terminal, interrupts).run()
            options.out.write_text(render(result), encoding="utf-8")
            show_end(terminal, result, saved=f"report: {options.out.resolve()}")
        folder.kept |= not result.passed
        if folder.kept:
            terminal.print(f"  histories, logs and data: {folder.path}", soft_wrap=True, markup=False)
        return 1 if not result.passed else 130 if result.interrupted else 0


def _announce(terminal: Console, options: LoadTestOptions) -> None:
    s = options.scenario
    bursts = f", {s.burst:,} within a second at the end of each match" if s.burst else ""
    terminal.print(
        f"[bold]levelq loadtest[/] · {s.name}: {s.summary}\n"
        f"[dim]{s.users:,} users on {s.accounts:,} accounts, pausing {s.users / s.rate:.1f} s on average{bursts}; "
        f"{s.commands:,} commands in {s.seconds:g} s · seed {options.seed}[/]"
    )


@contextmanager
def _environment(settings: Settings, options: LoadTestOptions, folder: Path) -> Iterator[Environment]:
    """The test's own servers, or those of the settings where workers serve, or will be started."""
    name = "levelq loadtest"
    if options.external:
        preflight(settings)
        opened = connected_environment(name, settings, options.workers, folder)
    else:
        opened = embedded_environment(name, {}, options.workers, folder)
    with opened as environment:
        if not options.workers and not environment.serving():
            raise ConfigurationError(
                "--external: expected workers that serve these queues, got none: "
                "start `levelq worker`, or give --processes"
            )
        yield environment


@dataclass
class LoadTest:
    """One run."""

    environment: Environment
    options: LoadTestOptions
    folder: Path
    terminal: Console
    interrupts: Interrupts
    tag: int = field(default_factory=new_tag)
    senders: list[SenderProcess] = field(default_factory=list)
    longest: float = 0.0  # the longest wait so far
    measured: int = 0  # how many of the decided commands it is of

    sender_threads: ClassVar = THREADS  # of each sending process
    line: ClassVar[tuple[str, ...]] = ("sent", "decided", "waiting", "decided/s", "p90", "p99", "longest")

    def run(self) -> Result:
        """Send, wait until everything is decided, verify."""
        begun = time.perf_counter()
        with ExitStack() as stack:
            self.senders += [stack.enter_context(self._sender(number)) for number in range(self.options.senders)]
            self.start_workers()
            for sender in self.senders:
                sender.await_ready()
            self.sampler = Sampler(self.environment, self.options.users, self._due)
            about = facts(self.environment, self.sampler)
            self.terminal.print(f"[dim]ready after {time.perf_counter() - begun:.1f} s[/]")
            started, ended, errors = self._load()
        found = timings(self._records, self.sampler.committed)
        return Result(
            options=self.options,
            started=started,
            ended=ended,
            counts=self.counts,
            errors=errors,
            timings=found,
            figures=figures(found),
            samples=self.sampler.samples,
            applied=self.sampler.applied,
            level_ups=self.sampler.level_ups,
            report=self._verify(),
            facts=about,
            interrupted=self.interrupts.requested,
            marks=self.marks(started),
        )

    @property
    def title(self) -> str:
        """The heading of the screen."""
        scenario = self.options.scenario
        return f"levelq loadtest · {scenario.name} · {scenario.seconds:g} s · seed {self.options.seed}"

    def start_workers(self) -> None:
        """Start the run's workers, before anything is sent."""
        if self.environment.workers.processes:
            self.environment.start_workers()

    def schedule(self) -> Schedule:
        """What the senders follow."""
        levels = {
            name: [level.total_xp for level in track.levels] for name, track in self.environment.settings.tracks.items()
        }
        return Plan(self.options.seed or 0, self.options.scenario, levels)

    def marks(self, started: float) -> list[tuple[float, str]]:
        """What the charts mark, in seconds after the start."""
        return [(at, "" if number else "matches end") for number, at in enumerate(self.options.scenario.match_ends)]

    @property
    def counts(self) -> Counter[str]:
        """What the senders have counted so far."""
        return sum((sender.counts for sender in self.senders), Counter[str]())

    def _sender(self, number: int) -> SenderProcess:
        threads = range(number * self.sender_threads, (number + 1) * self.sender_threads)
        task = Task(
            schedule=self.schedule(),
            records=[(thread, self.folder / f"sends-{thread:03}.jsonl") for thread in threads],
            threads=self.options.senders * self.sender_threads,
            tag=self.tag,
            first_user=self.options.users[0],
            settings=self.environment.settings.model_copy(update={"database_url": None}),  # it reads no outcomes
        )
        return SenderProcess(task, self.folder / f"sender-{number}.log")

    def _due(self, id_bytes: bytes) -> float | None:
        command_id = UUID(bytes=id_bytes)
        return intended_in(command_id) if tag_in(command_id) == self.tag else None

    def _load(self) -> tuple[float, float, dict[str, str]]:
        """From the first arrival until everything queued is decided or time is up: start, end, errors of sends."""
        started = time.time() + _BEGIN_SECONDS
        for sender in self.senders:
            sender.send(started)
        with (
            Screen(self.terminal, self.title, self.sampler, self.numbers, self.line, started) as screen,
            self.during(screen),
        ):
            while not all(sender.done for sender in self.senders):
                self._wait_and_look(screen)
                if self.interrupts.requested:
                    screen.note("stopping: what is queued is waited for, verified and reported (again: stops at once)")
                    for sender in self.senders:
                        sender.send("stop")
                    break
            errors = {kind: text for sender in self.senders for kind, text in sender.result().items()}
            self._drain(screen)
        return started, time.time(), errors

    @contextmanager
    def during(self, screen: Screen) -> Iterator[None]:
        """What goes on from the first arrival until everything is decided."""
        self.interrupts.reporting = True
        yield

    def _drain(self, screen: Screen) -> None:
        """Until everything is decided, time is up, or a stop signal comes."""
        screen.note("all sent; waiting for the last decisions")
        deadline = time.monotonic() + _DRAIN_SECONDS + self.counts["queued"] / _DRAIN_RATE
        requested = self.interrupts.requested
        self._wait_and_look(screen)
        while not self.settled and time.monotonic() < deadline and self.interrupts.requested == requested:
            self._wait_and_look(screen)

    def _wait_and_look(self, screen: Screen) -> None:
        time.sleep(_LOOK_SECONDS)
        self.environment.workers.check()
        self.look(screen)
        screen.show()

    def look(self, screen: Screen) -> None:
        """Take a sample."""
        self.sampler.look()

    @property
    def settled(self) -> bool:
        """Whether everything queued is decided; on the test's own servers, also that no lane holds anything."""
        last = self.sampler.last
        return last.decided >= self.counts["queued"] and not (self.environment.embedded and last.waiting)

    @property
    def _records(self) -> list[Path]:
        return sorted(self.folder.glob("sends-*.jsonl"))

    def numbers(self, sample: Sample) -> Numbers:
        """What the screen shows of a sample."""
        sampler, counts = self.sampler, self.counts
        self.longest = max([self.longest, *sampler.waits[self.measured :]])
        self.measured = len(sampler.waits)
        recent = Percentiles.of(sampler.waits[sampler.sample_at(sample.at - _RECENT_SECONDS).decided :])
        numbers: Numbers = {
            "sent": f"{max(counts['sent'], sample.decided):,}",  # senders report ten times a second
            "sent again": f"{counts['again']:,}",
            "decided": f"{sample.decided:,}",
            "waiting": f"{sample.waiting:,}",
            "decided/s": f"{sampler.rate(sample.at):,.0f}",
            "oldest waits": f"{sample.oldest_seconds:.1f} s",
            f"last {_RECENT_SECONDS:g} s: p50": duration(recent.p50),
            "p90": duration(recent.p90),
            "p99": duration(recent.p99),
            "longest": duration(self.longest),
        }
        if failed := counts["refused"] + counts["unknown"]:
            numbers["refused, unknown"] = Text(f"{failed:,}", "bold red")
        return numbers

    def _verify(self) -> Report:
        environment = self.environment
        options = Options(
            history=self._records,
            at_rest=environment.embedded and self.settled,
            foreign_writes=self.options.foreign_writes,
            partial_history=not environment.embedded,
        )
        try:
            return verify(environment.engine, environment.redis, environment.settings, options)
        except RedisError as error:
            raise ConfigurationError(f"the checker could not read the lanes: {error}") from error
