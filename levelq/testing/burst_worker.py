"""A worker in the test's own process, which works when the test says so."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from typing import Self

from levelq_core.lanes import parked
from levelq_core.redis_client.pool import connect
from levelq_core.settings import Settings
from levelq_worker.process.worker_main import drain_all, working
from levelq_worker.support.partition_directory import partitions
from levelq_worker.support.stop import Stop


class BurstWorker:
    """`levelq worker --burst`, without a process: relays the outbox and drains all lanes."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._stop = Stop()
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        names = list(self.settings.tracks)
        self._rq = self._stack.enter_context(connect(self.settings.queue_url, self.settings.redis_seconds))
        self._runtime, self._relay = self._stack.enter_context(working(self.settings, names, self._stop))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def drain(self, timeout: float = 30.0) -> None:
        """Work until nothing waits, also for claims that a dead worker left to expire.

        Raises AssertionError if commands still wait: lanes are parked, as behind rows that an open transaction of the
        test has locked, or `timeout` seconds were not enough. Raises WrongDatabase and RedisError.
        """
        names = list(self.settings.tracks)
        timer = threading.Timer(timeout, self._stop.set)
        timer.start()
        try:
            drain_all(self._runtime, self._relay, names, self._rq)
        finally:
            timer.cancel()
        if self._stop.is_set():
            raise AssertionError(f"not drained within {timeout:g} s; the log of `levelq` says why")
        redis, keys = self._runtime.lanes.redis, self.settings.keys
        for partition in partitions(self._runtime.lanes, names):
            if found := parked.read(redis, keys, partition).lanes:
                lanes = "; ".join(f"{partition.specialization}:{lane.user}: {lane.reason}" for lane in found[:10])
                raise AssertionError(f"{len(found)} lanes are parked: {lanes}")
