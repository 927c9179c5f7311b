"""The relay: every live worker looks twice a second for commands that applications wrote into the outbox.

With LEVELQ_NOTIFY it also listens, and relays what it hears of at once (listening.py).

One relay at a time per partition: its lease is a key of the partition, and every push of a relay is
refused unless the lease still holds the token it began with. What must hold, whatever fails between two
steps, is that of one lane no command is pushed ahead of an earlier one that may be missing in Redis;
a command pushed twice is harmless, because the ledger knows its id.

1. Rows are marked, the mark is committed, then they are pushed, in order of id: an unmarked row was never
   pushed. No row is locked while the relay talks to Redis.
2. After anything that may have cost a push (a new lease, a restart of the server, an error, a refusal) every
   marked row is doubtful: a new epoch. So is a row that is not decided in time, however it was lost.
3. A lane with a doubtful row gets no new ones. Once it is empty and unclaimed, checked in the step that
   pushes, its marked rows are pushed again, in order.
4. While a partition's gate is closed (relay_filling.py) nothing is claimed or relayed: what Redis lost is
   put back first.

What an older replica promoted to primary can still disorder: commands sent by a Producer against those of
the outbox. The new primary runs another server, so all marked rows are doubtful and those of one lane are
still pushed in their order. But it has lanes and an open gate of its own, so nothing is put back at their
heads: a command that a producer sends to it at once takes effect before an outbox command of the same lane
that it lost, and commands of producers that it lost are gone. It may also still hold commands that were
applied: the ledger answers those. The same is true of a server that lost the tail of its AOF; and after
FLUSHALL, of a producer's command that a drain had in hand at that moment: it may be applied after what
followed it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection
from contextlib import suppress

from redis.exceptions import RedisError
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from levelq_core.database.engine import engine_for
from levelq_core.database.sqlstate import in_words
from levelq_core.errors import WrongDatabase
from levelq_core.keys import Partition
from levelq_core.lanes.client import Lanes
from levelq_core.lanes.wakeups import Waker
from levelq_core.redis_client.pool import connect
from levelq_core.settings import Settings
from levelq_worker.support.binding import Binding
from levelq_worker.support.outage import alerts_of
from levelq_worker.support.partition_directory import PartitionDirectory
from levelq_worker.support.stop import Stop

from .listener import Listener, Notifier
from .outbox_rows import OutboxRows
from .partition import WINDOW, PartitionRelay
from .resharding import Resharding
from .restore import OutboxRestore

log = logging.getLogger("levelq")

POLL_SECONDS = 0.5  # a command is pushed within this time of its commit, and the time of the push
MOST_SECONDS = 4.0  # between two rounds while they fail, at most half a claim
REST_SECONDS = 0.02  # after a round for what was heard of: a burst of commits rings more often than a round is worth


class Relay(threading.Thread):
    """Relays the outbox of these specializations, where no other worker does.

    `binding`: the worker's; without one the relay verifies by itself.
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
        self._places = PartitionDirectory(self._lanes, specializations)
        self._resharding = Resharding(self._lanes, OutboxRestore(self._lanes, self._rows, self._waker), self._waker)
        self._relays: dict[Partition, PartitionRelay] = {}
        self._notices = alerts_of(redis, settings, "relay")
        self._failures = 0
        self._bell = Notifier()
        self._listener = Listener(settings, self._bell) if settings.notify else None

    def run(self) -> None:
        """Poll until stopped; in between, relay at once what the listener hears of."""
        if self._listener is not None:
            self._listener.start()
        due = 0.0
        while not self._stopped.is_set():
            heard = self._bell.wait(due - time.monotonic())
            if time.monotonic() >= due:
                due = time.monotonic() + self._pause(self.poll())
            elif heard and not self._failures:
                due = 0.0 if self.hear(heard) >= WINDOW else due
                self._stopped.wait(REST_SECONDS)
        self.release()

    def _pause(self, pushed: int) -> float:
        most = max(POLL_SECONDS, min(MOST_SECONDS, self._settings.claim_seconds / 2))
        return 0.0 if pushed >= WINDOW else min(most, POLL_SECONDS * 2.0 ** min(self._failures, 8))

    def poll(self) -> int:
        """One round over all partitions; how many commands were pushed. A failure is said once."""
        try:
            self._binding.verify(self._lanes, self._engine)
            known = self._places.read()
        except WrongDatabase:  # the worker stops, and says why
            return 0
        except Exception as error:  # whatever it is: without a relay the outbox stands still
            self._note(error)
            return 0
        failed: Exception | None = None
        try:
            if self._resharding.tend(self._places, known):
                known = self._places.read()
        except Exception as error:  # of a cluster, a server may be away: the others' lanes go on
            failed = error
        open_ = [partition for partition in known if self._places.open(partition)]
        for partition in self._relays.keys() - set(open_):
            self._drop(partition)
        return self._round(open_, failed)

    def _drop(self, partition: Partition) -> None:
        """Commands no longer go there."""
        with suppress(RedisError):  # then the lease runs out
            self._relays.pop(partition).release()

    def hear(self, specializations: Collection[str]) -> int:
        """The same over those partitions of these that we have the lease of; of others their relay has heard, too."""
        if self._binding.refused is not None:
            return 0
        return self._round(
            [p for p, relay in self._relays.items() if relay.leads and p.specialization in specializations]
        )

    def _round(self, places: Collection[Partition], error: Exception | None = None) -> int:
        pushed = 0
        for partition in places:
            try:
                pushed += self._of(partition).poll()
            except Exception as found:
                self._of(partition).doubt()
                error = found
            if self._stopped.is_set():
                break
        self._note(error)
        return pushed

    def elsewhere(self) -> bool:
        """Whether rows wait that only other workers may push, which have the leases."""
        try:
            return any(relay.elsewhere() for relay in self._relays.values())
        except SQLAlchemyError as error:
            self._note(error)
            return False

    def _note(self, error: Exception | None) -> None:
        if error is None:
            if self._failures:
                self._notices.withdraw()
            self._failures = 0
            return
        if not self._failures:
            expected = isinstance(error, RedisError | SQLAlchemyError)
            log.warning("relay: %s", _in_words(error), exc_info=None if expected else error)
        self._failures += 1
        self._notices.post(f"relay: {_in_words(error)}")
        self._engine.dispose()  # a session may stay useless, read-only for one, where a new one would not be
        self._binding.reread()

    def release(self) -> None:
        """Give up the leases and the connections."""
        if self._listener is not None:
            self._listener.stop()
        try:
            for relay in self._relays.values():
                relay.release()
            if self._failures:
                self._notices.withdraw()
        except RedisError:
            pass  # the leases run out
        finally:
            self._lanes.redis.close()
            self._rq.close()
            self._engine.dispose()

    def stop(self) -> None:
        """Ask it to end, and wait for the round under way."""
        self._stopped.set()
        self._bell.ring()
        if self.is_alive():
            self.join(2 * self._settings.redis_seconds)

    def _of(self, partition: Partition) -> PartitionRelay:
        if partition not in self._relays:
            layout = self._places.layouts[partition.specialization]
            self._relays[partition] = PartitionRelay(
                partition, self._lanes, self._rows, self._waker, self._settings, layout
            )
        return self._relays[partition]


def _in_words(error: Exception) -> str:
    if isinstance(error, DBAPIError) and isinstance(error.orig, Exception):
        return f"PostgreSQL: {in_words(error.orig)}"
    return f"{'Redis: ' if isinstance(error, RedisError) else ''}{in_words(error)}"
