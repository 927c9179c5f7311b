"""The relay: every live worker polls the outbox twice a second for commands that applications have committed.

With LEVELQ_NOTIFY a listener also wakes it at each commit. Per partition one relay at a time has the lease and
pushes. Its invariant: within a lane, no command is pushed ahead of an earlier one that Redis may lack. A command
pushed twice is harmless, because the ledger knows its id. docs/explanation/lanes.md has the states and transitions,
docs/explanation/guarantees.md what a promoted replica can still disorder.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection
from contextlib import suppress
from queue import Empty
from queue import Queue as ThreadQueue

from redis.exceptions import RedisError
from sqlalchemy.exc import SQLAlchemyError

from levelq_core.database.engine import engine_for
from levelq_core.errors import WrongDatabase
from levelq_core.keys import Partition
from levelq_core.lanes.client import Lanes
from levelq_core.lanes.partition_directory import PartitionDirectory
from levelq_core.lanes.wakeups import Waker
from levelq_core.log_events import log_event
from levelq_core.redis_client.pool import connect
from levelq_core.settings import Settings
from levelq_worker.support.backoff import Backoff
from levelq_worker.support.binding import Binding
from levelq_worker.support.outage import alerts_of, describe
from levelq_worker.support.stop import Stop

from .listener import Listener
from .outbox_rows import OutboxRows
from .partition import WINDOW, PartitionRelay
from .resharding import Resharding
from .restore import OutboxRestore

POLL_SECONDS = 0.5  # a command is pushed within this time of its commit, and the time of the push
MOST_SECONDS = 4.0  # between two rounds while they fail, at most half a claim
REST_SECONDS = 0.02  # after a round for notifications: a burst of commits sends more of them than rounds are worth


class Relay(threading.Thread):
    """Relays the outbox of these specializations, where no other worker does.

    `binding`: the worker's; without one the relay verifies the namespace by itself.
    """

    def __init__(self, settings: Settings, specializations: Collection[str], binding: Binding | None = None) -> None:
        super().__init__(name="levelq-relay", daemon=True)
        self._settings = settings
        self._stopped = threading.Event()
        redis = connect(settings.redis_url, settings.redis_seconds)
        self._rq = connect(settings.queue_url, settings.redis_seconds)
        self._lanes = Lanes(redis, settings)
        self._waker = Waker(redis, self._rq, settings.keys)
        self._engine = engine_for(settings, name="levelq relay", limited=True)
        self._binding = binding or Binding(Stop(), settings.sweep_seconds)
        self._rows = OutboxRows(self._engine)
        self._directory = PartitionDirectory(self._lanes, specializations)
        self._resharding = Resharding(self._lanes, OutboxRestore(self._lanes, self._rows, self._waker), self._waker)
        self._relays: dict[Partition, PartitionRelay] = {}
        self._alerts = alerts_of(redis, settings, "relay")
        self._backoff = Backoff(2 * POLL_SECONDS, max(POLL_SECONDS, min(MOST_SECONDS, settings.claim_seconds / 2)))
        self._delay = POLL_SECONDS
        self._notifications: ThreadQueue[str] = ThreadQueue()
        self._listener = Listener(settings, self._notifications) if settings.notify else None

    def run(self) -> None:
        """Poll until stopped; in between, relay at once what the listener reports."""
        if self._listener is not None:
            self._listener.start()
        due = 0.0
        while not self._stopped.is_set():
            notified = self._wait_for_notifications(due - time.monotonic())
            if time.monotonic() >= due:
                pushed = self.poll()
                due = time.monotonic() + (0.0 if pushed >= WINDOW else self._delay)
            elif notified and not self._backoff.failures:
                due = 0.0 if self.poll_notified(notified) >= WINDOW else due
                self._stopped.wait(REST_SECONDS)
        self.release()

    def _wait_for_notifications(self, seconds: float) -> set[str]:
        """Wait for a notification, `seconds` at most; the specializations of all that came."""
        notified: set[str] = set()
        with suppress(Empty):
            notified.add(self._notifications.get(timeout=max(0.0, seconds)))
            while True:
                notified.add(self._notifications.get_nowait())
        return notified

    def poll(self) -> int:
        """One round over all partitions; returns how many commands were pushed. A failure is logged once."""
        try:
            self._binding.verify(self._lanes, self._engine)
            known = self._directory.read()
        except WrongDatabase:  # the worker stops and prints why
            return 0
        except Exception as error:  # whatever it is: without a relay the outbox stands still
            self._failed(error)
            return 0
        failure: Exception | None = None
        try:
            if self._resharding.advance(self._directory, known):
                known = self._directory.read()
        except Exception as error:  # on a cluster, one server may be down: the other partitions go on
            failure = error
        accepting = [p for p in known if self._directory.layouts[p.specialization].accepts(p)]
        for partition in self._relays.keys() - set(accepting):  # commands no longer go there
            with suppress(RedisError):  # then the lease expires
                self._relays.pop(partition).release()
        return self._poll_partitions([self._relay_of(partition) for partition in accepting], failure)

    def poll_notified(self, specializations: Collection[str]) -> int:
        """The same for the partitions of these that this relay has the lease of; other relays are notified, too."""
        if self._binding.refused is not None:
            return 0
        relays = self._relays.items()
        return self._poll_partitions([r for p, r in relays if r.has_lease and p.specialization in specializations])

    def _poll_partitions(self, relays: Collection[PartitionRelay], failure: Exception | None = None) -> int:
        pushed = 0
        for relay in relays:
            try:
                pushed += relay.poll()
            except Exception as error:
                relay.unconfirm_all()
                failure = error
            if self._stopped.is_set():
                break
        if failure is None:
            self._passed()
        else:
            self._failed(failure)
        return pushed

    def waits_for_other_relays(self) -> bool:
        """Whether rows wait that only other workers may push, because they have the leases."""
        try:
            return any(relay.waits_for_other_relay() for relay in self._relays.values())
        except SQLAlchemyError as error:
            self._failed(error)
            return False

    def _passed(self) -> None:
        if self._backoff.failures:
            self._alerts.withdraw()
        self._backoff.reset()
        self._delay = POLL_SECONDS

    def _failed(self, error: Exception) -> None:
        if not self._backoff.failures:
            cause = None if isinstance(error, RedisError | SQLAlchemyError) else error
            what = describe(error)
            log_event(logging.WARNING, "relay_failed", "relay: %(error)s", error=what, exc_info=cause)
        self._delay = self._backoff.next_delay()
        self._alerts.post(f"relay: {describe(error)}")
        self._engine.dispose()  # a new session works where an old one may have become read-only
        self._binding.reread()

    def release(self) -> None:
        """Give up the leases and the connections."""
        if self._listener is not None:
            self._listener.stop()
        try:
            for relay in self._relays.values():
                relay.release()
            if self._backoff.failures:
                self._alerts.withdraw()
        except RedisError:
            pass  # the leases expire
        finally:
            self._lanes.redis.close()
            self._rq.close()
            self._engine.dispose()

    def stop(self) -> None:
        """Ask it to end, and wait for the round under way."""
        self._stopped.set()
        self._notifications.put("")  # ends the wait for notifications
        if self.is_alive():
            self.join(2 * self._settings.redis_seconds)

    def _relay_of(self, partition: Partition) -> PartitionRelay:
        if partition not in self._relays:
            layout, lanes = self._directory.layouts[partition.specialization], self._lanes
            self._relays[partition] = PartitionRelay(partition, layout, lanes, self._rows, self._waker, self._settings)
        return self._relays[partition]
