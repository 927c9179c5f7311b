"""What the demo's users send: all kinds of commands, most of them at once, the rest once a worker was killed."""

from __future__ import annotations

import math
from itertools import accumulate
from random import Random
from typing import Any, NamedTuple

from levelq.loadtest.arrivals import GAINS, Arrival, id_of
from levelq_core import Adjust, Command, LevelUp, Reset, SetLevel, SyncLevels

TOP_LEVEL = {"PLAYER": 8, "COACH": 8, "INTERNSHIP": 3}
_FIRST_PART = 0.8  # share of the commands that are sent at once; the others are held
_WINDOW = 2_500  # commands in one call
_CONFLICT_EVERY = 500  # one command of this many reuses an id for other content
_RANKS_ADDED = 3  # weights are 1/(rank + 3): of a thousand users the hottest sends 4 % of all commands, ten send 24 %
_IMPOSSIBLE = -(2**31 - 1)  # a change that producers let pass and that takes every total below zero

Lane = tuple[int, str]  # account, specialization


class Send(NamedTuple):
    """One command that is sent. `again`: its id was sent before, for these fields or for others."""

    number: int
    lane: Lane
    kind: type[Command]
    fields: dict[str, Any]
    again: bool = False

    def command(self, started: float, tag: int, first_user: int) -> Command:
        """As the producer takes it, in a run that started at this Unix time, when all is due."""
        user_id, specialization = first_user + self.lane[0], self.lane[1]
        about: dict[str, Any] = {"user_id": user_id, "specialization": specialization, "reason": "demo"}
        return self.kind(**about, command_id=id_of(started, tag, self.number), **self.fields)


class Burst(NamedTuple):
    """The numbers that fix everything that is sent."""

    seed: int
    users: int
    commands: int

    @property
    def at_once(self) -> int:
        """How many commands are sent at once; the others are held."""
        return math.ceil(self.commands * _FIRST_PART)

    def arrivals(self, thread: int, threads: int) -> list[Arrival]:
        """What one of the sending threads sends. A user belongs to one, so the order of each lane is known."""
        sends, found = self.sends(), list[Arrival]()
        for held, both in ((False, sends[: self.at_once]), (True, sends[self.at_once :])):
            part = [send for send in both if send.lane[0] % threads == thread]
            for start in range(0, len(part), _WINDOW):
                window = part[start : start + _WINDOW]
                for again in (False, True):
                    found.append(Arrival(0.0, [send for send in window if send.again is again], again, held))
        return [arrival for arrival in found if arrival.commands]

    def sends(self) -> list[Send]:
        """All sends in their order, repeated ones included."""
        rng, past = Random(self.seed), dict[Lane, list[Send]]()  # noqa: S311 - a simulation, repeatable
        lanes, weights = self.lanes()
        once = lanes[: min(self.users, self.commands)]  # each user sends something
        drawn = once + rng.choices(lanes, cum_weights=weights, k=self.commands - len(once))
        rng.shuffle(drawn)
        sends = []
        for number, lane in enumerate(drawn):
            send = _next(rng, number, lane, past.setdefault(lane, []))
            if not send.again:
                past[lane].append(send)
            sends.append(send)
        return sends

    def lanes(self) -> tuple[list[Lane], list[float]]:
        """All lanes with cumulated weights: the first lane of each user, then the second lanes of some."""
        rng = Random(f"{self.seed} lanes")  # noqa: S311 - a simulation, repeatable
        first = [(account, rng.choices(tuple(TOP_LEVEL), (5, 3, 2))[0]) for account in range(self.users)]
        weights = [1 / (rank + _RANKS_ADDED) for rank in range(self.users)]
        ranks = [rank for rank in range(self.users) if rng.random() < 0.3]
        second = [(rank, rng.choice([name for name in TOP_LEVEL if name != first[rank][1]])) for rank in ranks]
        return first + second, list(accumulate(weights + [weights[rank] / 3 for rank in ranks]))


def _next(rng: Random, number: int, lane: Lane, past: list[Send]) -> Send:
    """The next send of a lane, after those that it sent once so far."""
    # An id is used twice at most.
    if past and number % _CONFLICT_EVERY == _CONFLICT_EVERY - 1:
        other = _level_up(rng, lane) | {"projects_completed": 7}
        return past.pop(rng.randrange(len(past)))._replace(kind=LevelUp, fields=other, again=True)
    draw = rng.random()
    if past and draw < 0.010:
        return past.pop(rng.randrange(len(past)))._replace(again=True)
    kind, fields = (LevelUp, _level_up(rng, lane)) if draw >= 0.057 or not past else _seldom(rng, draw, lane[1])
    return Send(number, lane, kind, fields)


def _seldom(rng: Random, draw: float, specialization: str) -> tuple[type[Command], dict[str, Any]]:
    """The kind and the fields of a command that is no level-up."""
    top, xp = TOP_LEVEL[specialization], rng.choice((0, 50, 500))
    if draw < 0.015:  # is rejected
        changes = ["xp_change", "sessions_change", *["theory_hours_change"] * (specialization == "COACH")]
        return SetLevel, {"new_level": 1, rng.choice(changes): _IMPOSSIBLE}
    if draw < 0.030:
        return SyncLevels, {"source": rng.choice(("progress", "license"))}
    if draw < 0.050:
        return SetLevel, {"new_level": rng.randint(1, top), "xp_change": xp, "sessions_change": 1}
    if draw < 0.055:  # a level that was set higher than it was earned may fall
        return Adjust, {"xp_change": xp, "level": rng.choice(("earned", "keep"))}
    return Reset, {
        "total_xp": 6 * xp,
        "completed_sessions": rng.randint(0, 2),
        "level": rng.randint(0, top) or "earned",
    }


def _level_up(rng: Random, lane: Lane) -> dict[str, Any]:
    fields = {
        "xp_gained": rng.choice(GAINS),
        "sessions_completed": rng.randint(0, 1),
        "projects_completed": int(rng.random() < 0.1),
    }
    if lane[1] == "COACH":
        fields |= {"theory_hours": rng.randint(0, 3), "practice_hours": rng.randint(0, 3)}
    return fields
