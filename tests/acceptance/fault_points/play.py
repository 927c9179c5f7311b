"""One scenario from its first command to the checker's report. Read `play`.

What is awaited is always something that another process does, so a busy machine only takes longer.
"""

from __future__ import annotations

import json
import signal
import time
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple, Self

from redis import Redis
from sqlalchemy import text

from levelq_core import Settings
from levelq_core.database.engine import engine_for
from levelq_core.keys import Partition
from levelq_core.operations.verify import Options, Recorder, verify
from tests.acceptance.fault_points import processes
from tests.acceptance.fault_points.commands import Workload
from tests.acceptance.fault_points.network import Network, Site
from tests.acceptance.fault_points.running import WAIT_SECONDS, Application, Process, Wire, lapse
from tests.acceptance.fault_points.scenarios import LOSSES, Fault, Scenario, Victim
from tests.chaos.traced_worker import record
from tests.support.fixtures.keys import KEYS
from tests.support.fixtures.waiting import until

PARTITIONS = [Partition(name) for name in processes.SPECIALIZATIONS]


class Result(NamedTuple):
    """What a scenario led to."""

    scenario: Scenario
    commands: int
    recovery_seconds: float
    end_seconds: float | None  # until a victim that did not survive was gone


def play(scenario: Scenario, site: Site, folder: Path) -> Result:
    """Work, break off at the point, recover without help, fix, work again, and look at everything."""
    with Trial(scenario, site, folder) as trial:
        try:
            trial.begin()
            trial.force()
            trial.recover()
            trial.fix()
            trial.go_on()
            return trial.finish()
        except BaseException as error:
            error.add_note("\n".join(f"{log.name}:\n{log.read_text()[-4000:]}" for log in folder.glob("*.log")))
            raise


