"""The schedule of a load test: who sends what and when, drawn from a seed before the first send.

An open loop. If a user waited for an answer before the next click, a stuck system would get fewer clicks, and the
waiting of the missing ones would not be measured (coordinated omission). Here each send has an intended time,
whatever happened before it, and latencies count from there.

The command's id holds that time: it is a UUIDv7 of it, to a quarter of a microsecond, with 30 bits that only this
run's commands have. So the ledger alone shows how long each command took.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from random import Random
from typing import Any, NamedTuple, Protocol
from uuid import UUID
from zlib import crc32

from levelq_core import Command, LevelUp

from .scenarios import Scenario

MATCH = 100  # players of one match; its server reports them in one call
_BURST_SECONDS = 1.0
_REPEATED = 0.01  # share of the commands that are sent a second time with the same id: a double click, a retry
_PAUSE_SIGMA = 1.0  # of a pause, lognormal: the median is 0.6 of the mean, one pause in a hundred is 6 times the mean
_ACTIVITY_SIGMA = 0.7  # of how active users are: of 500, the busiest sends about 6 times the mean
GAINS = (10, 20, 25, 40, 60, 80, 120, 200)
_TAG_BITS = 30


class PlannedCommand(NamedTuple):
    """One command, and when it is meant to be sent for the first time."""

    at: float  # seconds after the start
    number: int  # 32 random bits that distinguish it from other commands of the same moment
    account: int  # 0 is the first
    specialization: str
    xp: int

    def command(self, started: float, tag: int, first_user: int) -> Command:
        """As the producer takes it, in a run that started at this Unix time."""
        return LevelUp(
            user_id=first_user + self.account,
            specialization=self.specialization,
            command_id=id_of(started + self.at, tag, self.number),
            xp_gained=self.xp,
            sessions_completed=1,
            reason="load test",
        )


class Arrival(NamedTuple):
    """One call: its time in seconds after the start, its commands, and whether it sends them again.

    `held`: it also waits for the word "rest".
    """

    at: float
    commands: Sequence[Any]  # each is a PlannedCommand, or has the same method `command`
    again: bool = False
    held: bool = False


class Schedule(Protocol):
    """What a sending process follows. The same values give the same schedule in any process."""

    def arrivals(self, thread: int, threads: int) -> list[Arrival]:
        """What one of the sending threads does, in order. A user belongs to one thread."""


class Plan:
    """The schedule of a load test."""

    def __init__(self, seed: int, scenario: Scenario, levels: dict[str, list[int]]) -> None:
        """`levels`: for each specialization, the total experience that each of its levels takes."""
        self.seed = seed
        self.scenario = scenario
        self._levels = levels
        self._names = list(levels)
        self._shares = list(accumulate(1 / (rank + 1) for rank in range(len(levels))))
        rng = self._random("activity")
        activity = [rng.lognormvariate(0.0, _ACTIVITY_SIGMA) for _ in range(scenario.users)]
        total = sum(activity) / scenario.rate
        self._pauses = [total / each for each in activity]  # each user's mean pause in seconds

    def arrivals(self, thread: int, threads: int) -> list[Arrival]:
        """What one of the sending threads does, in order. A user, or a match, belongs to one thread."""
        found: list[Arrival] = []
        for user in range(thread, self.scenario.users, threads):
            found += self._of_user(user)
        for number, ends in enumerate(self.scenario.match_ends):
            players = self._players(number)
            for match in range(thread, -(-len(players) // MATCH), threads):
                found.append(self._of_match(number, match, ends, players[match * MATCH : (match + 1) * MATCH]))
        return sorted(found, key=lambda arrival: arrival.at)

    def _of_user(self, user: int) -> Iterator[Arrival]:
        rng, pause, accounts = self._random(f"user {user}"), self._pauses[user], self.scenario.accounts
        mean = -(_PAUSE_SIGMA**2) / 2  # of the logarithm, for a mean of 1
        # A random moment falls more often into a long pause, so the first one is drawn from longer pauses.
        at = rng.random() * pause * rng.lognormvariate(-mean, _PAUSE_SIGMA)
        while at < self.scenario.seconds:
            account = rng.randrange(accounts) if self.scenario.shared else user % accounts
            (name,) = rng.choices(self._names, cum_weights=self._shares)
            commands = (PlannedCommand(at, rng.getrandbits(32), account, name, rng.choice(GAINS)),)
            yield Arrival(at, commands)
            if rng.random() < _REPEATED:
                yield Arrival(at + rng.uniform(0.1, 1.0), commands, again=True)
            at += pause * rng.lognormvariate(mean, _PAUSE_SIGMA)

    def _players(self, number: int) -> list[int]:
        """The accounts whose matches end at the same time; each plays in one match if there are enough."""
        rng, accounts = self._random(f"players {number}"), range(self.scenario.accounts)
        players: list[int] = []
        while missing := self.scenario.burst - len(players):
            players += rng.sample(accounts, min(missing, len(accounts)))
        return players

    def _of_match(self, number: int, match: int, ends: float, players: Sequence[int]) -> Arrival:
        rng = self._random(f"match {number} {match}")
        at = ends + rng.random() * _BURST_SECONDS
        return Arrival(at, tuple(self._level_up(rng, at, account, number) for account in players))

    def _level_up(self, rng: Random, at: float, account: int, number: int) -> PlannedCommand:
        """Enough experience for the next level, while there are higher ones. A player keeps to one specialization."""
        drawn = crc32(f"{self.seed} player {account}".encode()) / 2**32 * self._shares[-1]
        name = self._names[bisect_right(self._shares, drawn)]
        steps = self._levels[name]
        gain = steps[number + 1] - steps[number] if number + 1 < len(steps) else rng.choice(GAINS)
        return PlannedCommand(at, rng.getrandbits(32), account, name, gain)

    def _random(self, subject: str) -> Random:
        """Numbers of their own for each subject, so that threads draw the same ones in any order."""
        return Random(f"{self.seed} {subject}")  # noqa: S311 - a simulation, repeatable


def new_tag() -> int:
    """Random bits that only this run's commands have."""
    return Random().getrandbits(_TAG_BITS)  # noqa: S311 - no secret


def id_of(intended: float, tag: int, number: int) -> UUID:
    """A UUIDv7 of the Unix time at which the command is meant to be sent."""
    milliseconds, fraction = divmod(round(intended * 4_096_000), 4096)
    return UUID(int=milliseconds << 80 | 0x7 << 76 | fraction << 64 | 0b10 << 62 | tag << 32 | number)


def intended_in(command_id: UUID) -> float:
    """The Unix time that id_of was given."""
    return ((command_id.int >> 80) * 4096 + (command_id.int >> 64 & 0xFFF)) / 4_096_000


def tag_in(command_id: UUID) -> int:
    """The tag that id_of was given; random bits in an id of another source."""
    return command_id.int >> 32 & (1 << _TAG_BITS) - 1
