"""The work: which users level up, in which order, by how much. All rivals get the same work."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from levelq_core import LevelUp

from .site import SPECIALIZATION

SEED = 1
MAX_XP = 100  # one command brings 1 to 100: a level now and then


class Grant(NamedTuple):
    """One level-up."""

    user_id: int
    xp: int


class Workload(NamedTuple):
    """Commands for some users, the same number for each, in random order.

    `every`: one of this many learners is such a user.
    """

    name: str
    users: int
    commands: int
    every: int = 1

    @property
    def learners(self) -> int:
        """How many learners there are."""
        return self.users * self.every

    def grants(self) -> list[Grant]:
        """The commands, in order."""
        chance = random.Random(SEED)
        users = [1 + self.every * (n % self.users) for n in range(self.commands)]
        chance.shuffle(users)
        return [Grant(user, chance.randint(1, MAX_XP)) for user in users]


def level_ups(grants: Sequence[Grant]) -> Iterator[LevelUp]:
    """As levelq's commands."""
    for user_id, xp in grants:
        yield LevelUp(user_id=user_id, specialization=SPECIALIZATION, xp_gained=xp, sessions_completed=1)
