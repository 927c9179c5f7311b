"""The steps of the lane protocol: the arguments of each script and the meaning of its reply. No I/O here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from redis.exceptions import RedisError

from levelq_core.errors import ConfigurationError
from levelq_core.keys import Partition

from .parked import Acknowledgements, Reasons, reason_lines
from .pauses import MOST_PAUSES
from .script_files import Call
from .shard_layout import Layout
from .trend_slots import SERIES

if TYPE_CHECKING:
    from levelq_core.settings import Settings

WAKE_MS = 5_000  # for which a reserved wake-up keeps others from being sent; a lost one costs no more
HEADS = 200  # lane heads among which `status` looks for the oldest command
FOUND_AMONG = 10_000  # entries among which `find` looks in one call: some milliseconds of the server's time
LEASE_MS = 3_000  # for which a relay that died keeps others from relaying
PushError = RedisError | ConfigurationError

LaneEntries = tuple[int, Sequence[bytes]]  # a user, and the entries for their lane
Part = tuple[bytes, int]  # a user as Redis holds it, and how many of the newest entries to leave out
Withdrawal = tuple[bytes, bytes]  # a user, and identities


@dataclass(slots=True)
class PushAnswer:
    """What push.lua did: per lane how many were taken and, if not all, which limit stopped it; and when.

    `durability_replies`: the server's replies to the commands that followed the push.
    """

    wake: bool
    lanes: list[tuple[int, str]]
    moved: bool = False
    at_ms: int = field(default=0, compare=False)
    durability_replies: list[Any] = field(default_factory=list, compare=False)


class Oversized(NamedTuple):
    """What claim.lua returns of an entry over the payload limit."""

    length: int
    sha1: str
    head: bytes


class Claim(NamedTuple):
    """The lanes that one drain took in one step: (user as Redis holds it, entries), oldest lane first; and when.

    `blocked`: nothing was taken, because outbox commands that Redis lost must be restored first.
    `parked`: users whose lane was parked for a database error and is tried again. `returned`: how many expired claims
    were returned first.
    """

    lanes: list[tuple[bytes, list[bytes | Oversized]]]
    wake: bool
    retired: bool
    broken: list[bytes]
    blocked: bool = False
    at_ms: int = 0
    parked: frozenset[bytes] = frozenset()
    returned: int = 0

    @property
    def entries(self) -> int:
        """How many entries were taken."""
        return sum(len(entries) for _, entries in self.lanes)


class Lease(NamedTuple):
    """The reply of lease.lua.

    `newly_acquired`: the caller did not hold it before without a break. `claimed`: how many lanes are claimed.
    """

    is_holder: bool
    newly_acquired: bool
    value: bytes
    restored: bool
    claimed: int


class Relayed(NamedTuple):
    """The reply of relay.lua or restore.lua: how much of each lane was taken, why not all. `lost`: nothing was done."""

    lost: bool
    wake: bool
    lanes: list[tuple[int, str]]


class Status(NamedTuple):
    """What one partition holds, counted by the server."""

    waiting: int
    ready: int
    claimed: int
    parked: int
    drains: int
    oldest_seconds: float


class Protocol:
    """Builds the script calls of one installation from its settings."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._keys = settings.keys
        self._claim_ms = int(settings.claim_seconds * 1000)
        # No longer than a claim: a wake-up that died with its worker is replaced as soon as the worker's claims.
        self._wake_ms = min(WAKE_MS, self._claim_ms)
        self._wake = (self._wake_ms, settings.batch_commands, settings.batch_lanes)

    def _call(self, name: str, partition: Partition, *args: Any) -> Call:
        return Call(name, self._keys.of(partition, "ready"), [self._keys.of(partition, ""), *args])

    def push(self, partition: Partition, lanes: Sequence[LaneEntries]) -> Call:
        """Append entries to lanes of one partition; each lane at most once in a call."""
        limits = self._settings.lane_limit, self._settings.partition_limit
        return _with_lanes(self._call("push", partition, *limits, *self._wake), lanes)

    @staticmethod
    def pushed(reply: list[Any] | PushError) -> PushAnswer | PushError:
        """Read push.lua's reply, or the error that came instead."""
        if isinstance(reply, RedisError | ConfigurationError):
            return reply
        if reply[0] == b"MOVED":
            return PushAnswer(False, [], moved=True)
        wake, flat, stamp = reply
        lanes = [(n, why.decode()) for n, why in zip(flat[::2], flat[1::2], strict=True)]
        return PushAnswer(bool(wake), lanes, at_ms=int(stamp))

    def claim(
        self,
        partition: Partition,
        drain: str,
        token: str,
        commands: int,
        restored_only: bool = False,
        holding: bool = False,
    ) -> Call:
        """Take due lanes, `commands` at most, or retire the drain unless it is `holding` a batch.

        `restored_only`: take nothing until the outbox commands that Redis lost are restored.
        """
        s = self._settings
        limits = (s.batch_lanes, s.batch_bytes, min(s.lane_commands, commands), s.payload_limit)
        wake = self._wake_ms
        modes = int(restored_only), int(holding)
        return self._call("claim", partition, drain, self._claim_ms, token, wake, commands, *limits, *modes)

    @staticmethod
    def claimed(reply: list[Any]) -> Claim:
        """Read claim.lua's reply."""
        if reply[0] == b"BLOCKED":
            return Claim([], wake=False, retired=False, broken=[], blocked=True)
        wake, retired, broken, flat, at_ms, parked, returned = reply
        lanes = [
            (user, [e if isinstance(e, bytes) else _oversized(e) for e in entries])
            for user, entries in zip(flat[::2], flat[1::2], strict=True)
        ]
        tried_again = frozenset(parked)
        return Claim(lanes, bool(wake), bool(retired), broken, at_ms=at_ms, parked=tried_again, returned=returned)

    def ack(self, partition: Partition, token: str, lanes: Acknowledgements, reasons: Reasons = None) -> Call:
        """Remove decided entries: per lane (user, delay in ms, identities). `reasons`: why lanes are parked."""
        delays = [delay_ms for _, delay_ms, _ in lanes]
        spaced = " ".join(map(str, delays)) if any(delays) else ""
        call = self._call("ack", partition, token, spaced, reason_lines(lanes, reasons))
        for user, _, identities in lanes:
            call.args.extend((user, identities))
        return call

    def renew(self, partition: Partition, drain: str, token: str, users: Sequence[bytes]) -> Call:
        """Extend the claims that the drain still holds."""
        return self._call("renew", partition, drain, token, self._claim_ms, *users)

    def yield_(self, partition: Partition, drain: str) -> Call:
        """Unregister the drain, and reserve a wake-up for a successor if there is work."""
        return self._call("yield", partition, drain, *self._wake)

    def sweep(self, partition: Partition) -> Call:
        """Return expired claims, correct the count, and decide whether to wake a drain."""
        return self._call("sweep", partition, self._claim_ms, *self._wake)

    def recover(self, partition: Partition, users: Sequence[bytes]) -> Call:
        """Put lanes that are neither ready nor claimed into ready."""
        return self._call("recover", partition, *users)

    def lease(self, partition: Partition, mode: str, token: str, lease: bytes) -> Call:
        """Take, replace, seize or release the relay's lease; see lease.lua."""
        return self._call("lease", partition, mode, token, lease, LEASE_MS)

    @staticmethod
    def leased(reply: list[Any]) -> Lease:
        """Read lease.lua's reply."""
        state, value, restored, claimed = reply
        return Lease(state > 0, state == 1, value, bool(restored), claimed)

    def relay(self, partition: Partition, lease: bytes, lanes: Sequence[LaneEntries], *, idle_only: bool) -> Call:
        """Append outbox entries to lanes; each lane at most once in a call."""
        limits = self._settings.lane_limit, self._settings.partition_limit
        return _with_lanes(self._call("relay", partition, lease, int(idle_only), *limits, *self._wake), lanes)

    def restore(self, partition: Partition, lease: bytes, lanes: Sequence[LaneEntries], *, last: bool) -> Call:
        """Restore entries at the head of their lanes, each lane whole; `last` unblocks claims."""
        return _with_lanes(self._call("restore", partition, lease, int(last), *self._wake), lanes)

    @staticmethod
    def relayed(reply: list[Any]) -> Relayed:
        """Read relay.lua's reply."""
        if reply[0] == b"LOST":
            return Relayed(True, False, [])
        wake, flat = reply
        return Relayed(False, bool(wake), [(n, why.decode()) for n, why in zip(flat[::2], flat[1::2], strict=True)])

    @staticmethod
    def restored(reply: list[Any]) -> Relayed:
        """Read restore.lua's reply."""
        if reply[0] == b"LOST":
            return Relayed(True, False, [])
        wake, counts = reply
        return Relayed(False, bool(wake), [(n, "") for n in counts])

    def change_layout(self, specialization: str, expected: Layout, new: Layout) -> Call:
        """Replace one layout by another."""
        return Call("relayout", self._keys.shards, [specialization, str(expected), str(new)])

    def bind(self, database: bytes, replaced: bytes) -> Call:
        """Bind the namespace to a database."""
        return Call("bind", self._keys.database, [database, replaced])

    def add_to_trends(self, now_ms: int, figures: Sequence[str | int]) -> Call:
        """Add names and numbers to the trends."""
        series = " ".join(f"{each.slot_seconds}:{each.slots}" for each in SERIES)
        return Call("trend", self._keys.trends, [now_ms // 1000, series, *figures])

    def close_partition(self, partition: Partition, layout: Layout) -> Call:
        """Close the partition: pushes are answered MOVED."""
        return self._call("close", partition, str(layout))

    def status(self, partition: Partition) -> Call:
        """Count what the partition holds."""
        return self._call("status", partition, HEADS)

    def peek(self, partition: Partition, lanes: Sequence[Part]) -> Call:
        """Read parts of lanes, which change nothing."""
        s = self._settings
        call = self._call("peek", partition, s.payload_limit, s.batch_commands, s.batch_bytes)
        for part in lanes:
            call.args.extend(part)
        return call

    @staticmethod
    def peeked(reply: list[Any]) -> list[tuple[int, list[bytes | Oversized]]]:
        """Read peek.lua's reply: per lane its length (-1: its key is no list) and the entries, oldest first."""
        return [
            (length, [e if isinstance(e, bytes) else _oversized(e) for e in reversed(entries)])
            for length, entries in zip(reply[::2], reply[1::2], strict=True)
        ]

    def tail(self, partition: Partition, user_id: int, entry: bytes) -> Call:
        """Read whether an entry of a lane still waits; the newest one if `entry` is empty. See LaneTail."""
        return self._call("tail", partition, user_id, entry)

    def find(self, partition: Partition, command_id: bytes, user_id: int | None = None, newest: int = 0) -> Call:
        """Look for a command in one lane, or in all; `newest`: how many of the lane's newest entries to leave out."""
        user = "" if user_id is None else user_id
        return self._call("find", partition, command_id, FOUND_AMONG, newest, user)

    def pause(self, partition: Partition, who: str, for_ms: int, why: str) -> Call:
        """Pause a partition (`who` is "*") or a user's lane in it, for `for_ms` or, if that is 0, until resumed."""
        return self._call("pause", partition, who, for_ms, why, MOST_PAUSES)

    def withdraw(self, partition: Partition, mark: str, lanes: Sequence[Withdrawal]) -> Call:
        """Remove decided entries, wherever they are in their lanes."""
        call = self._call("withdraw", partition, mark)
        for lane in lanes:
            call.args.extend(lane)
        return call


def _oversized(reply: list[Any]) -> Oversized:
    length, digest, head = reply
    return Oversized(length, digest.decode(), head)


def _with_lanes(call: Call, lanes: Sequence[LaneEntries]) -> Call:
    for user_id, entries in lanes:
        call.args.extend((user_id, len(entries), *entries))
    return call
