"""A worker in the test's own process, which works when the test says so."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from typing import Any, Self

from levelq_core.lanes import parked
from levelq_core.lanes.partition_directory import partitions
from levelq_core.operations.readings.pauses import active_pauses, pause_lines
from levelq_core.redis_client.pool import connect
from levelq_core.settings import Settings
from levelq_worker.process.worker_main import drain_all, working
from levelq_worker.support.stop import Stop


class BurstWorker:
    """`levelq worker --burst`, without a process: relays the outbox and drains all lanes."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._names = list(settings.tracks)
        self._stop = Stop()
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._rq = self._stack.enter_context(connect(self.settings.queue_url, self.settings.redis_seconds))
        self._runtime, self._relay = self._stack.enter_context(working(self.settings, self._names, self._stop))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def drain(self, timeout: float = 30.0) -> None:
        """Work until nothing waits, also for claims that a dead worker left to expire, and for lanes parked before.

        Raises AssertionError if commands still wait: lanes are paused or parked, as behind rows that an open
        transaction of the test has locked, or `timeout` seconds were not enough. Raises WrongDatabase and RedisError.
        """
        timer = threading.Timer(timeout, self._stop.set)
        timer.start()
        try:
            self._stop.wait(max((seconds for _, seconds in self._parked()), default=0.0))
            drain_all(self._runtime, self._relay, self._names, self._rq)
        finally:
            timer.cancel()
        if self._stop.is_set():
            raise AssertionError(f"not drained within {timeout:g} s; the log of `levelq` says why")
        if paused := self._paused():
            raise AssertionError("; ".join(paused))
        if found := self._parked():
            raise AssertionError(f"parked: {'; '.join(lane for lane, _ in found[:10])} ({len(found)} lanes)")

    def _paused(self) -> list[str]:
        """The paused partitions that hold commands."""
        lanes = self._runtime.lanes
        holding = [partition for partition in partitions(lanes, self._names) if lanes.status(partition).waiting]
        return list(pause_lines([pause for pause in active_pauses(lanes, holding) if pause.user is None]))

    def _parked(self) -> list[tuple[str, float]]:
        """The parked lanes with their reasons, and in how many seconds each is due."""
        lanes, found = self._runtime.lanes, []
        redis: Any = lanes.redis
        seconds, microseconds = redis.time()
        for partition in partitions(lanes, self._names):
            for lane in parked.read(redis, lanes.keys, partition).lanes:
                due = (lane.until_ms or 0) / 1000 - seconds - microseconds / 1e6
                found.append((f"{partition.specialization}:{lane.user}, {lane.reason}", max(0.0, due)))
        return found
