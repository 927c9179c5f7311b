"""A scene: workers and traffic around the faults, and the checker at its end."""

from __future__ import annotations

import json
import random
import re
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from uuid import UUID

from redis import Redis
from rq import Worker
from rq.serializers import JSONSerializer

from levelq_core.database.engine import engine_for
from levelq_core.lanes.client import Lanes
from levelq_core.operations.verify import Options, Recorder, Report, Violation, verify
from tests.acceptance.servers.kit.traffic import PARTITIONS, Traffic
from tests.acceptance.servers.kit.workers import Fleet, Workers
from tests.support.fixtures.recoveries import note
from tests.support.fixtures.waiting import until

if TYPE_CHECKING:
    from tests.acceptance.servers.kit.site import Site

WORK_SECONDS = 30.0  # what the backlog may take on a machine that does much else
CALL_SECONDS = 10.0  # what a producer's call may take there: its limits add up to 2 s at most


class Scene:
    """All that goes on around the faults."""

    def __init__(self, site: Site, folder: Path, fleets: Sequence[Fleet]) -> None:
        self.site = site
        seed = random.randrange(10_000)
        print(f"seed {seed}")
        self._history = folder / "history.jsonl"
        self.fleets = [Workers(fleet, folder / f"{number}.log") for number, fleet in enumerate(fleets)]
        self.traffic = Traffic(site.settings, self._history, seed)

    def __enter__(self) -> Self:
        self.traffic.__enter__()
        return self

    def __exit__(self, kind: Any, *_: object) -> None:
        try:
            self.traffic.__exit__()
        finally:
            if kind is not None:
                print(self.log)
            for workers in self.fleets:
                workers.kill()

    @property
    def log(self) -> str:
        """All log lines of the workers."""
        return "".join(workers.log for workers in self.fleets)

    @property
    def news(self) -> str:
        """Their log lines since the fault began."""
        return "".join(workers.news for workers in self.fleets)

    def says(self, pattern: str) -> None:
        """Wait until the workers log it about this fault."""
        until(lambda: re.search(pattern, self.news), seconds=60, what=f"the log to say {pattern}")

    def at_work(self) -> bool:
        """Whether RQ lists every worker process; it still lists some that were killed."""
        with Redis.from_url(self.site.settings.queue_url) as redis:
            listed = {worker.pid for worker in Worker.all(connection=redis, serializer=JSONSerializer)}
        return all(workers.at_work(listed) for workers in self.fleets)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to every worker process."""
        for workers in self.fleets:
            workers.signal(number)

    def flows(self) -> None:
        """Wait until more commands are acknowledged, and more are applied."""
        applied = self.site.count("levelq_ledger")
        self.traffic.flows()
        until(lambda: self.site.count("levelq_ledger") >= applied + 50, seconds=60, what="commands to be applied")

    def goes_on(self, seconds: float) -> None:
        """For so long and longer, what can be sent is sent, and what can be applied is applied."""
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            self.flows()

    @contextmanager
    def fault(self, kind: str, *, lines: int = 20) -> Iterator[None]:
        """A fault during the block, repaired at its end: then all sends are decided in time. `lines`: log at most."""
        for workers in self.fleets:
            workers.mark()
        began = time.time()
        yield
        ended = time.time()
        seconds = self.site.settings.claim_seconds + self.site.settings.sweep_seconds + WORK_SECONDS
        until(lambda: self._decided_until(ended), seconds=seconds, what=f"the backlog to drain after: {kind}")
        drained = time.time()
        with Recorder(self._history) as recorder:
            recorder.recovered(kind, ended, drained, WORK_SECONDS)
        logged = self.news.count("\n")
        note(kind, lasted=ended - began, recovered=drained - ended, lines=logged)
        assert logged <= lines, self.news
        self._assert_patient(self.news, drained - began)

    def _decided_until(self, moment: float) -> bool:
        lanes = Lanes(self.site.redis, self.site.settings)
        for status in map(lanes.status, PARTITIONS):
            if status.waiting and status.oldest_seconds >= time.time() - moment:
                return False
        return not self.site.count(f"levelq_outbox WHERE created_at <= to_timestamp({moment})")

    @staticmethod
    def _assert_patient(logged: str, seconds: float) -> None:
        """From the fifth attempt on a worker waits for at least a quarter of a claim."""
        attempts = [int(n) for n in re.findall(r"working again after (\d+) failed", logged)]
        assert max(attempts, default=0) <= 6 + 2 * seconds

    def acknowledged_at(self) -> dict[UUID, float]:
        """When each command was acknowledged, at the latest."""
        lines = map(json.loads, self._history.read_text().splitlines())
        return {UUID(line["command_id"]): line["sent_at"] for line in lines if line.get("acknowledged")}

    def finish(self) -> Report:
        """End the traffic, let everything drain, stop the workers; returns the checker's result."""
        self.flows()
        self.traffic.__exit__()
        until(lambda: not self.site.waiting(), seconds=60, what="empty lanes")
        until(lambda: not self.site.count("levelq_outbox"), seconds=60, what="an empty outbox")
        for workers in self.fleets:
            workers.stop()
        assert "Traceback" not in self.log
        assert self.traffic.longest_seconds < CALL_SECONDS
        assert self.site.count("levelq_ledger WHERE status = 'rejected'") == 0
        assert self.site.count("levelq_quarantine") == 0
        engine = engine_for(self.site.settings)
        options = Options(history=[self._history], at_rest=True, limit=100_000)
        report = verify(engine, self.site.redis, self.site.settings, options)
        engine.dispose()
        print(*report.examples[:20], sep="\n")
        return report


def lost(report: Report) -> list[Violation]:
    """The commands that the checker misses."""
    return [example for example in report.examples if example.verdict == "lost"]
