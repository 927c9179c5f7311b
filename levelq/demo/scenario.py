"""What the simulated users send: the same list wherever it is made from the same seed.

The senders send it and the checks compare with it, so what was sent is known independently of the code that carried it.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate, count
from random import Random
from typing import Any, Literal, NamedTuple
from uuid import UUID

from levelq_core import Adjust, Command, LevelUp, Reset, SetLevel, SyncLevels

Fate = Literal["applied", "rejected", "duplicate", "conflict"]
Lane = tuple[int, str]  # user, specialization

TOP_LEVEL = {"PLAYER": 8, "COACH": 8, "INTERNSHIP": 3}
_CONFLICT_EVERY = 500  # one command of this many reuses an id for other content
_RANKS_ADDED = 3  # weights are 1/(rank + 3): of a thousand users the hottest sends 4 % of all commands, ten send 24 %
_IMPOSSIBLE = -(2**31 - 1)  # a change that producers let pass and that takes every total below zero
_GAINS = (10, 20, 25, 40, 60, 80, 120, 200)


class Send(NamedTuple):
    """One command that is sent, and what must become of it."""

    kind: type[Command]
    command_id: UUID
    lane: Lane
    fate: Fate
    fields: dict[str, Any]

    @property
    def command(self) -> Command:
        """As the producer takes it."""
        about: dict[str, Any] = {"user_id": self.lane[0], "specialization": self.lane[1], "command_id": self.command_id}
        return self.kind(**about, reason="demo", **self.fields)

    @property
    def repeated(self) -> bool:
        """Whether its id was sent before."""
        return self.fate in ("duplicate", "conflict")


class Scenario(NamedTuple):
    """The numbers that fix everything. `started_ms` is the Unix time that goes into the ids."""

    seed: int
    users: int
    commands: int
    started_ms: int

    def sends(self) -> list[Send]:
        """All sends in their order, repeated ones included."""
        rng, past = Random(self.seed), dict[Lane, list[Send]]()  # noqa: S311 - a simulation, repeatable
        lanes, weights = self.lanes()
        once = lanes[: min(self.users, self.commands)]  # each user sends something
        drawn = once + rng.choices(lanes, cum_weights=weights, k=self.commands - len(once))
        rng.shuffle(drawn)
        sends = []
        for number, lane in enumerate(drawn):
            command_id = _id(rng, self.started_ms + number // 50)
            send = _next(rng, number, command_id, lane, past.get(lane))
            if not send.repeated:
                past.setdefault(lane, []).append(send)
            sends.append(send)
        return sends

    def share(self, sender: int, senders: int) -> list[Send]:
        """What one of the senders sends. A user belongs to one sender, so the order of each lane is known."""
        return [send for send in self.sends() if send.lane[0] % senders == sender]

    def direct_calls(self) -> Iterator[tuple[UUID, Lane, int]]:
        """Level-ups for the direct caller, without end: id, lane, xp."""
        rng = Random(f"{self.seed} direct")  # noqa: S311 - a simulation, repeatable
        lanes, weights = self.lanes()
        for milliseconds in count(self.started_ms):
            (lane,) = rng.choices(lanes, cum_weights=weights)
            yield _id(rng, milliseconds), lane, rng.choice(_GAINS)

    def lanes(self) -> tuple[list[Lane], list[float]]:
        """All lanes with cumulated weights: the first lane of each user, then the second lanes of some."""
        rng = Random(f"{self.seed} lanes")  # noqa: S311 - a simulation, repeatable
        ids = rng.sample(range(1, 10 * self.users + 1), self.users)
        first = [(user_id, rng.choices(tuple(TOP_LEVEL), (5, 3, 2))[0]) for user_id in ids]
        weights = [1 / (rank + _RANKS_ADDED) for rank in range(self.users)]
        ranks = [rank for rank in range(self.users) if rng.random() < 0.3]
        second = [(first[rank][0], rng.choice([n for n in TOP_LEVEL if n != first[rank][1]])) for rank in ranks]
        return first + second, list(accumulate(weights + [weights[rank] / 3 for rank in ranks]))


def _next(rng: Random, number: int, command_id: UUID, lane: Lane, past: list[Send] | None) -> Send:
    """The next send of a lane, after those that it sent once so far."""
    if not past:
        return _level_up(rng, command_id, lane)
    # An id is used twice at most, because the answer to a repeated send is found by the id alone.
    if number % _CONFLICT_EVERY == _CONFLICT_EVERY - 1:
        send = _level_up(rng, past.pop(rng.randrange(len(past))).command_id, lane)
        return send._replace(fate="conflict", fields=send.fields | {"projects_completed": 7})
    draw = rng.random()
    if draw < 0.010:
        return past.pop(rng.randrange(len(past)))._replace(fate="duplicate")
    if draw < 0.015:
        changes = ["xp_change", "sessions_change", *["theory_hours_change"] * (lane[1] == "COACH")]
        return Send(SetLevel, command_id, lane, "rejected", {"new_level": 1, rng.choice(changes): _IMPOSSIBLE})
    if draw < 0.057:
        kind, fields = _seldom(rng, draw, TOP_LEVEL[lane[1]])
        return Send(kind, command_id, lane, "applied", fields)
    return _level_up(rng, command_id, lane)


def _seldom(rng: Random, draw: float, top: int) -> tuple[type[Command], dict[str, Any]]:
    """The kind and the fields of a command that is no level-up."""
    if draw < 0.030:
        return SyncLevels, {"source": rng.choice(("progress", "license"))}
    xp = rng.choice((0, 50, 500))
    if draw < 0.050:
        return SetLevel, {"new_level": rng.randint(1, top), "xp_change": xp, "sessions_change": 1}
    if draw < 0.055:  # a level that was set higher than it was earned may fall
        return Adjust, {"xp_change": xp, "level": rng.choice(("earned", "keep"))}
    return Reset, {
        "total_xp": 6 * xp,
        "completed_sessions": rng.randint(0, 2),
        "level": rng.randint(0, top) or "earned",
    }


def _level_up(rng: Random, command_id: UUID, lane: Lane) -> Send:
    sessions, projects = rng.randint(0, 1), int(rng.random() < 0.1)
    fields = {"xp_gained": rng.choice(_GAINS), "sessions_completed": sessions, "projects_completed": projects}
    if lane[1] == "COACH":
        fields |= {"theory_hours": rng.randint(0, 3), "practice_hours": rng.randint(0, 3)}
    return Send(LevelUp, command_id, lane, "applied", fields)


def _id(rng: Random, milliseconds: int) -> UUID:
    """A UUIDv7, as every command has, but drawn from the seed."""
    fraction, random = rng.getrandbits(12), rng.getrandbits(62)
    return UUID(int=(milliseconds & (2**48 - 1)) << 80 | 0x7 << 76 | fraction << 64 | 0b10 << 62 | random)