class Trial:
    """The processes of a scenario, and what is known of them."""

    def __init__(self, scenario: Scenario, site: Site, folder: Path) -> None:
        self._scenario = scenario
        self._folder = folder
        self._network = Network(scenario, site)
        self._settings = self._network.direct
        self._workload = Workload(processes.SPECIALIZATIONS)
        self._sent, self._notes, self._recoveries = (
            folder / name for name in ("sent.jsonl", "notes.jsonl", "recoveries.jsonl")
        )
        self._met_at = self._recovery = self._calm = 0.0
        self._end: float | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._stack = stack
            self._start()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _start(self) -> None:
        """Two workers and an application; one of the three is the victim."""
        self._redis = self._stack.enter_context(Redis.from_url(self._settings.redis_url))
        self._stack.enter_context(self._network)
        self._wire, self._gate = self._stack.enter_context(Wire()), self._stack.enter_context(Wire())
        trigger = processes.Trigger(self._scenario, self._wire.far_end)
        if self._scenario.victim is Victim.WORKER:
            self._victim = self._worker("victim", self._network.victims, trigger)
            gate = processes.Gate(self._gate.far_end)
            self._workers = [self._victim, self._worker("other", self._settings, gate)]
            self._application = self._apply(self._settings, None)
        else:
            self._workers = [self._worker(name, self._settings, None) for name in ("one", "other")]
            self._victim = self._application = self._apply(self._network.victims, trigger)
        until(lambda: self._redis.scard("rq:workers") == 2, WAIT_SECONDS, "two workers")

    def _worker(self, name: str, settings: Settings, hook: processes.Hook | None) -> Process:
        return self._stack.enter_context(
            Process(processes.worker, self._folder / f"{name}.log", settings, hook),
        )

    def _apply(self, settings: Settings, hook: processes.Hook | None) -> Application:
        log = self._folder / "application.log"
        return self._stack.enter_context(Application(log, settings, hook, self._scenario.victim, self._sent))

    def begin(self) -> None:
        """A round without a fault, to know how long one takes here and now."""
        started = time.monotonic()
        self._send()
        self._rest()
        self._calm = time.monotonic() - started

    def force(self) -> None:
        """Arm the victim, and give it work until it meets the fault."""
        self._gate.arm()
        self._wire.arm()
        if self._scenario.victim is Victim.WORKER:
            self._send()
            self._wire.go_on()
        self._work()
        self._met_at = self._wire.passed()
        self._gate.go_on()
        if self._scenario.fault in LOSSES:
            trap = self._network.trap()
            self._wire.go_on()
            assert trap.struck.wait(WAIT_SECONDS), "the message was not lost"
            self._met_at = time.time()
        elif self._scenario.fault is Fault.STOP:
            until(self._victim.stopped, WAIT_SECONDS, "the victim to stop")
        elif not self._scenario.survived:
            code = -signal.SIGKILL if self._scenario.fault is Fault.KILL else 0
            assert (ended := self._victim.ended()) == code, f"it ended with {ended}"
            self._end = time.time() - self._met_at

    def recover(self) -> None:
        """Everything is applied without repair, also what was sent meanwhile."""
        if self._victim is not self._application:
            self._send()
        elif not self._silenced:
            self._application.finish()
        self._rest()
        self._recovery = time.time() - self._met_at

    def fix(self) -> None:
        """Continue what was stopped, with new commands under way; start a killed application again."""
        if self._scenario.fault is Fault.STOP:
            lapse(self._met_at, 2 * self._scenario.claim_seconds)
            if self._victim is not self._application:
                self._begin()
            self._victim.signal(signal.SIGCONT)
        elif self._silenced:
            self._application = self._apply(self._settings, None)
            self._application.begin(self._round)
        self._application.finish()

    def go_on(self) -> None:
        """More rounds, until the victim, if it lives, passes the point again."""
        self._send()
        if self._scenario.survived:
            self._work()
            self._wire.passed()
            self._application.finish()  # the last round may not have been sent yet
        self._rest()

    def finish(self) -> Result:
        """Stop everything; the checker finds nothing wrong, and all that was made was decided as it must be."""
        self._application.stop()
        for worker in self._workers:
            if worker.there():
                worker.stop()
        with Recorder(self._notes) as notes:
            record(self._redis, PARTITIONS, notes)
        with Recorder(self._recoveries) as recoveries:
            work = 2.0 + 10 * self._calm
            recoveries.recovered(str(self._scenario), self._met_at, self._met_at + self._recovery, work)
        self._check()
        return Result(self._scenario, self._workload.commands, self._recovery, self._end)

    def _check(self) -> None:
        engine = engine_for(self._settings)
        self._stack.callback(engine.dispose)
        options = Options([self._sent, self._notes, self._recoveries], at_rest=True)
        report = verify(engine, self._redis, self._settings, options)
        assert report.violations == 0, report.examples
        with engine.connect() as connection:
            found = connection.execute(text("SELECT status, count(*) FROM levelq_ledger GROUP BY status"))
            decided = dict(map(tuple, found))
        expected = {"applied": self._workload.applied, "rejected": self._workload.rejected}
        assert decided == expected, f"decided {decided}, expected {expected}"
        self._check_claims()

    def _check_claims(self) -> None:
        """Who was asked to end gave back what it held; who came late had lost it."""
        notes = [json.loads(line) for line in self._notes.read_text().splitlines()]
        if self._scenario.hands_over:
            left = {note["claim"] for note in notes if "claim" in note} - {note.get("ack") for note in notes}
            assert not left, "a claim had to run out"
        if self._scenario.comes_late:
            assert any(note.get("removed") == -1 for note in notes), "nothing was acknowledged too late"

    @property
    def _silenced(self) -> bool:
        """Whether the victim is the application, and it cannot send its round before the fault is repaired."""
        return self._victim is self._application and self._scenario.fault in (Fault.KILL, Fault.STOP)

    def _begin(self) -> None:
        self._application.finish()
        self._round = self._workload.round()
        self._application.begin(self._round)

    def _send(self) -> None:
        self._begin()
        self._application.finish()

    def _work(self) -> None:
        """Rounds, one after the other, until the victim reports something."""
        while not self._wire.heard():
            until(lambda: self._wire.heard() or self._short(), WAIT_SECONDS, "a round to be applied")
            self._begin()
            until(lambda: self._wire.heard() or self._application.done(), WAIT_SECONDS, "a round to be sent")

    def _short(self) -> bool:
        """Whether it is time for another round: before all is done, so that no worker runs dry, if it is a victim."""
        waiting, busy = self._standing()
        return waiting < len(self._round) / 2 if self._victim is not self._application else not busy

    def _rest(self) -> None:
        until(lambda: self._standing() == (0, 0), WAIT_SECONDS, "everything to be applied")

    def _standing(self) -> tuple[int, int]:
        """(commands that wait, lanes that are ready or claimed)."""
        pipeline = self._redis.pipeline(transaction=False)
        for partition in PARTITIONS:
            pipeline.get(KEYS.of(partition, "count"))
            for name in ("ready", "claimed"):
                pipeline.zcard(KEYS.of(partition, name))
        found = [int(number or 0) for number in pipeline.execute()]
        return sum(found[::3]), sum(found) - sum(found[::3])
