"""The drain: claim due lanes, decide their commands, commit, reply, acknowledge, until nothing is due.

`Drain._drain_batch` is the whole path of a batch, from top to bottom. While there is more than one claim holds, the
next one is prefetched: Redis works on it while PostgreSQL works on this one, and it is decoded while COMMIT is written
to disk. An acknowledgement is confirmed when the next one is sent. docs/performance.md has what each gains.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from functools import partial

import psycopg
from redis.exceptions import RedisError
from sqlalchemy.exc import SQLAlchemyError

from levelq_core.coupler.lane_batch import Parked
from levelq_core.database.sqlstate import ErrorClass, classify, in_words
from levelq_core.errors import SchemaError, WrongDatabase
from levelq_core.failpoints import failpoint
from levelq_core.keys import Partition
from levelq_core.lanes.outcome_streams import write as reply
from levelq_core.lanes.protocol import Claim
from levelq_core.log_events import log_event
from levelq_core.redis_client.wrong_type import is_wrong_type
from levelq_core.untrusted_text import MOST_SHOWN
from levelq_worker.relay.outbox_rows import OutboxRows
from levelq_worker.relay.restore import OutboxRestore
from levelq_worker.support.outage import describe

from .batch import Batch
from .claims import Claims, HeldClaim
from .context import Runtime, current
from .observing import DecidedBatch, Incident
from .transaction import Transaction

RESTORE_SECONDS = 0.05  # between two looks at claims that another worker is about to unblock


def drain(partition: str) -> None:
    """What the RQ job runs: drain one partition (`PLAYER:1:0`, or `PLAYER` for its first shard).

    Returns when nothing is due, after a slice of time (LEVELQ_SLICE_SECONDS), or when the worker is to stop. Raises
    ConfigurationError for an invalid name, WrongDatabase if the namespace is bound to another database.
    """
    Drain(current(), Partition.parse(partition)).run()


class Drain:
    """One run over one partition."""

    def __init__(self, runtime: Runtime, partition: Partition) -> None:
        self._runtime = runtime
        self._partition = partition
        self._claims = Claims(runtime, partition)
        self._entries = 0  # of the batch in hand
        self._begun: float | None = None
        self._ends_at = math.inf

    def run(self) -> None:
        """Drain batches until nothing is due or the slice is over. Raises WrongDatabase."""
        binding = self._runtime.binding
        if binding.refused is not None:
            raise binding.refused
        self._begun = time.monotonic()
        self._ends_at = self._begun + self._runtime.settings.slice_seconds
        retired = False
        try:
            while not retired and not self._is_over():
                retired = self.step()
        except WrongDatabase:
            retired = not binding.verified  # nothing was claimed, and a successor would be refused as well
            raise
        finally:
            if not retired:
                self._leave()
            self._runtime.activity.enter("idle")

    def step(self) -> bool:
        """Drain one batch; True if nothing was due, so that the drain is retired. Raises WrongDatabase.

        After any other error, a bug of levelq included, it waits: RQ would call the job failed and try no more.
        """
        try:
            return self._drain_batch()
        except WrongDatabase:
            raise
        except Exception as error:
            self._failed(error)
            return False

    def _drain_batch(self) -> bool:
        """The path of a batch, step by step; what it raises is handled by `step`."""
        runtime, claims, lanes = self._runtime, self._claims, self._runtime.lanes
        self._entries = 0
        if runtime.outage.bad:
            runtime.transactions.probe()  # claim nothing that could not be applied
        runtime.binding.verify(lanes, runtime.engine)
        runtime.activity.enter("draining", self._partition, since=self._begun)
        held = claims.claim()
        if held.claim.blocked:
            return self._restore()
        self._note_claim(held.claim)
        if not held.claim.lanes:
            return held.claim.retired
        try:
            if held.is_full and not self._is_over():
                claims.prefetch()
            failpoint("decode")
            batch = held.decode()
            self._entries = batch.entries
            claims.renew_if_old(held)
            runtime.activity.enter("transaction", self._partition)
            with runtime.transactions.open() as transaction:
                parked = transaction.decide(batch.lane_batches, batch.quarantined, partial(claims.renew, held))
                transaction.send_commit()
                claims.decode_prefetched()  # while PostgreSQL writes the commit to disk
                transaction.confirm_commit()
            runtime.activity.enter("draining", self._partition, since=self._begun)
            decided = self._note_commit(held, batch, parked, transaction)
            try:
                reply(lanes.redis, lanes.keys, batch.replies(), runtime.settings.reply_seconds)
                claims.ack(held, batch.acknowledgements(parked, runtime.settings.lock_ms), batch.reasons(parked))
            finally:
                runtime.observers.committed(decided)  # last, because senders wait for the replies
        except BaseException:
            claims.release(held)  # nothing was decided, or it is unknown: the ledger knows
            raise
        if any(lane.locked for lane in parked) and (ended := runtime.transactions.end_overdue()):
            what = "%(partition)s: %(transactions)d transactions of stopped workers ended"
            log_event(logging.WARNING, "transactions_ended", what, partition=self._partition, transactions=ended)
        return held.claim.retired

    def _is_over(self) -> bool:
        """Whether to end. A prefetched claim is drained first, unless the worker must stop."""
        return self._runtime.stop.is_set() or (not self._claims.has_prefetched and time.monotonic() > self._ends_at)

    def _restore(self) -> bool:
        """Redis has lost what it held of this partition: claims are blocked until the outbox's commands are back.

        True: nothing of it is due yet, after a change of shards; a wake-up follows when the older shards are empty.
        """
        runtime = self._runtime
        restore = OutboxRestore(runtime.lanes, OutboxRows(runtime.engine), runtime.waker)
        if restore.is_blocked(self._partition):
            return True
        if not restore.ensure_restored(self._partition):
            runtime.stop.wait(RESTORE_SECONDS)
        return False

    def _note_claim(self, claim: Claim) -> None:
        """Wake another drain if there is work for one; log lanes whose key is no list."""
        runtime, partition = self._runtime, self._partition
        if claim.wake:
            runtime.waker.wake(partition)
        if claim.returned:
            runtime.observers.met(Incident("claims_expired", partition.specialization, claim.returned))
        for user in claim.broken:
            what = "%(key)s of %(user)r is not a list; looked at again in a minute"
            key, shown = runtime.lanes.keys.of(partition, "lane"), user[:MOST_SHOWN]
            runtime.cause_log.log(logging.ERROR, (partition, shown), "lane_unreadable", what, key=key, user=shown)

    def _note_commit(
        self, held: HeldClaim, batch: Batch, parked: Sequence[Parked], transaction: Transaction
    ) -> DecidedBatch:
        """The outage is over; adapt the batch size; log what is parked and quarantined. Returns it for observers."""
        runtime, partition = self._runtime, self._partition
        claimed_seconds = time.monotonic() - held.claimed_at
        runtime.outage.passed()
        runtime.cause_log.log_parked(partition, parked)
        if not any(lane.locked for lane in parked):
            runtime.batch_size.adapt(batch.entries, transaction.seconds, transaction.empty_seconds)
        if batch.quarantined:
            what, entries = "%(partition)s: %(entries)d entries quarantined", len(batch.quarantined)
            log_event(logging.ERROR, "entries_quarantined", what, partition=partition, entries=entries)
        newer = next((lane.newer for lane in batch.lanes if lane.newer), None)
        if newer:
            what, cause = "%(partition)s: lanes wait for a newer worker: %(error)s", (partition, newer)
            runtime.cause_log.log(logging.ERROR, cause, "newer_version", what, partition=partition, error=newer)
        return DecidedBatch(
            partition=partition,
            lanes=batch.lane_batches,
            parked=parked,
            entries=batch.entries,
            quarantined=len(batch.quarantined),
            committed_ms=held.claim.at_ms + round(1000 * claimed_seconds),
            seconds=transaction.seconds,
            claimed_seconds=claimed_seconds,
            lock_seconds=transaction.lock_seconds,
        )

    def _failed(self, error: Exception) -> None:
        """Halve a batch that was too slow; end if a key of the partition holds another type; else wait."""
        runtime, partition = self._runtime, self._partition
        runtime.observers.met(Incident("batch_failed", partition.specialization, error=_error_class(error)))
        self._claims.release_all(error)
        if is_wrong_type(error):  # other partitions go on
            what, cause = "%(partition)s: %(error)s; `levelq status` names the key", (partition, "type")
            error_text = in_words(error)
            runtime.cause_log.log(logging.ERROR, cause, "key_unreadable", what, partition=partition, error=error_text)
            self._ends_at = 0.0
            return
        if classify(error) is ErrorClass.TOO_SLOW and self._entries > 1:
            runtime.batch_size.halve(self._entries)
            what, entries = "%(partition)s: batch of %(entries)d halved: %(error)s", self._entries
            why = in_words(error)
            log_event(logging.WARNING, "batch_halved", what, partition=partition, entries=entries, error=why)
            return
        runtime.engine.dispose()  # a new session may work where this one does not, as when it is read-only
        runtime.binding.reread()
        expected = isinstance(error, RedisError | SQLAlchemyError | SchemaError)
        runtime.activity.wait(describe(error))
        runtime.outage.failed(describe(error), unexpected=not expected)

    def _leave(self) -> None:
        """Make room for other partitions; a successor goes on if anything is due."""
        try:
            self._claims.yield_()
        except RedisError as error:
            what, partition = "%(partition)s: not handed over (%(error)s); a sweep will", self._partition
            cause, why = (partition, "not handed over"), in_words(error)
            log = self._runtime.cause_log.log
            log(logging.WARNING, cause, "not_handed_over", what, partition=partition, error=why)


def _error_class(error: Exception) -> str:
    """The class of an error that ended a batch, as Incident names it."""
    if isinstance(error, RedisError):
        return "redis"
    if isinstance(error, SchemaError):
        return "schema"
    return classify(error).name.lower() if isinstance(error, SQLAlchemyError | psycopg.Error) else "unexpected"
