"""The drain: claim ready lanes, apply their commands, acknowledge them, until none is left.

Read `Drain._step` and `Drain._take`: that is the whole path of a command from its lane to COMMIT. While there is more
than one claim holds, the next is asked for before this one is applied and decoded while COMMIT is written to disk, and
an acknowledgement is not waited for: Redis runs one script at a time, and with one command in each lane a worker
waited for it a third of its time.
"""

from __future__ import annotations

import logging
import math
import time
from functools import partial

from redis.exceptions import RedisError
from sqlalchemy.exc import SQLAlchemyError

from levelq_core.database.sqlstate import ErrorClass, classify, in_words
from levelq_core.errors import SchemaError, WrongDatabase
from levelq_core.failpoints import failpoint
from levelq_core.keys import Partition
from levelq_core.lanes import outcome_streams as replies
from levelq_core.redis_client.wrong_type import is_wrong_type
from levelq_core.untrusted_text import MOST_SHOWN
from levelq_worker.relay.outbox_rows import OutboxRows
from levelq_worker.relay.restore import OutboxRestore
from levelq_worker.support.outage import describe

from .batch import Batch
from .claims import Claims, Held
from .context import Runtime, current
from .transaction import Applied

log = logging.getLogger("levelq")

GATE_SECONDS = 0.05  # between two looks at a gate that somebody else is about to open


def drain(partition: str) -> None:
    """What the RQ job runs: drain one partition (`PLAYER:1:0`, or `PLAYER` for its first shard).

    Returns when nothing is due, after a slice of time, sooner where cores are short, or when the worker is to stop.
    Raises ConfigurationError for a name that is none, WrongDatabase if the namespace is bound to another database.
    """
    Drain(current(), Partition.parse(partition)).run()


class Drain:
    """One run over one partition."""

    def __init__(self, runtime: Runtime, partition: Partition) -> None:
        self._runtime = runtime
        self._partition = partition
        self._claims = Claims(runtime, partition)
        self._entries = 0  # of the batch in hand
        self._ends = math.inf

    def run(self) -> None:
        """Take batches until nothing is due, the slice is over, or cores are short. Raises WrongDatabase."""
        if self._runtime.binding.refused is not None:
            raise self._runtime.binding.refused
        self._runtime.seats.watch()
        self._ends = time.monotonic() + self._runtime.settings.slice_seconds
        retired = False
        try:
            while not retired and not self._over():
                retired = self._step()
        except WrongDatabase:
            retired = not self._runtime.binding.verified  # nothing was claimed: a successor would be refused as well
            raise
        finally:
            if not retired:
                self._leave()

    def _over(self) -> bool:
        """Whether to end. What was claimed ahead is applied first, unless the worker must stop."""
        if self._runtime.stop.is_set():
            return True
        return not self._claims.ahead and (time.monotonic() > self._ends or self._runtime.seats.surplus())

    def _step(self) -> bool:
        """Claim, and take what was claimed; True if nothing was due, so that the drain is retired."""
        runtime, partition = self._runtime, self._partition
        self._entries = 0
        try:
            if runtime.weather.bad:
                runtime.transaction.probe()  # claim nothing that could not be applied
            runtime.binding.verify(runtime.lanes, runtime.engine)
            held = self._claims.take()
            claim = held.claim
            if claim.blocked:
                return self._fill()
            if claim.wake:
                runtime.waker.wake(partition)
            for user in claim.broken:
                what = "%s of %r is not a list; looked at again in a minute"
                key, shown = runtime.lanes.keys.of(partition, "lane"), user[:MOST_SHOWN]
                runtime.cause_log.log(logging.ERROR, (partition, shown), what, key, shown)
            if claim.lanes:
                self._take(held)
            return claim.retired
        except WrongDatabase:
            raise
        except Exception as error:  # a mistake of ours, too: RQ would call the job failed, and nobody would wait
            self._failed(error)
            return False

    def _take(self, held: Held) -> None:
        """Decode, apply, reply, acknowledge."""
        runtime, claims = self._runtime, self._claims
        try:
            if held.full and not self._over():
                claims.ask_ahead()
            failpoint("decode")
            batch = held.batch
            self._entries = batch.entries
            if claims.aged(held):
                claims.renew(held)
            renew = partial(claims.renew, held)
            applied = runtime.transaction.apply(
                batch.works, batch.quarantined, renew, meanwhile=claims.listen, committing=claims.hear_ahead
            )
            self._committed(batch, applied)
            replies.write(runtime.lanes.redis, runtime.lanes.keys, batch.replies(), runtime.settings.reply_seconds)
            parked = applied.parked
            claims.ack(held, batch.acknowledgements(parked, runtime.settings.lock_ms), batch.reasons(parked))
            if any(lane.locked for lane in parked) and (ended := runtime.transaction.end_overdue()):
                log.warning("%s: %d transactions of stopped workers ended", self._partition, ended)
        except BaseException:
            claims.abandon(held.token, held.claim)
            raise

    def _fill(self) -> bool:
        """Redis holds nothing of this partition: what the outbox had goes in first.

        True: nothing of it is due yet, after a change of shards. Whoever finds the generation before empty wakes it.
        """
        runtime = self._runtime
        filling = OutboxRestore(runtime.lanes, OutboxRows(runtime.engine), runtime.waker)
        if filling.is_blocked(self._partition):
            return True
        if not filling.ensure_restored(self._partition):
            runtime.stop.wait(GATE_SECONDS)
        return False

    def _committed(self, batch: Batch, applied: Applied) -> None:
        runtime = self._runtime
        runtime.weather.passed()
        if applied.parked:
            runtime.cause_log.parked(self._partition, applied.parked)
        if not any(lane.locked for lane in applied.parked):
            runtime.batch_size.took(batch.entries, applied.seconds, applied.empty_seconds)
        if batch.quarantined:
            log.error("%s: %d entries quarantined", self._partition, len(batch.quarantined))
        newer = next((lane.newer for lane in batch.lanes if lane.newer), None)
        if newer:
            what = "%s: lanes wait for a newer worker: %s"
            runtime.cause_log.log(logging.ERROR, (self._partition, newer), what, self._partition, newer)

    def _failed(self, error: Exception) -> None:
        """Take less the next time if it was too much; end if a key of the partition holds another type; else wait."""
        runtime = self._runtime
        self._claims.give_back(error)
        if is_wrong_type(error):  # other partitions go on; `levelq status` names the key
            what = "%s: %s; `levelq status` names the key"
            runtime.cause_log.log(logging.ERROR, (self._partition, "type"), what, self._partition, in_words(error))
            self._ends = 0.0
            return
        if classify(error) is ErrorClass.TOO_SLOW and self._entries > 1:
            runtime.batch_size.too_much(self._entries)
            log.warning("%s: batch of %d halved: %s", self._partition, self._entries, in_words(error))
            return
        expected = isinstance(error, RedisError | SQLAlchemyError | SchemaError)
        runtime.engine.dispose()  # a session may stay useless, read-only for one, where a new one would not be
        runtime.binding.reread()
        runtime.weather.failed(describe(error), unexpected=not expected)

    def _leave(self) -> None:
        """Make room for other partitions; a successor goes on if anything is due."""
        try:
            self._claims.yield_()
        except RedisError as error:
            what = "%s: not handed over (%s); a sweep will"
            cause = self._partition, "not handed over"
            self._runtime.cause_log.log(logging.WARNING, cause, what, self._partition, in_words(error))
