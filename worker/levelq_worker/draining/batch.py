"""One claim as a batch: entries decoded into works, decisions turned into acknowledgements and replies."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from hashlib import sha1
from typing import NamedTuple

from levelq_core.coupler.lane_batch import LaneBatch, Parked
from levelq_core.domain import codec
from levelq_core.domain.codec import IDENTITY_AT, IDENTITY_BYTES, NewerVersion
from levelq_core.domain.commands import MAX_USER_ID
from levelq_core.domain.outcome import Outcome, outcome
from levelq_core.domain.record import Lane, Record, new_tuple
from levelq_core.lanes.outcome_streams import send_key
from levelq_core.lanes.parked import NEWER_VERSION
from levelq_core.lanes.protocol import Claim, Oversized

from .transaction import QuarantinedEntry

NEWER_DELAY_MS = 5_000  # until an entry of a later version is looked at again: a newer worker may take it
LONGEST_ASIDE = 5  # lock limits, half a claim: once its rows are free again, a lane is back within seconds
FIRST_ERROR_MS, LONGEST_ERROR_MS = 2_000, 60_000  # of a lane that an error follows: back within a minute of its end


class ClaimedLane(NamedTuple):
    """A lane of the claim: what its entries are, in order.

    `identities` has one for every entry that this worker can read, of commands and quarantined alike;
    `commands_at` says which of them are commands.
    """

    user: bytes
    work: LaneBatch | None
    identities: list[bytes]
    commands_at: list[int]
    newer: str | None


class Batch:
    """What one claim holds."""

    def __init__(self, specialization: str, claim: Claim) -> None:
        self.quarantined: list[QuarantinedEntry] = []
        self.commands = 0
        self._specialization = specialization
        self._at_ms = claim.at_ms
        self._parked = claim.parked
        self._asked: list[LaneBatch] = []  # of whose commands the outcome of one at least is waited for
        self.lanes = [self._read(user, entries) for user, entries in claim.lanes]

    @property
    def entries(self) -> int:
        """How many entries it holds, commands and quarantined."""
        return sum(len(lane.identities) for lane in self.lanes)

    @property
    def works(self) -> list[LaneBatch]:
        """The lanes that hold commands."""
        return [lane.work for lane in self.lanes if lane.work is not None]

    def _read(self, user: bytes, entries: Sequence[bytes | Oversized]) -> ClaimedLane:
        user_id = _user_id(user)
        if user_id is None:
            return self._set_lane_aside(user, entries)
        lane = new_tuple(Lane, (self._specialization, user_id))
        salt = lane.salt
        records: list[Record] = []
        identities: list[bytes] = []
        commands_at: list[int] = []
        asked, newer = False, None
        for entry in entries:
            try:
                if isinstance(entry, Oversized):
                    raise codec.MalformedEntry(f"over the payload limit; sha1 of the whole: {entry.sha1}")
                records.append(record := codec.decode(entry, salt))
                asked |= record.reply
                commands_at.append(len(identities))
                identities.append(entry[IDENTITY_AT : IDENTITY_AT + IDENTITY_BYTES])
            except codec.MalformedEntry as error:
                identities.append(self._set_aside(entry, user_id, str(error)))
            except NewerVersion as error:
                newer = str(error)
                break
        work = None
        if records:
            places = range(self.commands, self.commands + len(records))
            work = LaneBatch(lane, records, places, was_parked=user in self._parked)
            self.commands += len(records)
            if asked:
                self._asked.append(work)
        return new_tuple(ClaimedLane, (user, work, identities, commands_at, newer))

    def _set_lane_aside(self, user: bytes, entries: Sequence[bytes | Oversized]) -> ClaimedLane:
        reason = f"lane of {user[:40]!r}, which is no user id"
        return ClaimedLane(user, None, [self._set_aside(entry, None, reason) for entry in entries], [], None)

    def _set_aside(self, entry: bytes | Oversized, user_id: int | None, reason: str) -> bytes:
        """Note an entry for the quarantine; its identity."""
        if isinstance(entry, Oversized):
            digest, raw, length = entry.sha1, entry.head, entry.length
        else:
            digest, raw, length = sha1(entry, usedforsecurity=False).hexdigest(), entry[:4096], len(entry)
        self.quarantined.append(QuarantinedEntry(self._specialization, user_id, reason, raw, length))
        return digest[:IDENTITY_BYTES].encode()

    def acknowledgements(self, parked: Sequence[Parked], lock_ms: int) -> list[tuple[bytes, int, bytes]]:
        """Per lane: what was decided or quarantined, and when the lane may be claimed again."""
        waiting = {id(lane.work): lane for lane in parked}
        return [self._acknowledge(lane, waiting.get(id(lane.work)), lock_ms) for lane in self.lanes]

    def reasons(self, parked: Sequence[Parked]) -> dict[bytes, str]:
        """Why lanes cannot go on, by user as Redis holds it."""
        waiting = {id(lane.work): lane.reason for lane in parked}
        found = {lane.user: f"{NEWER_VERSION}: {lane.newer}" for lane in self.lanes if lane.newer}
        if waiting:
            found |= {lane.user: waiting[id(lane.work)] for lane in self.lanes if id(lane.work) in waiting}
        return found

    def _acknowledge(self, lane: ClaimedLane, parked: Parked | None, lock_ms: int) -> tuple[bytes, int, bytes]:
        if parked is not None:
            assert lane.work is not None
            first_undecided = len(lane.work.decisions)
            kept = lane.identities[: lane.commands_at[first_undecided]]
            limits = (2 * lock_ms, LONGEST_ASIDE * lock_ms) if parked.locked else (FIRST_ERROR_MS, LONGEST_ERROR_MS)
            return lane.user, self._aside_ms(lane.work.records[first_undecided], *limits), b"".join(kept)
        return lane.user, NEWER_DELAY_MS if lane.newer else 0, b"".join(lane.identities)

    def _aside_ms(self, first: Record, least: int, most: int) -> int:
        """How long a lane is parked: as long as its first command has waited, so twice as long each time.

        Within limits (ms), and up to half of it less as jitter. It needs no memory: every worker computes the same, and
        a lane that moves on starts with a short delay again.
        """
        longest = min(max(self._at_ms - first.pushed_ms, least), most)
        return random.randint(longest // 2, longest)  # noqa: S311 - jitter

    def replies(self) -> Iterator[tuple[Outcome, bytes]]:
        """The outcomes that somebody asked for, each with the key of its send."""
        for work in self._asked:
            for record, decision in zip(work.records, work.decisions, strict=False):
                if record.reply:
                    yield outcome(work.lane, record, decision), send_key(record.digest, record.pushed_ms)


def _user_id(user: bytes) -> int | None:
    """The user of a lane, if its name is the plain decimal that push.lua makes."""
    if user.isdigit() and user[:1] != b"0" and len(user) <= 19 and (user_id := int(user)) <= MAX_USER_ID:
        return user_id
    return None
