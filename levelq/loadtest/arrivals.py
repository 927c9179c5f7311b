"""When who sends what: a schedule drawn from a seed before the first send, so that it waits for nobody.

An open loop. A user who must wait for an answer before the next click would go easy on a system that is
stuck, and the waiting of all who did not click would never be seen (coordinated omission). Here each send
has a time at which it is meant to happen, whatever happened before, and every latency counts from there.

That time is in the command's id: a UUIDv7 of it, to a quarter of a microsecond, with 30 bits that tell this
run's commands from all others. So the ledger alone says how long each command took.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from random import Random
from typing import NamedTuple
from uuid import UUID
from zlib import crc32

from .scenarios import Scenario

MATCH = 100  # players of one match: its server reports them in one call
BURST_SECONDS = 1.0
IMPATIENT = 0.01  # of all commands are sent a second time, with the same id: a double click, a retry
_THINK = 1.0  # sigma of a pause, lognormal: the median is 0.6 of the mean, one pause in a hundred 6 times the mean
_ACTIVITY = 0.7  # sigma of how active users are: of 500, the busiest sends some 6 times the mean
_GAINS = (10, 20, 25, 40, 60, 80, 120, 200)
_TAG_BITS = 30


class Wanted(NamedTuple):
    """One command: what it is, and when it is meant to be sent for the first time."""

    at: float  # seconds after the start
    number: int  # 32 bits that make its id unlike others of that moment
    account: int  # 0 is the first
    specialization: str
    xp: int


class Arrival(NamedTuple):
    """One call: its time, its commands, and whether they were sent before."""

    at: float
    wanted: tuple[Wanted, ...]
    again: bool = False


class Plan:
    """The whole schedule. The same values give the same one, in any process."""

    def __init__(self, seed: int, scenario: Scenario, levels: dict[str, list[int]]) -> None:
        """`levels`: of each specialization, the total experience that each of its levels takes."""
        self.seed = seed
        self.scenario = scenario
        self._levels = levels
        self._names = list(levels)
        self._shares = list(accumulate(1 / (rank + 1) for rank in range(len(levels))))
        rng = Random(f"{seed} activity")  # noqa: S311 - a simulation, repeatable
        activity = [rng.lognormvariate(0.0, _ACTIVITY) for _ in range(scenario.users)]
        whole = sum(activity) / scenario.rate
        self._pauses = [whole / each for each in activity]  # of each user, in seconds on the average

    def arrivals(self, slot: int, slots: int) -> list[Arrival]:
        """What one of the sending threads does, in order. A user, or a match, belongs to one thread."""
        found: list[Arrival] = []
        for user in range(slot, self.scenario.users, slots):
            found += self._of_user(user)
        for number, ends in enumerate(self.scenario.match_ends):
            players = self._players(number)
            for match in range(slot, -(-len(players) // MATCH), slots):
                found.append(self._of_match(number, match, ends, players[match * MATCH : (match + 1) * MATCH]))
        return sorted(found, key=lambda arrival: arrival.at)

    def _of_user(self, user: int) -> Iterator[Arrival]:
        """A user's clicks: pauses with a long tail, and now and then one click too many."""
        rng, pause = Random(f"{self.seed} user {user}"), self._pauses[user]  # noqa: S311
        mean = -(_THINK**2) / 2  # of the logarithm, for a mean of 1
        # Whoever looks at a random moment sees the rest of a pause that is likelier a long one.
        at = rng.random() * pause * rng.lognormvariate(-mean, _THINK)
        while at < self.scenario.seconds:
            account = rng.randrange(self.scenario.accounts) if self.scenario.shared else user % self.scenario.accounts
            wanted = (self._wanted(rng, at, account),)
            yield Arrival(at, wanted)
            if rng.random() < IMPATIENT:
                yield Arrival(at + rng.uniform(0.1, 1.0), wanted, again=True)
            at += pause * rng.lognormvariate(mean, _THINK)

    def _players(self, number: int) -> list[int]:
        """Whose matches end at the same time: nobody plays in two, if there are enough."""
        rng = Random(f"{self.seed} players {number}")  # noqa: S311
        players: list[int] = []
        while len(players) < self.scenario.burst:
            missing = self.scenario.burst - len(players)
            players += rng.sample(range(self.scenario.accounts), min(missing, self.scenario.accounts))
        return players

    def _of_match(self, number: int, match: int, ends: float, players: Sequence[int]) -> Arrival:
        """The one call of a match's server."""
        rng = Random(f"{self.seed} match {number} {match}")  # noqa: S311
        at = ends + rng.random() * BURST_SECONDS
        return Arrival(at, tuple(self._won(rng, at, account, number) for account in players))

    def _wanted(self, rng: Random, at: float, account: int) -> Wanted:
        (name,) = rng.choices(self._names, cum_weights=self._shares)
        return Wanted(at, rng.getrandbits(32), account, name, rng.choice(_GAINS))

    def _won(self, rng: Random, at: float, account: int, number: int) -> Wanted:
        """What a match brings: a level, as long as there are higher ones. A player keeps to one specialization."""
        drawn = crc32(f"{self.seed} player {account}".encode()) / 2**32 * self._shares[-1]
        name = self._names[bisect_right(self._shares, drawn)]
        steps = self._levels[name]
        gain = steps[number + 1] - steps[number] if number + 1 < len(steps) else rng.choice(_GAINS)
        return Wanted(at, rng.getrandbits(32), account, name, gain)


def new_tag() -> int:
    """What tells this run's commands from all others."""
    return Random().getrandbits(_TAG_BITS)  # noqa: S311 - to tell apart, not to keep out


def id_of(intended: float, tag: int, number: int) -> UUID:
    """A UUIDv7 of the Unix time at which the command is meant to be sent."""
    milliseconds, fraction = divmod(round(intended * 4_096_000), 4096)
    return UUID(int=milliseconds << 80 | 0x7 << 76 | fraction << 64 | 0b10 << 62 | tag << 32 | number)


def intended_in(command_id: UUID) -> float:
    """The Unix time that id_of was given."""
    return ((command_id.int >> 80) * 4096 + (command_id.int >> 64 & 0xFFF)) / 4_096_000


def tag_in(command_id: UUID) -> int:
    """The run's tag, if it is one of a run's."""
    return command_id.int >> 32 & (1 << _TAG_BITS) - 1
