"""The drain: claim ready lanes, apply their commands, acknowledge them, until none is left.

Read `Drain._step` and `Drain._take`: that is the whole path of a command from its lane to COMMIT. While there is more
than one claim holds, the next is asked for before this one is applied, and an acknowledgement is not waited for:
Redis runs one script at a time, and with one command in each lane a worker waited for it a third of its time.
"""

from __future__ import annotations

import logging
import math
import time
from contextlib import suppress
from typing import NamedTuple
from uuid import uuid4

from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from levelq_core import replies
from levelq_core.errors import SchemaError
from levelq_core.faults import point
from levelq_core.lanes import Answer
from levelq_core.partitions import Partition
from levelq_core.scripts import Claim
from levelq_core.sqlstate import Meaning, classify, in_words

from .batch import Batch
from .relay_filling import Filling
from .relay_rows import OutboxRows
from .runtime import Runtime, current
from .transaction import Applied

log = logging.getLogger("levelq")

GATE_SECONDS = 0.05  # between two looks at a gate that somebody else is about to open
RENEWALS = 10  # of one claim: a batch that needs more is stuck, and its lanes go to somebody else
AGED = 0.1  # of a claim: one that has waited longer for its turn is renewed before it is applied


def drain(partition: str) -> None:
    """What the RQ job runs: drain one partition (`PLAYER:1:0`, or `PLAYER` for its first shard).

    Returns when nothing is due, after a slice of time, or when the worker is asked to stop.
    Raises ConfigurationError for a name that is none.
    """
    Drain(current(), Partition.parse(partition)).run()


class Asked(NamedTuple):
    """A claim that was asked for: for how many commands at most, when, and where Redis will answer."""

    token: str
    commands: int
    at: float
    answer: Answer[Claim]


