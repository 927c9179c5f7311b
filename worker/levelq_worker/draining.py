"""The drain: claim ready lanes, apply their commands, acknowledge them, until none is left.

Read `Drain.run` and `Drain._take`: that is the whole path of a command from its lane to COMMIT.
"""

from __future__ import annotations

import logging
import time
from uuid import uuid4

from redis.exceptions import RedisError
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from levelq_core import replies
from levelq_core.errors import SchemaError
from levelq_core.faults import point
from levelq_core.partitions import Partition
from levelq_core.scripts import Claim
from levelq_core.sqlstate import Meaning, classify, in_words

from .batch import Batch
from .relay_filling import Filling
from .relay_rows import OutboxRows
from .runtime import Runtime, current

log = logging.getLogger("levelq")

GATE_SECONDS = 0.05  # between two looks at a gate that somebody else is about to open
RENEWALS = 10  # of one claim: a batch that needs more is stuck, and its lanes go to somebody else


def drain(partition: str) -> None:
    """What the RQ job runs: drain one partition (`PLAYER:1:0`, or `PLAYER` for its first shard).

    Returns when nothing is due, after a slice of time, or when the worker is asked to stop.
    Raises ConfigurationError for a name that is none.
    """
    Drain(current(), Partition.parse(partition)).run()


class Drain:
    """One run over one partition."""

    def __init__(self, runtime: Runtime, partition: Partition) -> None:
        self._runtime = runtime
        self._partition = partition
        self._id = uuid4().hex
        self._renewals = 0

    def run(self) -> None:
        """Take batches until nothing is due or the slice is over."""
        runtime, partition = self._runtime, self._partition
        ends = time.monotonic() + runtime.settings.slice_seconds
        while True:
            try:
                if runtime.weather.bad:
                    runtime.transaction.probe()  # claim nothing that could not be applied
                token = uuid4().hex
                claim = runtime.lanes.claim(partition, self._id, token, runtime.commands, gated=True)
                if claim.unfilled:
                    self._fill()
                if claim.wake:
                    runtime.waker.wake(partition)
                for user in claim.broken:
                    log.error("%s of %r is not a list; looked at again in a minute", partition.key("lane"), user)
                if claim.retired:
                    return
                if claim.lanes:
                    self._take(claim, token)
            except (RedisError, SQLAlchemyError, SchemaError) as error:
                runtime.weather.failed(_in_words(error))
            if runtime.stop.is_set() or time.monotonic() > ends:
                self._yield()
                return

    def _take(self, claim: Claim, token: str) -> None:
        """Decode, apply, reply, acknowledge."""
        runtime = self._runtime
        self._renewals = 0
        point("decode")
        batch = Batch(self._partition.specialization, claim)
        try:
            aside = runtime.transaction.apply(batch.works, batch.rubbish, lambda: self._renew(batch, token))
        except Exception as error:
            self._abandon(batch, token, error)
            return
        self._committed(batch, len(aside))
        replies.write(runtime.lanes.redis, batch.replies(), runtime.settings.reply_seconds)
        acknowledged = batch.acknowledgements(aside, runtime.settings.lock_ms)
        runtime.lanes.ack(self._partition, token, acknowledged)

    def _fill(self) -> None:
        """Redis holds nothing of this partition: what the outbox had goes in first."""
        runtime = self._runtime
        filling = Filling(runtime.lanes, OutboxRows(runtime.engine), runtime.waker, runtime.settings.shards)
        if not filling.open(self._partition):
            runtime.stop.wait(GATE_SECONDS)

    def _committed(self, batch: Batch, aside: int) -> None:
        runtime = self._runtime
        runtime.weather.passed()
        runtime.commands = min(runtime.settings.batch_commands, runtime.commands * 2)
        if aside:
            log.warning("%s: %d lanes put aside: other code holds their rows or users", self._partition, aside)
        if batch.rubbish:
            log.error("%s: %d entries quarantined", self._partition, len(batch.rubbish))
        newer = next((lane.newer for lane in batch.lanes if lane.newer), None)
        if newer:
            log.error("%s: lanes wait for a newer worker: %s", self._partition, newer)

    def _abandon(self, batch: Batch, token: str, error: Exception) -> None:
        """Nothing was decided, or it is unknown: give the lanes back and wait. The ledger knows the rest."""
        runtime = self._runtime
        runtime.lanes.ack(self._partition, token, batch.release())
        cause = error.orig if isinstance(error, DBAPIError) and isinstance(error.orig, Exception) else error
        if classify(cause) is Meaning.TOO_LARGE and batch.entries > 1:
            runtime.commands = max(1, batch.entries // 2)
            log.warning("%s: batch of %d halved: %s", self._partition, batch.entries, in_words(cause))
            return
        runtime.weather.failed(_in_words(error), unexpected=not isinstance(error, SQLAlchemyError | SchemaError))

    def _renew(self, batch: Batch, token: str) -> None:
        """Extend the claims between two steps; never in the background, where a hung worker would go on."""
        self._renewals += 1
        if self._renewals <= RENEWALS:
            users = [lane.user for lane in batch.lanes]
            self._runtime.lanes.renew(self._partition, self._id, token, users)

    def _yield(self) -> None:
        """Make room for other partitions; a successor goes on if anything is due."""
        try:
            if self._runtime.lanes.yield_(self._partition, self._id):
                self._runtime.waker.wake(self._partition)
        except RedisError as error:
            log.warning("%s: not handed over (%s); a sweep will", self._partition, error)


def _in_words(error: Exception) -> str:
    if isinstance(error, DBAPIError) and isinstance(error.orig, Exception):
        return f"PostgreSQL: {in_words(error.orig)}"
    return f"{'Redis: ' if isinstance(error, RedisError) else ''}{in_words(error)}"
