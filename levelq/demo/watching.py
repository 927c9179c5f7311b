"""What the demo sees while it runs: a few cheap questions, some times a second."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple, Self

import psutil
import psycopg
from redis import Redis

from levelq_core.keys import Partition
from levelq_core.lanes.client import Lanes
from levelq_core.settings import Settings

from .helpers import WorkerPool
from .scenario import TOP_LEVEL

KILL_AFTER, KILL_ANYWAY = 0.4, 0.7  # of all commands decided: when a worker is killed, at the latest
PARTITIONS = tuple(Partition(name) for name in TOP_LEVEL)


class Sample(NamedTuple):
    """One look. Times are Unix seconds; `decided`, `level_ups` and `batches` count since the last look."""

    at: float
    waiting: int
    claimed: int
    oldest_seconds: float
    decided: int
    level_ups: int
    batches: tuple[int, ...]
    out_of_step: int
    workers: dict[int, int]


# Batches that became visible since the floor. A batch commits as a whole, so each is seen entire or not at all;
# the floor stays one look behind because two workers' ids interleave, and the later ids may commit first.
_TAIL = """
    SELECT xid, count(*), count(*) FILTER (WHERE to_level > from_level), max(id), source = 'queue'
    FROM levelq_ledger WHERE id > %s GROUP BY xid, source
"""

# A reader's look at both tables in one snapshot: pairs of rows whose levels differ, or of which one is missing.
OUT_OF_STEP = """
    SELECT count(*) FROM specialization_progress p
    FULL JOIN user_licenses l ON l.user_id = p.student_id AND l.specialization_type = p.specialization_id
    WHERE p.current_level IS DISTINCT FROM l.current_level
"""


class Watch:
    """Takes samples and keeps them."""

    def __init__(self, settings: Settings, database: psycopg.Connection[Any], redis: Redis, crew: WorkerPool) -> None:
        self.samples: list[Sample] = []
        self._lanes = Lanes(redis, settings)
        self._database = database
        self._crew = crew
        self._seen: set[int] = set()
        self._floors = (0, 0)

    def look(self) -> Sample:
        """Take one sample."""
        statuses = [self._lanes.status(partition) for partition in PARTITIONS]
        decided, level_ups, batches = self._tail()
        row = self._database.execute(OUT_OF_STEP).fetchone()
        sample = Sample(
            time.time(),
            sum(status.waiting for status in statuses),
            sum(status.claimed for status in statuses),
            max((status.oldest_seconds for status in statuses if status.waiting), default=0.0),
            decided,
            level_ups,
            tuple(batches),
            row[0] if row else 0,
            self._crew.memory(),
        )
        self.samples.append(sample)
        return sample

    def _tail(self) -> tuple[int, int, list[int]]:
        decided = level_ups = highest = 0
        batches = []
        for xid, rows, ups, top, queued in self._database.execute(_TAIL, (self._floors[0],)):
            highest = max(highest, top)
            if xid not in self._seen:
                self._seen.add(xid)
                decided += rows
                level_ups += ups
                batches += [rows] * queued
        self._floors = (self._floors[1], max(self._floors[1], highest))
        return decided, level_ups, batches


class Killer(threading.Thread):
    """Kills a worker in the middle of the burst while it holds claims, and sees those claims come back."""

    def __init__(
        self, redis: Redis, settings: Settings, crew: WorkerPool, pushed: Callable[[], int], commands: int
    ) -> None:
        super().__init__(name="demo-killer", daemon=True)
        self.killed_at: float | None = None
        self.returned_at: float | None = None
        self.pid = 0
        self.lanes_held = 0
        self.now = threading.Event()  # set: kill without waiting any longer
        self._redis = redis
        self._crew = crew
        self._pushed = pushed
        self._commands = commands
        self._keys = settings.keys
        self._claim_seconds = settings.claim_seconds
        self._ended = threading.Event()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.join()

    def run(self) -> None:
        """Wait for the moment, kill, watch the claims it leaves."""
        while not self.now.is_set() and self._decided() < KILL_AFTER:
            if self._ended.wait(0.005):
                return
        victim = self._crew.busiest()  # takes milliseconds: before the moment is chosen, not after
        while not self.now.is_set() and not self._busy():
            if self._ended.wait(0.002):
                return
        self._kill(victim)

    def _kill(self, victim: psutil.Process) -> None:
        left = self._claims()
        victim.kill()
        self.pid = victim.pid
        self.killed_at = time.time()
        # The living worker acknowledges its claims within a batch; the dead one's stay until they run out.
        while left:
            if time.time() - self.killed_at > self._claim_seconds / 2:
                self.lanes_held = len(left)
            if self._ended.wait(0.01):
                return
            left &= self._claims()
        self.returned_at = time.time()

    def _decided(self) -> float:
        """The part of all commands that is done, or a little less."""
        pushed = self._pushed()
        waiting: list[Any] = self._redis.mget([self._keys.of(partition, "count") for partition in PARTITIONS])
        return (pushed - sum(int(count or 0) for count in waiting)) / self._commands

    def _busy(self) -> bool:
        """Whether every worker holds a claim, so that it does not matter which one dies; later on, any."""
        tokens = {token for _, _, token in self._claims()}
        return len(tokens) >= (self._crew.processes if self._decided() < KILL_ANYWAY else 1)

    def _claims(self) -> set[tuple[str, bytes, bytes]]:
        """Lane and fencing token of every claim."""
        pipeline = self._redis.pipeline(transaction=False)
        for partition in PARTITIONS:
            pipeline.hgetall(self._keys.of(partition, "tokens"))
        replies: list[dict[bytes, bytes]] = pipeline.execute()
        found = zip(PARTITIONS, replies, strict=True)
        return {(str(partition), user, token) for partition, tokens in found for user, token in tokens.items()}