class Drain:
    """One run over one partition."""

    def __init__(self, runtime: Runtime, partition: Partition) -> None:
        self._runtime = runtime
        self._partition = partition
        self._id = uuid4().hex
        self._renewals = 0
        self._entries = 0  # of the batch in hand
        self._ends = math.inf
        self._next: Asked | None = None
        self._acked: Answer[list[int]] | None = None  # not heard yet

    def run(self) -> None:
        """Take batches until nothing is due or the slice is over."""
        self._ends = time.monotonic() + self._runtime.settings.slice_seconds
        retired = False
        try:
            while not retired and not self._over():
                retired = self._step()
        finally:
            if not retired:
                self._leave()

    def _over(self) -> bool:
        """Whether to end. When the slice is over, what was claimed ahead is applied first; when it must stop, not."""
        return self._runtime.stop.is_set() or (self._next is None and time.monotonic() > self._ends)

    def _step(self) -> bool:
        """Claim, and take what was claimed; True if nothing was due, so that the drain is retired."""
        runtime, partition = self._runtime, self._partition
        self._entries = 0
        try:
            if runtime.weather.bad:
                runtime.transaction.probe()  # claim nothing that could not be applied
            asked, self._next = self._next or self._ask(), None
            claim = asked.answer.read()
            if claim.unfilled:
                self._fill()
            if claim.wake:
                runtime.waker.wake(partition)
            for user in claim.broken:
                log.error("%s of %r is not a list; looked at again in a minute", partition.key("lane"), user)
            if claim.lanes:
                self._take(claim, asked)
            return claim.retired
        except Exception as error:  # a mistake of ours, too: RQ would call the job failed, and nobody would wait
            self._failed(error)
            return False

    def _take(self, claim: Claim, asked: Asked) -> None:
        """Decode, apply, reply, acknowledge."""
        runtime, token = self._runtime, asked.token
        self._renewals = 0
        try:
            if not self._over() and self._full(claim, asked):
                self._next = self._ask(holding=True)
            point("decode")
            batch = Batch(self._partition.specialization, claim)
            self._entries = batch.entries
            if time.monotonic() - asked.at > AGED * runtime.settings.claim_seconds:
                self._renew(batch, token)
            applied = runtime.transaction.apply(batch.works, batch.rubbish, lambda: self._renew(batch, token))
            self._committed(batch, applied)
            replies.write(runtime.lanes.redis, batch.replies(), runtime.settings.reply_seconds)
            acknowledgements = batch.acknowledgements(applied.aside, runtime.settings.lock_ms)
            self._hear_ack()
            self._acked = runtime.lanes.begin_ack(self._partition, token, acknowledgements)
            if applied.aside and (ended := runtime.transaction.end_overdue()):
                log.warning("%s: %d transactions of stopped workers ended", self._partition, ended)
        except BaseException:
            self._abandon(claim, token)
            raise

    def _ask(self, *, holding: bool = False) -> Asked:
        """Ask for a claim; `holding`: while a batch is in hand.

        With nothing in hand, the last acknowledgement comes first: it may find lanes due again, and a drain that was
        retired before would leave them to the sweep.
        """
        if not holding:
            self._hear_ack()
        token, commands = uuid4().hex, self._runtime.batch_size.commands
        answer = self._runtime.lanes.begin_claim(
            self._partition, self._id, token, commands, gated=True, holding=holding
        )
        return Asked(token, commands, time.monotonic(), answer)

    def _full(self, claim: Claim, asked: Asked) -> bool:
        """Whether the claim took as much as it may, so that there is probably more."""
        lanes = claim.lanes
        return len(lanes) >= self._runtime.settings.batch_lanes or claim.entries >= asked.commands

    def _hear_ack(self) -> None:
        """Make sure of the last acknowledgement."""
        if acked := self._acked:
            self._acked = None
            acked.read()

    def _fill(self) -> None:
        """Redis holds nothing of this partition: what the outbox had goes in first."""
        runtime = self._runtime
        filling = Filling(runtime.lanes, OutboxRows(runtime.engine), runtime.waker, runtime.settings.shards)
        if not filling.open(self._partition):
            runtime.stop.wait(GATE_SECONDS)

    def _committed(self, batch: Batch, applied: Applied) -> None:
        runtime = self._runtime
        runtime.weather.passed()
        if applied.aside:
            held = len(applied.aside)
            log.warning("%s: %d lanes put aside: other code holds their rows or users", self._partition, held)
        else:
            runtime.batch_size.took(batch.entries, applied.seconds, applied.empty_seconds)
        if batch.rubbish:
            log.error("%s: %d entries quarantined", self._partition, len(batch.rubbish))
        newer = next((lane.newer for lane in batch.lanes if lane.newer), None)
        if newer:
            log.error("%s: lanes wait for a newer worker: %s", self._partition, newer)

    def _abandon(self, claim: Claim, token: str) -> None:
        """Give the lanes back as they are. Nothing was decided, or it is unknown; the ledger knows."""
        with suppress(RedisError):  # then the claims run out
            self._runtime.lanes.ack(self._partition, token, [(user, 0, b"") for user, _ in claim.lanes])

    def _give_back(self, error: Exception | None = None) -> None:
        """Have nothing asked for and nothing unheard: what was claimed ahead is released, or its claims run out."""
        asked, self._next = self._next, None
        acked, self._acked = self._acked, None
        if isinstance(error, RedisTimeoutError):  # each would be waited for as long again
            for answer in (asked and asked.answer, acked):
                if answer:
                    answer.drop()
            return
        with suppress(RedisError):
            if acked:
                acked.read()
        with suppress(RedisError):
            if asked:
                self._release(asked)

    def _release(self, asked: Asked) -> None:
        """Give back what was claimed ahead, and wake whom the claim said."""
        claim = asked.answer.read()
        if claim.lanes:
            self._abandon(claim, asked.token)
        if claim.wake:
            self._runtime.waker.wake(self._partition)

    def _failed(self, error: Exception) -> None:
        """Take less the next time if it was too much; else wait."""
        runtime = self._runtime
        self._give_back(error)
        cause = error.orig if isinstance(error, DBAPIError) and isinstance(error.orig, Exception) else error
        if classify(cause) is Meaning.TOO_LARGE and self._entries > 1:
            runtime.batch_size.too_much(self._entries)
            log.warning("%s: batch of %d halved: %s", self._partition, self._entries, in_words(cause))
            return
        expected = isinstance(error, RedisError | SQLAlchemyError | SchemaError)
        runtime.engine.dispose()  # a session may stay useless, read-only for one, where a new one would not be
        runtime.weather.failed(_in_words(error), unexpected=not expected)

    def _renew(self, batch: Batch, token: str) -> None:
        """Extend the claims between two steps; never in the background, where a hung worker would go on."""
        self._renewals += 1
        if self._renewals <= RENEWALS:
            users = [lane.user for lane in batch.lanes]
            self._runtime.lanes.renew(self._partition, self._id, token, users)

    def _leave(self) -> None:
        """Make room for other partitions; a successor goes on if anything is due."""
        self._give_back()
        try:
            if self._runtime.lanes.yield_(self._partition, self._id):
                self._runtime.waker.wake(self._partition)
        except RedisError as error:
            log.warning("%s: not handed over (%s); a sweep will", self._partition, error)


def _in_words(error: Exception) -> str:
    if isinstance(error, DBAPIError) and isinstance(error.orig, Exception):
        return f"PostgreSQL: {in_words(error.orig)}"
    return f"{'Redis: ' if isinstance(error, RedisError) else ''}{in_words(error)}"
