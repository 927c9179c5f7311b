"""The thread that posts this process's report (worker_reports.py) as often as a sweep, from its Activity.

It also adds what was decided since the last report to the trends of all workers (trend_slots.py).
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path

from redis.exceptions import RedisError

from levelq_core.domain.lag_histogram import merged
from levelq_core.domain.record import Lane
from levelq_core.errors import ConfigurationError
from levelq_core.keys import Partition
from levelq_core.lanes.partition_directory import partitions
from levelq_core.lanes.pauses import lanes_parked
from levelq_core.lanes.trend_slots import Slot
from levelq_core.lanes.worker_reports import (
    MOST_LANES,
    WINDOWS,
    BatchFigures,
    HotLane,
    PartitionFigures,
    WorkerReport,
    WorkerReports,
)
from levelq_core.log_events import log_event
from levelq_core.redis_client.wrong_type import unless_wrong_type

from .draining.activity import Taken, Tally
from .draining.context import Runtime
from .support.worker_name import worker_name

MOST_PARTITIONS = 100  # in a report: those with the most commands
SPARE_SECONDS = 1.0  # beyond two sweeps and two slow answers, before a worker that posts nothing is called silent
_MINUTE = WINDOWS[1]


class Reporter(threading.Thread):
    """Of one worker. `rq_name`: the worker's name in RQ's registry."""

    def __init__(self, runtime: Runtime, specializations: Sequence[str], rq_name: str | None = None) -> None:
        super().__init__(name="levelq-reporter", daemon=True)
        settings = runtime.settings
        self._stopped = threading.Event()
        self._seconds = settings.sweep_seconds
        self._within_seconds = 2 * settings.sweep_seconds + 2 * settings.redis_seconds + SPARE_SECONDS
        self._most_seconds = 2 * settings.redis_seconds
        self._tracks, self._lanes = list(settings.tracks), runtime.lanes
        self._activity = runtime.activity
        runtime.observers.add(self._activity.committed)
        self._rq_name = rq_name
        self._specializations = tuple(specializations)
        self._name, self._version = worker_name(), metadata.version("levelq")
        self._host, self._pid = socket.gethostname(), os.getpid()
        self._started_at = time.monotonic()
        unique = f"{self._name}:{time.time_ns()}"  # containers may share a host's name and a pid
        self._reports = WorkerReports(runtime.lanes.redis, settings.keys, unique, self._is_gone)
        self._totals: Counter[str] = Counter()
        self._minutes: deque[tuple[float, Mapping[Partition, Tally]]] = deque()
        self._failing = False

    def run(self) -> None:
        """Post until stopped."""
        while True:
            self.post()
            if self._stopped.wait(self._seconds):
                return

    def stop(self) -> None:
        """Ask it to end, wait for a post under way, add the last batches to the trends, and remove the report."""
        self._stopped.set()
        if self.is_alive():
            self.join(self._most_seconds)
        taken = self._activity.take()
        if taken.batches and not self._failing:
            with suppress(RedisError, ConfigurationError):
                self._lanes.add_to_trends(_slot_of(taken), self._reports.now_ms())
        self._reports.withdraw()

    def post(self) -> None:
        """Post what the worker does now. An error of Redis is logged once: nothing depends on a report."""
        try:
            now = time.monotonic()
            taken = self._take(now)
            now_ms = self._reports.now_ms()
            self._reports.post(self._report(now, now_ms))
            if self._lanes.add_to_trends(_slot_of(taken), now_ms):
                self._lanes.add_to_trends(self._backlog(), now_ms)
            self._failing = False
        except (RedisError, ConfigurationError) as error:
            if not self._failing:
                log_event(logging.WARNING, "report_failed", "report: Redis: %(error)s", error=error)
            self._failing = True

    def _is_gone(self, report: WorkerReport) -> bool:
        """Whether another worker of this host was killed: its process does not exist, or is this one."""
        if report.host != self._host:
            return False
        try:
            os.kill(report.pid, 0)
        except PermissionError:
            return False
        except (OSError, OverflowError):
            return True
        return report.pid == self._pid

    def _take(self, now: float) -> Taken:
        """Add what was decided since the last report; forget what is older than the longest window."""
        taken = self._activity.take()
        self._totals.update(quarantined=taken.quarantined, batches=taken.batches)
        for tally in taken.tallies.values():
            self._totals.update(applied=tally.applied, rejected=tally.rejected, duplicates=tally.duplicates)
        self._minutes.append((now, taken.tallies))
        while self._minutes[0][0] <= now - WINDOWS[-1]:
            self._minutes.popleft()
        return taken

    def _backlog(self) -> Slot:
        """What waits in all partitions, which one worker counts in each slot of the trends. Raises RedisError."""
        lanes, waiting, parked = self._lanes, 0, 0
        for partition in partitions(lanes, self._tracks):
            status = lanes.status(partition)
            waiting += status.waiting
            if status.parked:
                paused = unless_wrong_type(0, lanes_parked, lanes.redis, lanes.keys, partition)
                parked += max(0, status.parked - paused)
        return Slot(waiting=waiting, parked=parked)

    def _report(self, now: float, now_ms: int) -> WorkerReport:
        def ms(moment: float) -> int:
            return now_ms - round(1000 * (now - moment))

        state, since, partition, why = self._activity.now
        times = self._activity.times
        batch = None
        if times.last:
            batch = BatchFigures(
                commands=times.commands,
                seconds=round(times.seconds, 4),
                usual_seconds=None if times.usual is None else round(times.usual, 4),
                slow_ms=None if times.slow_since is None else ms(times.slow_since),
                at_ms=ms(times.last),
            )
        return WorkerReport(
            name=self._name,
            host=self._host,
            pid=self._pid,
            rq_name=self._rq_name,
            version=self._version,
            specializations=self._specializations,
            started_ms=ms(self._started_at),
            posted_ms=now_ms,
            within_seconds=self._within_seconds,
            state=state,
            state_ms=ms(since),
            partition=None if partition is None else str(partition),
            why=why,
            progress_ms=ms(self._activity.progress),
            applied=self._totals["applied"],
            rejected=self._totals["rejected"],
            duplicates=self._totals["duplicates"],
            quarantined=self._totals["quarantined"],
            batches=self._totals["batches"],
            partitions=self._partitions(now),
            batch=batch,
            hot=tuple(self._hot(now)),
            memory_bytes=_resident_bytes(),
        )

    def _since(self, moment: float) -> Iterator[tuple[Partition, Tally]]:
        """What was decided after a moment."""
        for at, tallies in self._minutes:
            if at > moment:
                yield from tallies.items()

    def _partitions(self, now: float) -> dict[str, PartitionFigures]:
        """The figures of each partition with commands in the last ten minutes, the busiest first."""
        decided: dict[Partition, list[float]] = {}
        rejected: dict[Partition, list[float]] = {}
        for window, seconds in enumerate(WINDOWS):
            lasted = max(1.0, min(seconds, now - self._started_at))
            for partition, tally in self._since(now - seconds):
                rates = decided.setdefault(partition, [0.0] * len(WINDOWS))
                rates[window] += (tally.applied + tally.rejected) / lasted
                rates = rejected.setdefault(partition, [0.0] * len(WINDOWS))
                rates[window] += tally.rejected / lasted
        busiest = sorted(decided, key=lambda partition: decided[partition][1:], reverse=True)[:MOST_PARTITIONS]
        return {
            str(partition): PartitionFigures.model_validate({
                "decided": [round(rate, 2) for rate in decided[partition]],
                "rejected": [round(rate, 2) for rate in rejected[partition]],
                "lags": self._lags(partition, now - _MINUTE),
                "lags_10_min": self._lags(partition, now - WINDOWS[-1]),
            })
            for partition in busiest
        }  # fmt: skip

    def _lags(self, partition: Partition, moment: float) -> Counter[int]:
        return merged(tally.lags for found, tally in self._since(moment) if found == partition)

    def _hot(self, now: float) -> Iterator[HotLane]:
        """The lanes with the most commands in the last minute, of those that stood out in a batch."""
        found: Counter[tuple[Partition, Lane]] = Counter()
        for partition, tally in self._since(now - _MINUTE):
            for lane, commands in tally.hot.items():
                found[partition, lane] += commands
        for (partition, lane), commands in found.most_common(MOST_LANES):
            yield HotLane(partition=str(partition), user_id=lane.user_id, commands=commands)


def _slot_of(taken: Taken) -> Slot:
    """What was decided, for the trends."""
    tallies = list(taken.tallies.values())
    applied, rejected = sum(tally.applied for tally in tallies), sum(tally.rejected for tally in tallies)
    return Slot(
        applied=applied,
        rejected=rejected,
        commands=applied + rejected + sum(tally.duplicates for tally in tallies) + taken.quarantined,
        batches=taken.batches,
        lags=merged(tally.lags for tally in tallies),
    )


def _resident_bytes() -> int | None:
    """The resident memory of this process, where /proc tells."""
    with suppress(OSError, ValueError, IndexError):
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    return None
