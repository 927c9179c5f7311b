"""The course of a load test, from what is refused at once to the report; everything it started ends with it."""

from __future__ import annotations

import random
import time
from collections import Counter
from contextlib import ExitStack

from redis.exceptions import RedisError
from rich.console import Console

from levelq.demo.helpers import Helper
from levelq.demo.screen import WIDTH
from levelq_core.errors import ConfigurationError
from levelq_core.operations.verify import Options, Report, verify
from levelq_core.settings import Settings

from .arrivals import new_tag
from .ending import Folder, Interrupts
from .measuring import courses, figures
from .report import write
from .result import Result, facts
from .screen import Screen
from .sending import THREADS
from .stage import given_stage, own_stage
from .summary import show_end
from .watching import Watch
from .wish import Wish, check

LOOK_SECONDS = 0.1
BEGIN_SECONDS = 0.3  # from the word to the senders until the schedule begins
DRAIN_SECONDS, DRAIN_RATE = 30.0, 500  # what is not decided so long after the last send, and at this rate, is a failure


def run(settings: Settings, wish: Wish) -> int:
    """See run_loadtest."""
    check(settings, wish)
    wish = wish._replace(seed=random.SystemRandom().randrange(10**6) if wish.seed is None else wish.seed)
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = WIDTH  # a file has no width; rich would take 80
    with Interrupts() as interrupts, Folder(wish.keep, servers=not wish.external) as folder:
        try:
            with ExitStack() as stack:
                code = LoadTest(settings, wish, console, stack, folder, interrupts).run()
        except KeyboardInterrupt:
            # Not by rich: its buffer may hold what it was about to print.
            print("interrupted: all processes and servers of the load test are stopped", flush=True)  # noqa: T201
            return 130
        if folder.kept:
            console.print(f"  histories, logs and data: {folder.path}", soft_wrap=True, markup=False)
        return code


class LoadTest:
    """One run. The stack ends, in reverse order, what was started."""

    def __init__(
        self, settings: Settings, wish: Wish, console: Console, stack: ExitStack, folder: Folder, interrupts: Interrupts
    ) -> None:
        self._settings = settings
        self._wish = wish
        self._console = console
        self._stack = stack
        self._folder = folder
        self._interrupts = interrupts

    def run(self) -> int:
        """Set up, send, drain, verify, tell."""
        self._announce()
        self._set_up()
        self._load()
        report = self._verify()
        return self._tell(report)

    def _announce(self) -> None:
        s = self._wish.scenario
        bursts = f", {s.burst:,} within a second at the end of each match" if s.burst else ""
        self._console.print(
            f"[bold]levelq loadtest[/] · {s.name}: {s.summary}\n"
            f"[dim]{s.users:,} users on {s.accounts:,} accounts, pausing {s.think_seconds:.1f} s on average{bursts}; "
            f"{s.commands:,} commands in {s.seconds:g} s · seed {self._wish.seed}[/]",
            soft_wrap=True,
        )

    def _set_up(self) -> None:
        wish, begun = self._wish, time.perf_counter()
        make = given_stage if wish.external else own_stage
        self._stage = make(self._stack, self._settings, wish.workers, self._folder.path)
        first, tag = wish.first_user or 1, new_tag()
        self._senders = [self._sender(number, first, tag) for number in range(wish.senders)]
        self._stage.start_workers()
        for sender in self._senders:
            sender.await_ready()
        self._watch = Watch(self._stage, range(first, first + wish.scenario.accounts), tag)
        self._facts = facts(self._stage, self._watch)
        self._console.print(f"[dim]set up in {time.perf_counter() - begun:.1f} s[/]")

    def _sender(self, number: int, first_user: int, tag: int) -> Helper:
        slots = range(number * THREADS, (number + 1) * THREADS)
        task = {
            "seed": self._wish.seed,
            "scenario": self._wish.scenario,
            "levels": {
                name: [level.total_xp for level in track.levels] for name, track in self._stage.settings.tracks.items()
            },
            "histories": [(slot, str(self._folder.path / f"sends-{slot:03}.jsonl")) for slot in slots],
            "slots": self._wish.senders * THREADS,
            "tag": tag,
            "first_user": first_user,
        }
        given = self._stage.settings.model_copy(update={"database_url": None})  # nobody asks for outcomes
        log = self._folder.path / f"sender-{number}.log"
        return self._stack.enter_context(Helper("sending", task, given, log, package=__package__))

    def _load(self) -> None:
        """From the first arrival until all that was queued is decided, or time is up."""
        self._started = time.time() + BEGIN_SECONDS
        for sender in self._senders:
            sender.go(repr(self._started))
        title = f"levelq loadtest · {self._wish.scenario.name} · seed {self._wish.seed}"
        self._interrupts.reporting = True
        with Screen(self._console, title, self._watch, self._started, self._wish.scenario.seconds) as screen:
            self._follow(screen)
            self._follow_the_rest(screen)
            screen.show(self._counts, now=True)
        self._ended = time.time()

    def _follow(self, screen: Screen) -> None:
        """Until the senders are done, or were asked to be."""
        while not all(sender.done for sender in self._senders):
            self._look(screen)
            if self._interrupts.asked:
                screen.note("stopping: what is queued is waited for, then verified and told (again: at once)")
                for sender in self._senders:
                    sender.go("stop")
                break
        self._errors: dict[str, str] = {}
        for sender in self._senders:
            self._errors |= sender.await_result()

    def _follow_the_rest(self, screen: Screen) -> None:
        """Until all is decided, time is up, or somebody has seen enough of this, too."""
        deadline = time.monotonic() + DRAIN_SECONDS + self._counts["queued"] / DRAIN_RATE
        asked = self._interrupts.asked
        self._look(screen)
        while not self._drained() and time.monotonic() < deadline and self._interrupts.asked == asked:
            self._look(screen)

    def _look(self, screen: Screen) -> None:
        time.sleep(LOOK_SECONDS)
        self._stage.crew.check()
        self._watch.look()
        screen.show(self._counts)

    @property
    def _counts(self) -> Counter[str]:
        """What the senders have done so far."""
        return sum((sender.counts for sender in self._senders), Counter[str]())

    def _drained(self) -> bool:
        """Whether all that was queued is decided; on servers of our own, also that no lane holds anything."""
        look = self._watch.looks[-1]
        return look.decided >= self._counts["queued"] and not (self._stage.own and look.waiting)

    def _verify(self) -> Report:
        stage = self._stage
        self._histories = sorted(self._folder.path.glob("sends-*.jsonl"))
        options = Options(
            history=self._histories,
            at_rest=stage.own and self._drained(),
            foreign_writes=self._wish.foreign_writes,
            partial_history=not stage.own,
        )
        try:
            return verify(stage.engine, stage.redis, stage.settings, options)
        except RedisError as error:
            raise ConfigurationError(f"the checker could not read the lanes: {error}") from error

    def _tell(self, report: Report) -> int:
        decided = self._watch.decided
        found = courses(self._histories, dict(zip(decided.ids, decided.committed, strict=True)))
        result = Result(
            self._wish, self._started, self._ended, self._counts, self._errors, found, figures(found),
            self._watch.looks, decided.applied, decided.level_ups, report, self._facts,
            self._interrupts.asked,
        )  # fmt: skip
        write(self._wish.out, result)
        show_end(self._console, result)
        if not result.passed:
            self._folder.keep()
        return 1 if not result.passed else 130 if result.interrupted else 0
