"""levelq: lanes, drained in batches."""

from __future__ import annotations

from collections.abc import Sequence

from levelq_producer import Producer

from ..site import Site
from ..workload import Grant, level_ups
from .kinds import Promises, Workers

WINDOW = 10_000  # commands made at a time


class Levelq:
    """`levelq worker --processes 2`, or more; `module` may be another that takes the same arguments."""

    name = "levelq"
    promises = Promises("yes", "yes", "within a claim and a sweep (12 s)")
    most = 200_000

    def __init__(self, processes: int = 2, module: str = "levelq", **environment: str) -> None:
        self.how = f"{processes} processes"
        self._command = ["-m", module, "worker", "--processes", str(processes)]
        self._environment = environment

    def fill(self, site: Site, grants: Sequence[Grant]) -> None:
        with Producer(site.settings) as producer:
            for first in range(0, len(grants), WINDOW):
                for handle in producer.send_many(level_ups(grants[first : first + WINDOW])):
                    assert handle.error is None, handle.error

    def work(self, site: Site) -> Workers:
        return site.running(self.name, self._command, **self._environment)
