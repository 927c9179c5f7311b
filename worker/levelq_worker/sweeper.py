"""The sweep: every live worker looks, every few seconds, for what dead workers left."""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection

from redis.exceptions import RedisError

from levelq_core.errors import WrongDatabase
from levelq_core.failpoints import failpoint
from levelq_core.keys import Partition
from levelq_core.lanes.client import Lanes
from levelq_core.lanes.partition_directory import PartitionDirectory
from levelq_core.lanes.wakeups import Waker
from levelq_core.log_events import log_event
from levelq_core.redis_client.pool import connect
from levelq_core.settings import Settings

from .draining.observing import Incident, Observers
from .support.binding import Binding
from .support.outage import describe
from .support.stop import Stop


class Sweeper(threading.Thread):
    """Returns expired claims and wakes drains of due lanes. It renews no claim: only a working thread may.

    `binding`: the worker's, which each sweep checks. `observers`: are told of expired claims.
    """

    def __init__(
        self,
        settings: Settings,
        specializations: Collection[str],
        binding: Binding | None = None,
        observers: Observers | None = None,
    ) -> None:
        super().__init__(name="levelq-sweeper", daemon=True)
        self._settings = settings
        self._stopped = threading.Event()
        redis = connect(settings.redis_url, settings.redis_seconds)
        self._lanes = Lanes(redis, settings)
        self._binding = binding or Binding(Stop(), settings.sweep_seconds)
        self._observers = observers or Observers()
        self._directory = PartitionDirectory(self._lanes, specializations)
        self._waker = Waker(redis, connect(settings.queue_url, settings.redis_seconds), settings.keys)

    def run(self) -> None:
        """Sweep until stopped; a failure is logged once."""
        failing = False
        while True:
            try:
                self.sweep()
                failing = False
            except WrongDatabase:  # the worker stops and prints why
                return
            except Exception as error:  # whatever it is: only sweeps find what dead workers left
                if not failing:
                    cause = None if isinstance(error, RedisError) else error
                    what = describe(error)
                    log_event(logging.WARNING, "sweep_failed", "sweep: %(error)s", error=what, exc_info=cause)
                failing = True
            if self._stopped.wait(self._settings.sweep_seconds):
                return

    def sweep(self) -> None:
        """Check the binding, and sweep every partition of these specializations once.

        Raises WrongDatabase, or the last RedisError after all were tried: on a cluster, one server may be down.
        """
        failpoint("tick")
        failure: Exception | None = None
        try:
            self._binding.check(self._lanes)
        except RedisError as error:
            failure = error
        for partition in self._directory.read():
            try:
                self._sweep(partition)
            except RedisError as error:
                failure = error
        if failure is not None:
            raise failure

    def _sweep(self, partition: Partition) -> None:
        wake, returned = self._lanes.sweep(partition)
        if returned:
            what = "%(partition)s: %(claims)d claims of a dead or stopped worker returned"
            log_event(logging.WARNING, "claims_returned", what, partition=partition, claims=returned)
            self._observers.met(Incident("claims_expired", partition.specialization, returned))
        if wake:
            self._waker.wake(partition)

    def stop(self) -> None:
        """Ask it to end, and wait for the sweep under way."""
        self._stopped.set()
        if self.is_alive():
            self.join(2 * self._settings.redis_seconds)
