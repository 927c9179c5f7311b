"""The course of a run: traffic, fault after fault with the recovery measured, checks meanwhile, a verdict at rest."""

import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from redis.exceptions import RedisError
from rich.console import Console
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from levelq.server_account import temporary_folder
from levelq_core.errors import LevelqError
from levelq_core.operations.verify import Options, Recorder, Report, Violation, verify
from tests.chaos.faults import FAULTS, Fault
from tests.chaos.world import World
from tests.support.fixtures.waiting import until

AT_ONCE = 0.25  # how often a second fault strikes meanwhile
WORK_SECONDS = 4.0  # what a restarted process and the backlog of a fault may take beyond claim and sweep
RATE = 500  # commands a second that a backlog is given on top
ONLINE_SECONDS = 15  # between two checks beside the traffic
DRAIN_SECONDS = 90  # for everything, outbox included, once the traffic has ended

_APART = text("""
    SELECT count(*) FROM specialization_progress p
    JOIN user_licenses l ON l.user_id = p.student_id AND l.specialization_type = p.specialization_id
    WHERE l.current_level <> p.current_level
""")


@dataclass
class Result:
    """What came of a run."""

    seed: int
    seconds: float
    struck: Counter[str] = field(default_factory=Counter)
    recoveries: dict[str, list[float]] = field(default_factory=dict)
    outbox_seconds: list[float] = field(default_factory=list)
    looks: int = 0
    apart: int = 0
    online: int = 0
    decided: int = 0
    sends: Counter[str] = field(default_factory=Counter)
    violations: list[Violation] = field(default_factory=list)
    report: Report = field(default_factory=Report)

    @property
    def passed(self) -> bool:
        return not self.violations and self.apart == 0


def run(seconds: float, seed: int, console: Console, keep: Path | None = None) -> Result:
    """One run of `seconds` of faults. Raises AssertionError for what must not happen on the way."""
    result = Result(seed, seconds)
    with temporary_folder("levelq-chaos-") as made:
        folder = keep or made
        folder.mkdir(parents=True, exist_ok=True)
        console.print(f"[bold]chaos[/] · seed {seed} · {seconds:g} s · starting servers, workers, producers")
        with World(folder, seed) as world, Watcher(world, result):
            until(lambda: world.decided() > 100, 60, "the first commands")
            with Recorder(folder / "recoveries.jsonl") as recorder:
                Nemesis(world, result, recorder, console).strike_until(time.monotonic() + seconds)
            world.stop_traffic()
            until(lambda: world.waiting() == 0 and world.outbox()[0] == 0, DRAIN_SECONDS, "the lanes and the outbox")
            world.record_notes()
            console.print("everything is at rest; checking")
            result.decided = world.decided()
            result.report = check(world, at_rest=True)
            result.violations += result.report.examples
            result.sends = count_sends(world.histories)
    return result


def check(world: World, *, at_rest: bool) -> Report:
    """The checker's word. Beside the traffic a producer may begin a new history that it is not given."""
    options = Options(history=world.histories, at_rest=at_rest, partial_history=not at_rest)
    return verify(world.engine, world.redis, world.settings, options)


def count_sends(histories: list[Path]) -> Counter[str]:
    """How many sends were acknowledged, refused, and never answered."""
    counted: Counter[str] = Counter()
    for path in histories:
        for line in path.read_text().splitlines():
            if '"command_id"' in line and '"intent"' not in line:
                counted["acknowledged"] += '"acknowledged":true' in line
                counted["refused"] += '"acknowledged":false' in line
                counted["unknown"] += '"acknowledged":null' in line
    return counted


class Nemesis:
    """Draws faults from the seed and lets them strike."""

    def __init__(self, world: World, result: Result, recorder: Recorder, console: Console) -> None:
        self._world = world
        self._result = result
        self._recorder = recorder
        self._console = console
        self._rng = Random(world.seed)

    def strike_until(self, deadline: float) -> None:
        """Fault, recovery, pause, and again."""
        while time.monotonic() < deadline:
            faults = self._draw()
            self._strike(faults)
            self._recover(" + ".join(fault.name for fault in faults))
            threading.Event().wait(self._rng.uniform(0, 1))

    def _draw(self) -> list[Fault]:
        (first,) = self._rng.choices(FAULTS, [fault.weight for fault in FAULTS])
        if self._rng.random() > AT_ONCE:
            return [first]
        others = [fault for fault in FAULTS if fault.part != first.part]
        return [first, *self._rng.choices(others, [fault.weight for fault in others])]

    def _strike(self, faults: list[Fault]) -> None:
        seeds = [Random(self._rng.random()) for _ in faults]
        submit = self._world.threads.submit
        for strike in [submit(fault.strike, self._world, rng) for fault, rng in zip(faults, seeds, strict=True)]:
            strike.result()
        self._result.struck.update(fault.name for fault in faults)

    def _recover(self, name: str) -> None:
        """Wait until what was in the lanes when the fault ended is decided, and in the outbox, too."""
        world, ended, wall = self._world, time.monotonic(), time.time()
        work = WORK_SECONDS + world.waiting() / RATE
        until(lambda: world.oldest_seconds() < time.monotonic() - ended, 60, f"the lanes after {name}")
        drained = time.monotonic() - ended
        self._recorder.recovered(name, wall, wall + drained, work)
        until(lambda: world.outbox()[1] < time.monotonic() - ended, 60, f"the outbox after {name}")
        self._result.recoveries.setdefault(name, []).append(drained)
        self._result.outbox_seconds.append(time.monotonic() - ended)
        self._console.print(f"  {sum(self._result.struck.values()):>4}  {name}: {drained:.1f} s", highlight=False)


class Watcher(threading.Thread):
    """Looks at both tables all the time, and lets the checker look at everything now and then."""

    def __init__(self, world: World, result: Result) -> None:
        super().__init__(name="watcher", daemon=True)
        self._world = world
        self._result = result
        self._stopped = threading.Event()

    def __enter__(self) -> None:
        self.start()

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self.join()

    def run(self) -> None:
        """Until the block ends. While a server is down nothing can be seen."""
        online_at = time.monotonic() + ONLINE_SECONDS
        while not self._stopped.wait(0.05):
            try:
                with self._world.engine.connect() as connection:
                    self._result.apart += int(connection.execute(_APART).scalar_one())
                self._result.looks += 1
                if time.monotonic() > online_at:
                    self._result.violations += check(self._world, at_rest=False).examples
                    self._result.online += 1
                    online_at = time.monotonic() + ONLINE_SECONDS
            except (SQLAlchemyError, RedisError, LevelqError):
                continue
