"""What Redis must hold after each step: the lane protocol in dictionaries and lists, written from its description.

Seconds of `clock` pass only where the machine advances it. Entries have no stamps here, and no script is looked at.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import NamedTuple

from levelq_core import Command
from levelq_core.settings import Settings

WAKE_SECONDS = 600.0  # how long a wake-up is reserved; the world sets the same


class Entry(NamedTuple):
    """What lies in a lane: a command, what only a newer version can read, or a malformed entry."""

    payload: bytes
    command: Command | None = None
    newer: bool = False

    @property
    def identity(self) -> bytes:
        """By what an acknowledgement knows it: id and digest, or all there is."""
        return self.payload[4:36] if self.command is not None else self.payload


Taken = list[tuple[int, list[Entry]]]  # per lane what a claim took, in the order of the claim
Settled = list[tuple[int, float, list[Entry]]]  # per lane: delay, and the entries that were decided


class Claimed(NamedTuple):
    """Until when a lane is claimed, and by whom."""

    deadline: float
    token: str


@dataclass
class Keys:
    """What Redis holds."""

    lanes: dict[int, list[Entry]]
    ready: dict[int, float] = field(default_factory=dict)
    claimed: dict[int, Claimed] = field(default_factory=dict)
    drains: dict[str, float] = field(default_factory=dict)
    wake_until: float = 0.0
    wake_by_sweep: bool = False
    count: int = 0
    filled: bool = False


class Reference:
    """One partition."""

    def __init__(self, settings: Settings, users: Sequence[int]) -> None:
        self.clock = 1.0
        self._settings = settings
        self._users = users
        self.keys = Keys({user: [] for user in users})

    # What holds it together

    def due(self) -> list[int]:
        """Lanes that may be claimed now, the longest due first."""
        return [user for user in self.in_line() if self.keys.ready[user] <= self.clock]

    def in_line(self) -> list[int]:
        """The lanes in ready; equal times in the order of their names."""
        return sorted(self.keys.ready, key=lambda user: (self.keys.ready[user], str(user)))

    def short_of_drains(self, batch_commands: int) -> bool:
        """Whether more is due than the live ones can take."""
        due, live = len(self.due()), sum(until > self.clock for until in self.keys.drains.values())
        enough = due <= live * self._settings.batch_lanes and self.keys.count <= live * batch_commands
        return due > 0 and not (live and enough)

    def wake(self, batch_commands: int | None = None) -> bool:
        """Whether the caller must wake another drain; then no other caller must."""
        short = self.short_of_drains(batch_commands or self._settings.batch_commands)
        if not short or self.keys.wake_until > self.clock:
            return False
        self.keys.wake_until, self.keys.wake_by_sweep = self.clock + WAKE_SECONDS, False
        return True

    def _enter(self, user: int) -> None:
        if user not in self.keys.claimed:
            self.keys.ready.setdefault(user, self.clock)

    def _return_expired(self) -> None:
        for user, claim in list(self.keys.claimed.items()):
            if claim.deadline <= self.clock:
                self.keys.ready[user] = claim.deadline
                del self.keys.claimed[user]

    def _forget_dead_drains(self) -> None:
        self.keys.drains = {drain: until for drain, until in self.keys.drains.items() if until > self.clock}

    # The steps

    def room(self, user: int) -> tuple[int, int]:
        """How many more the lane may hold, and how many the partition."""
        in_lane = self._settings.lane_limit - len(self.keys.lanes[user])
        return max(0, in_lane), max(0, self._settings.partition_limit - self.keys.count)

    def push(self, user: int, entries: Sequence[Entry]) -> tuple[int, str]:
        """How many are taken, and which limit stops the others."""
        in_lane, in_partition = self.room(user)
        taken = min(len(entries), in_lane, in_partition)
        self.append(user, entries[:taken])
        return taken, "" if taken == len(entries) else "lane" if in_lane <= in_partition else "partition"

    def append(self, user: int, entries: Sequence[Entry]) -> None:
        """Ready first, then longer."""
        if entries:
            self._enter(user)
            self.keys.count += len(entries)
            self.keys.lanes[user] += entries

    def push_breaks_off(self, user: int, entry: Entry, before: str) -> bool:
        """A push of one command that dies before a write; False if it does not come to that."""
        fits = min(self.room(user)) > 0
        if fits and before == "ready" and user not in self.keys.claimed:
            return True
        if fits and before in ("count", "append"):
            self._enter(user)
            self.keys.count += before == "append"
            return True
        self.push(user, [entry])
        unreserved = self.keys.wake_until <= self.clock
        if before == "reserve" and unreserved and self.short_of_drains(self._settings.batch_commands):
            return True
        self.wake()
        return False

    def claim(self, drain: str, token: str, commands: int) -> tuple[Taken, bool]:
        """What the drain takes, and whether it is retired, because nothing is due."""
        keys, settings = self.keys, self._settings
        self._forget_dead_drains()
        if drain not in keys.drains:
            keys.wake_until = 0.0
        keys.drains[drain] = self.clock + settings.claim_seconds
        self._return_expired()
        taken: Taken = []
        for user in self.due()[: settings.batch_lanes]:
            left = commands - sum(len(entries) for _, entries in taken)
            if not left:
                break
            del keys.ready[user]
            if entries := keys.lanes[user][: min(settings.lane_commands, left)]:
                keys.claimed[user] = Claimed(self.clock + settings.claim_seconds, token)
                taken.append((user, entries))
        retired = not taken and not self.due()
        if retired:
            del keys.drains[drain]
        return taken, retired

    def ack(self, token: str, settled: Settled) -> list[int]:
        """Per lane how many entries are removed; -1 for a claim that the drain does not hold."""
        removed = [self._ack_lane(token, *lane) for lane in settled]
        if any(count > 0 for count in removed):
            self.keys.count = max(0, self.keys.count - sum(count for count in removed if count > 0))
        return removed

    def _ack_lane(self, token: str, user: int, delay: float, decided: list[Entry]) -> int:
        keys, lane = self.keys, self.keys.lanes[user]
        if user not in keys.claimed or keys.claimed[user].token != token:
            return -1
        count = 0
        while count < min(len(decided), len(lane)) and lane[count].identity == decided[count].identity:
            count += 1
        del lane[:count]
        del keys.claimed[user]
        if lane:
            keys.ready[user] = self.clock + delay
        return count

    def withdraw(self, user: int, entries: Sequence[Entry]) -> None:
        """Decided entries leave the lane, wherever they stand; the claim on it stays. A new head may be claimed now."""
        keys, lane = self.keys, self.keys.lanes[user]
        head = lane[:1]
        left = list(lane)
        for entry in entries:
            left.remove(entry)
        keys.count = max(0, keys.count - len(entries))
        keys.lanes[user] = left
        if not left:
            keys.ready.pop(user, None)
        elif left[:1] != head and user in keys.ready:
            keys.ready[user] = min(self.clock, keys.ready[user])

    def renew(self, drain: str, token: str, users: Sequence[int]) -> int:
        """How many of the claims the drain still holds; those last a claim longer."""
        deadline = self.clock + self._settings.claim_seconds
        self.keys.drains[drain] = deadline
        held = [user for user in users if user in self.keys.claimed and self.keys.claimed[user].token == token]
        for user in held:
            self.keys.claimed[user] = Claimed(deadline, token)
        return len(held)

    def leave(self, drain: str) -> bool:
        """A drain ends; whether its successor must be woken. One that never claimed has not answered its wake-up."""
        if self.keys.drains.pop(drain, None) is None:
            self.keys.wake_until = 0.0
        return self.wake()

    def sweep(self) -> tuple[bool, int]:
        """Whether a drain must be woken, and how many claims had expired. The count is what stands in the lanes."""
        before = len(self.keys.claimed)
        self._return_expired()
        self._forget_dead_drains()
        self.keys.count = sum(len(self.keys.lanes[user]) for user in {*self.keys.ready, *self.keys.claimed})
        return self.wake() or self._take_over(), before - len(self.keys.claimed)

    def _take_over(self) -> bool:
        """Due for longer than a wake-up is reserved, and no drain came: the wake-up was lost."""
        keys, longest = self.keys, self.in_line()[:1]
        overdue = longest and keys.ready[longest[0]] < self.clock - WAKE_SECONDS
        if not overdue or keys.drains or keys.wake_until <= self.clock or keys.wake_by_sweep:
            return False
        keys.wake_until, keys.wake_by_sweep = self.clock + WAKE_SECONDS, True
        return True

    def fill(self, lost: Sequence[tuple[int, Entry]]) -> None:
        """Restore what the outbox had, in front, unless the lane holds the first of it; unblock claims."""
        lanes: dict[int, list[Entry]] = {}
        for user, entry in lost:
            lanes.setdefault(user, []).append(entry)
        for user, entries in lanes.items():
            if entries[0].identity not in [entry.identity for entry in self.keys.lanes[user]]:
                self._enter(user)
                self.keys.count += len(entries)
                self.keys.lanes[user][:0] = entries
        self.keys.filled = True
        self.wake()

    # What happens to Redis

    def wipe(self) -> None:
        """FLUSHALL."""
        self.keys = Keys({user: [] for user in self._users})

    def remember(self) -> Keys:
        return deepcopy(self.keys)

    def roll_back(self, keys: Keys) -> None:
        self.keys = deepcopy(keys)
