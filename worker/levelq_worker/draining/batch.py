"""A claim's entries as commands by lane, and what was decided of them as acknowledgements and replies."""

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

NEWER_DELAY_MS = 5_000  # until an entry of a later version is tried again: a newer worker may take it
# The least and the most that a lane is parked for. Five lock timeouts are half a claim.
PARKED_LOCK_TIMEOUTS = 2, 5
PARKED_ERROR_MS = 2_000, 60_000


class ClaimedLane(NamedTuple):
    """A lane of the claim: its commands, if it has any, and what acknowledges its entries, in order.

    `identities` has one for every entry that this worker can read, command or quarantined; `commands_at`: which
    of them are commands. `newer`: why the entries behind them wait for a newer worker.
    """

    user: bytes
    commands: LaneBatch | None
    identities: list[bytes]
    commands_at: list[int]
    newer: str | None


class Batch:
    """The commands of one claim."""

    def __init__(self, specialization: str, claim: Claim) -> None:
        self.quarantined: list[QuarantinedEntry] = []
        self.commands = 0
        self._specialization = specialization
        self._claim = claim
        self._with_replies: list[LaneBatch] = []
        self.lanes = [self._decode(user, entries) for user, entries in claim.lanes]

    @property
    def entries(self) -> int:
        """How many entries it holds, commands and quarantined."""
        return sum(len(lane.identities) for lane in self.lanes)

    @property
    def lane_batches(self) -> list[LaneBatch]:
        """The commands of each lane that holds any."""
        return [lane.commands for lane in self.lanes if lane.commands is not None]

    def _decode(self, user: bytes, entries: Sequence[bytes | Oversized]) -> ClaimedLane:
        user_id = _user_id(user)
        if user_id is None:
            reason = f"lane of {user[:40]!r}, which is no user id"
            return ClaimedLane(user, None, [self._quarantine(entry, None, reason) for entry in entries], [], None)
        lane = new_tuple(Lane, (self._specialization, user_id))
        salt = lane.salt
        records: list[Record] = []
        identities: list[bytes] = []
        commands_at: list[int] = []
        wants_reply, newer = False, None
        for entry in entries:
            try:
                if isinstance(entry, Oversized):
                    raise codec.MalformedEntry(f"over the payload limit; sha1 of the whole: {entry.sha1}")
                records.append(record := codec.decode(entry, salt))
                wants_reply |= record.reply
                commands_at.append(len(identities))
                identities.append(entry[IDENTITY_AT : IDENTITY_AT + IDENTITY_BYTES])
            except codec.MalformedEntry as error:
                identities.append(self._quarantine(entry, user_id, str(error)))
            except NewerVersion as error:
                newer = str(error)
                break
        commands = None
        if records:
            positions = range(self.commands, self.commands + len(records))
            commands = LaneBatch(lane, records, positions, was_parked=user in self._claim.parked)
            self.commands += len(records)
            if wants_reply:
                self._with_replies.append(commands)
        return new_tuple(ClaimedLane, (user, commands, identities, commands_at, newer))

    def _quarantine(self, entry: bytes | Oversized, user_id: int | None, reason: str) -> bytes:
        """Note an entry for the quarantine; returns its identity."""
        if isinstance(entry, Oversized):
            digest, raw, length = entry.sha1, entry.head, entry.length
        else:
            digest, raw, length = sha1(entry, usedforsecurity=False).hexdigest(), entry[:4096], len(entry)
        self.quarantined.append(QuarantinedEntry(self._specialization, user_id, reason, raw, length))
        return digest[:IDENTITY_BYTES].encode()

    def acknowledgements(self, parked: Sequence[Parked], lock_ms: int) -> list[tuple[bytes, int, bytes]]:
        """Per lane: the user, in how many ms the lane may be claimed again, what was decided or quarantined."""
        by_commands = {id(lane.work): lane for lane in parked}
        return [self._acknowledge(lane, by_commands.get(id(lane.commands)), lock_ms) for lane in self.lanes]

    def _acknowledge(self, lane: ClaimedLane, parked: Parked | None, lock_ms: int) -> tuple[bytes, int, bytes]:
        if parked is None:
            return lane.user, NEWER_DELAY_MS if lane.newer else 0, b"".join(lane.identities)
        first_undecided = len(parked.work.decisions)
        decided = lane.identities[: lane.commands_at[first_undecided]]
        least, most = (n * lock_ms for n in PARKED_LOCK_TIMEOUTS) if parked.locked else PARKED_ERROR_MS
        return lane.user, self._parked_ms(parked.work.records[first_undecided], least, most), b"".join(decided)

    def _parked_ms(self, first: Record, least: int, most: int) -> int:
        """How long a lane is parked: as long as its first command has waited, so twice as long each time.

        Within limits (ms), and up to half of it less as jitter. That needs no memory: every worker computes the same,
        and a lane that moves on starts with a short delay again.
        """
        longest = min(max(self._claim.at_ms - first.pushed_ms, least), most)
        return random.randint(longest // 2, longest)  # noqa: S311 - jitter

    def reasons(self, parked: Sequence[Parked]) -> dict[bytes, str]:
        """Why lanes cannot go on, by user as Redis holds it."""
        why = {id(lane.work): lane.reason for lane in parked}
        newer = {lane.user: f"{NEWER_VERSION}: {lane.newer}" for lane in self.lanes if lane.newer}
        return newer | {lane.user: why[id(lane.commands)] for lane in self.lanes if id(lane.commands) in why}

    def replies(self) -> Iterator[tuple[Outcome, bytes]]:
        """The outcomes that senders asked for, each with the key of its send."""
        for commands in self._with_replies:
            for record, decision in zip(commands.records, commands.decisions, strict=False):
                if record.reply:
                    yield outcome(commands.lane, record, decision), send_key(record.digest, record.pushed_ms)


def _user_id(user: bytes) -> int | None:
    """The user of a lane, if its name is the plain decimal that push.lua makes."""
    if user.isdigit() and user[:1] != b"0" and len(user) <= 19 and (user_id := int(user)) <= MAX_USER_ID:
        return user_id
    return None
