"""The claims of one drain: the one in hand, the next one asked for, and an acknowledgement not yet answered."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple
from uuid import uuid4

from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from levelq_core.keys import Partition
from levelq_core.lanes.parked import Acknowledgements, Reasons
from levelq_core.lanes.pending_reply import PendingReply
from levelq_core.lanes.protocol import Claim

from .batch import Batch
from .context import Runtime

RENEWALS = 10  # of one claim: a batch that needs more is stuck, and its lanes go to somebody else
AGED = 0.1  # of a claim: one that has waited longer for its turn is renewed before it is applied


class PendingClaim(NamedTuple):
    """A claim that was asked for: for how many commands at most, when, and where Redis will answer."""

    token: str
    commands: int
    at: float
    answer: PendingReply[Claim]


@dataclass
class Held:
    """A claim in hand. `full`: it took as much as it may, so that there is probably more."""

    specialization: str
    token: str
    claim: Claim
    at: float
    full: bool

    @cached_property
    def batch(self) -> Batch:
        """Its commands, decoded when they are first asked for."""
        return Batch(self.specialization, self.claim)


class Claims:
    """Asks, acknowledges and gives back for one drain over one partition. Raises redis-py's errors."""

    def __init__(self, runtime: Runtime, partition: Partition) -> None:
        self._runtime = runtime
        self._partition = partition
        self._drain = uuid4().hex
        self._next: PendingClaim | Held | None = None
        self._acked: PendingReply[list[int]] | None = None
        self._renewals = 0

    @property
    def ahead(self) -> bool:
        """Whether the next one was asked for already."""
        return self._next is not None

    def take(self) -> Held:
        """The next claim."""
        following, self._next = self._next or self._ask(), None
        self._renewals = 0
        return self._hear(following)

    def _hear(self, following: PendingClaim | Held) -> Held:
        if isinstance(following, Held):
            return following
        claim = following.answer.result()
        full = len(claim.lanes) >= self._runtime.settings.batch_lanes or claim.entries >= following.commands
        return Held(self._partition.specialization, following.token, claim, following.at, full)

    def listen(self) -> None:
        """Take in what Redis has answered so far to the claim that was asked for ahead. Raises nothing, as below."""
        if isinstance(self._next, PendingClaim):
            with suppress(Exception):
                self._next.answer.poll()

    def hear_ahead(self) -> None:
        """Decode the claim that was asked for ahead, if all of it is here by now.

        Raises nothing: a claim that went wrong is asked for anew, an entry that cannot be decoded met again, by `take`.
        """
        with suppress(Exception):
            if isinstance(self._next, PendingClaim) and self._next.answer.poll():
                asked, self._next = self._next, None
                self._next = held = self._hear(asked)
                held.batch  # noqa: B018 - decoded, and kept

    def ask_ahead(self) -> None:
        """Ask for the next claim while one is in hand."""
        self._next = self._ask(holding=True)

    def _ask(self, *, holding: bool = False) -> PendingClaim:
        """With nothing in hand, the last acknowledgement comes first: it may find lanes due again, and a drain that was
        retired before would leave them to the sweep.
        """
        if not holding:
            self.hear_ack()
        token, commands = uuid4().hex, self._runtime.batch_size.commands
        ask = self._runtime.lanes.begin_claim
        answer = ask(self._partition, self._drain, token, commands, restored_only=True, holding=holding)
        return PendingClaim(token, commands, time.monotonic(), answer)

    def aged(self, held: Held) -> bool:
        """Whether it has waited so long for its turn that it should be renewed."""
        return time.monotonic() - held.at > AGED * self._runtime.settings.claim_seconds

    def renew(self, held: Held) -> None:
        """Extend it between two steps; never in the background, where a hung worker would go on."""
        self._renewals += 1
        if self._renewals <= RENEWALS:
            users = [user for user, _ in held.claim.lanes]
            self._runtime.lanes.renew(self._partition, self._drain, held.token, users)

    def ack(self, held: Held, acknowledgements: Acknowledgements, reasons: Reasons = None) -> None:
        """Remove what was decided and release the lanes; whether that was done is heard later."""
        self.hear_ack()
        self._acked = self._runtime.lanes.begin_ack(self._partition, held.token, acknowledgements, reasons)

    def hear_ack(self) -> None:
        """Make sure of the last acknowledgement."""
        acked, self._acked = self._acked, None
        if acked:
            acked.result()

    def abandon(self, token: str, claim: Claim) -> None:
        """Give lanes back as they are. Nothing was decided, or it is unknown; the ledger knows."""
        with suppress(RedisError):  # then the claims run out
            self._runtime.lanes.ack(self._partition, token, [(user, 0, b"") for user, _ in claim.lanes])

    def give_back(self, error: Exception | None = None) -> None:
        """Have nothing asked for and nothing unheard: what was claimed ahead is released, or its claims run out."""
        following, self._next = self._next, None
        if isinstance(error, RedisTimeoutError):  # each would be waited for as long again
            acked, self._acked = self._acked, None
            for answer in (following.answer if isinstance(following, PendingClaim) else None, acked):
                if answer:
                    answer.cancel()
            return
        with suppress(RedisError):
            self.hear_ack()
        with suppress(RedisError):
            if following:
                self._release(self._hear(following))

    def _release(self, held: Held) -> None:
        if held.claim.lanes:
            self.abandon(held.token, held.claim)
        if held.claim.wake:
            self._runtime.waker.wake(self._partition)

    def yield_(self) -> None:
        """End the drain; a successor goes on if anything is due."""
        self.give_back()
        if self._runtime.lanes.yield_(self._partition, self._drain):
            self._runtime.waker.wake(self._partition)
