"""The claims of one drain: the one in hand, the one prefetched, and the acknowledgement that is not confirmed yet."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import NamedTuple
from uuid import uuid4

from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from levelq_core.keys import Partition
from levelq_core.lanes.parked import Acknowledgements, Reasons
from levelq_core.lanes.pending_reply import PendingReply
from levelq_core.lanes.protocol import Claim
from levelq_worker.support.worker_name import worker_name

from .batch import Batch
from .context import Runtime

MOST_RENEWALS = 10  # of one claim: a batch that needs more is stuck, and its lanes go to another worker
OLD = 0.1  # of a claim's length: one that has waited longer for its turn is renewed before it is applied


class PendingClaim(NamedTuple):
    """A claim that was sent, for `commands` at most; Redis has yet to reply."""

    token: str
    commands: int
    sent_at: float
    reply: PendingReply[Claim]


class HeldClaim:
    """A claim in hand: lanes that are this drain's until the claim runs out.

    `is_full`: it took as much as it may, so there is probably more.
    """

    def __init__(self, specialization: str, pending: PendingClaim, claim: Claim, is_full: bool) -> None:
        self.token = pending.token
        self.claimed_at = pending.sent_at
        self.claim = claim
        self.is_full = is_full
        self._specialization = specialization
        self._batch: Batch | None = None

    def decode(self) -> Batch:
        """Its commands. They are decoded once."""
        if self._batch is None:
            self._batch = Batch(self._specialization, self.claim)
        return self._batch


class Claims:
    """Claims, acknowledges and releases lanes for one drain of one partition. Raises redis-py's errors."""

    def __init__(self, runtime: Runtime, partition: Partition) -> None:
        self._runtime = runtime
        self._partition = partition
        self._drain = uuid4().hex
        self._next: PendingClaim | HeldClaim | None = None
        self._last_ack: PendingReply[list[int]] | None = None
        self._renewals = 0

    @property
    def has_prefetched(self) -> bool:
        """Whether the next claim was sent already."""
        return self._next is not None

    def claim(self) -> HeldClaim:
        """The prefetched claim, or a new one."""
        following, self._next = self._next, None
        self._renewals = 0
        if following is None:
            # First, because it may find lanes due again, which a drain that is retired would leave to the sweep.
            self.confirm_last_ack()
            following = self._send(holding=False)
        return self._receive(following)

    def prefetch(self) -> None:
        """Send the next claim while one is in hand."""
        self._next = self._send(holding=True)

    def decode_prefetched(self) -> None:
        """Receive the prefetched claim and decode it.

        Raises nothing, because COMMIT's answer must be received next: a lost claim is replaced, and an entry that
        cannot be decoded raises again in its turn.
        """
        following, self._next = self._next, None
        with suppress(Exception):
            if following is not None:
                self._next = self._receive(following)
                self._next.decode()

    def _send(self, *, holding: bool) -> PendingClaim:
        token = f"{worker_name()} {uuid4().hex}"  # user_lane.worker_in reads the name
        commands = self._runtime.batch_size.commands
        begin_claim = self._runtime.lanes.begin_claim
        reply = begin_claim(self._partition, self._drain, token, commands, restored_only=True, holding=holding)
        return PendingClaim(token, commands, time.monotonic(), reply)

    def _receive(self, following: PendingClaim | HeldClaim) -> HeldClaim:
        if isinstance(following, HeldClaim):
            return following
        claim = following.reply.result()
        is_full = len(claim.lanes) >= self._runtime.settings.batch_lanes or claim.entries >= following.commands
        return HeldClaim(self._partition.specialization, following, claim, is_full)

    def renew_if_old(self, held: HeldClaim) -> None:
        """Extend a claim that has waited for its turn."""
        if time.monotonic() - held.claimed_at > OLD * self._runtime.settings.claim_seconds:
            self.renew(held)

    def renew(self, held: HeldClaim) -> None:
        """Extend a claim between two steps; never in the background, where a hung worker would keep its lanes."""
        self._renewals += 1
        if self._renewals <= MOST_RENEWALS:
            users = [user for user, _ in held.claim.lanes]
            self._runtime.lanes.renew(self._partition, self._drain, held.token, users)

    def ack(self, held: HeldClaim, acknowledgements: Acknowledgements, reasons: Reasons = None) -> None:
        """Remove what was decided and release the lanes. The reply is received by `confirm_last_ack`."""
        self.confirm_last_ack()
        self._last_ack = self._runtime.lanes.begin_ack(self._partition, held.token, acknowledgements, reasons)

    def confirm_last_ack(self) -> None:
        """Receive the reply to the last acknowledgement."""
        last, self._last_ack = self._last_ack, None
        if last:
            last.result()

    def release(self, held: HeldClaim) -> None:
        """Give the lanes back as they are. If Redis is away, the claim runs out."""
        with suppress(RedisError):
            self._runtime.lanes.ack(self._partition, held.token, [(user, 0, b"") for user, _ in held.claim.lanes])

    def release_all(self, error: Exception | None = None) -> None:
        """Receive what is outstanding and release the prefetched claim.

        After a timeout (`error`) nothing is received: each reply would take as long again, and the claims run out.
        """
        following, self._next = self._next, None
        if isinstance(error, RedisTimeoutError):
            if isinstance(following, PendingClaim):
                following.reply.cancel()
            if self._last_ack:
                self._last_ack.cancel()
            self._last_ack = None
            return
        with suppress(RedisError):
            self.confirm_last_ack()
        with suppress(RedisError):
            if following:
                held = self._receive(following)
                if held.claim.lanes:
                    self.release(held)
                if held.claim.wake:
                    self._runtime.waker.wake(self._partition)

    def yield_(self) -> None:
        """End the drain; a successor goes on if anything is due."""
        self.release_all()
        if self._runtime.lanes.yield_(self._partition, self._drain):
            self._runtime.waker.wake(self._partition)
