"""What the simulated users do: a list of plain values, the same wherever it is made from the same seed.

The producers send from it and the verifier compares with it, so what was sent is known independently of
every line of code that carried it.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from random import Random
from typing import Literal, NamedTuple
from uuid import UUID

Fate = Literal["applied", "rejected", "duplicate", "conflict"]
Place = tuple[int, str]  # a lane: user, specialization

TOP_LEVEL = {"PLAYER": 8, "COACH": 8, "INTERNSHIP": 3}
CONFLICT_EVERY = 500  # one command in so many reuses an id for other content
_HOT = 3  # weights are 1/(rank + 3): of a thousand users the hottest gets 4 % of all commands, the first ten 24 %
_IMPOSSIBLE = -(2**31 - 1)  # a change that every producer lets pass and no total survives
_GAINS = (10, 20, 25, 40, 60, 80, 120, 200)


class Sent(NamedTuple):
    """One command as it is to be sent, and what must become of it."""

    command_id: UUID
    user_id: int
    specialization: str
    kind: Literal["level_up", "set_level", "sync_levels", "adjust", "reset"]
    fate: Fate
    level: int = 0
    xp: int = 0
    sessions: int = 0
    projects: int = 0
    theory: int = 0
    practice: int = 0
    source: Literal["progress", "license"] = "progress"
    earned: bool = False  # an adjust or a reset: the level is what the totals earn

    @property
    def place(self) -> Place:
        """Its lane."""
        return self.user_id, self.specialization


class Scenario(NamedTuple):
    """The numbers that fix everything. `started_ms` is the Unix time that goes into the ids."""

    seed: int
    users: int
    commands: int
    started_ms: int

    def sends(self) -> list[Sent]:
        """All sends in their order, repeated ones included."""
        return list(_Story(self).tell())

    def share(self, producer: int, producers: int) -> list[Sent]:
        """What one of the producers sends. A user belongs to one producer, so a lane's order is known."""
        return [sent for sent in self.sends() if sent.user_id % producers == producer]

    def direct_calls(self) -> Iterator[tuple[UUID, int, str, int, int]]:
        """Level-ups for the direct caller, without end: id, user, specialization, xp, sessions."""
        rng = Random(f"{self.seed} direct")  # noqa: S311 - a simulation, repeatable
        lanes, weights = _lanes(self)
        number = 0
        while True:
            user_id, specialization = rng.choices(lanes, cum_weights=weights)[0]
            yield _id(rng, self.started_ms + number), user_id, specialization, rng.choice(_GAINS), 1
            number += 1


class _Story:
    """Draws the commands one after the other, remembering each lane's past."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._rng = Random(scenario.seed)  # noqa: S311 - a simulation, repeatable
        self._past: dict[Place, list[Sent]] = {}

    def tell(self) -> Iterator[Sent]:
        scenario, rng = self._scenario, self._rng
        lanes, weights = _lanes(scenario)
        everybody = lanes[: min(scenario.users, scenario.commands)]  # each user sends something
        drawn = everybody + rng.choices(lanes, cum_weights=weights, k=scenario.commands - len(everybody))
        rng.shuffle(drawn)
        for number, place in enumerate(drawn):
            sent = self._next(number, place)
            if sent.fate in ("applied", "rejected"):
                self._past.setdefault(place, []).append(sent)
            yield sent

    def _next(self, number: int, place: Place) -> Sent:
        rng, past = self._rng, self._past.get(place)
        command_id = _id(rng, self._scenario.started_ms + number // 50)
        if not past:
            return self._level_up(command_id, place)
        # An id is used twice at most: the answer to a repeated send is found by the id alone.
        if number % CONFLICT_EVERY == CONFLICT_EVERY - 1:
            first = past.pop(rng.randrange(len(past)))
            return self._level_up(first.command_id, place)._replace(fate="conflict", projects=7)
        draw = rng.random()
        if draw < 0.010:
            return past.pop(rng.randrange(len(past)))._replace(fate="duplicate")
        if draw < 0.015:
            return self._refused(command_id, place)
        if draw < 0.030:
            sync = Sent(command_id, *place, "sync_levels", "applied")
            return sync if rng.random() < 0.5 else sync._replace(source="license")
        if draw < 0.050:
            level = rng.randint(1, TOP_LEVEL[place[1]])
            return Sent(command_id, *place, "set_level", "applied", level, rng.choice((0, 50, 500)), 1)
        return self._adjust_or_reset(command_id, place) if draw < 0.057 else self._level_up(command_id, place)

    def _adjust_or_reset(self, command_id: UUID, place: Place) -> Sent:
        rng = self._rng
        if rng.random() < 0.7:
            change = rng.choice((0, 50, 500))  # a level that was set higher than it was earned falls
            return Sent(command_id, *place, "adjust", "applied", 0, change, earned=rng.random() < 0.5)
        totals = (rng.choice((0, 500, 3000)), rng.randint(0, 2))
        level = rng.randint(0, TOP_LEVEL[place[1]])
        return Sent(command_id, *place, "reset", "applied", level, *totals, earned=level == 0)

    def _level_up(self, command_id: UUID, place: Place) -> Sent:
        rng = self._rng
        hours = (rng.randint(0, 3), rng.randint(0, 3)) if place[1] == "COACH" else (0, 0)
        totals = (rng.choice(_GAINS), rng.randint(0, 1), int(rng.random() < 0.1))
        return Sent(command_id, *place, "level_up", "applied", 0, *totals, *hours)

    def _refused(self, command_id: UUID, place: Place) -> Sent:
        """A SetLevel that no producer can see through: a total would go below zero."""
        refused = Sent(command_id, *place, "set_level", "rejected", 1)
        ways = [refused._replace(xp=_IMPOSSIBLE), refused._replace(sessions=_IMPOSSIBLE)]
        if place[1] == "COACH":
            ways.append(refused._replace(theory=_IMPOSSIBLE))
        return self._rng.choice(ways)


def _lanes(scenario: Scenario) -> tuple[list[Place], list[float]]:
    """Every lane there may be with cumulated weights: each user's own first, then second ones of some."""
    rng = Random(f"{scenario.seed} lanes")  # noqa: S311 - a simulation, repeatable
    ids = rng.sample(range(1, 10 * scenario.users + 1), scenario.users)
    names, shares = tuple(TOP_LEVEL), (5, 3, 2)
    first = [(user_id, rng.choices(names, shares)[0]) for user_id in ids]
    second = [(user_id, rng.choice([n for n in names if n != name])) for user_id, name in first]
    weights = [1 / (rank + _HOT) for rank in range(scenario.users)]
    keep = [rank for rank in range(scenario.users) if rng.random() < 0.3]
    lanes = first + [second[rank] for rank in keep]
    return lanes, list(accumulate(weights + [weights[rank] / 3 for rank in keep]))


def _id(rng: Random, milliseconds: int) -> UUID:
    """A UUIDv7, as every command has, but drawn from the seed."""
    fraction, random = rng.getrandbits(12), rng.getrandbits(62)
    return UUID(int=(milliseconds & (2**48 - 1)) << 80 | 0x7 << 76 | fraction << 64 | 0b10 << 62 | random)
