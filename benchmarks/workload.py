"""The work: who levels up, in which order, by how much. The same seed gives the same work to everybody."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from levelq_core import LevelUp

from .site import SPECIALIZATION

SEED = 1
TOP_XP = 100  # one command brings 1 to so much: a level now and then, as in life


class Grant(NamedTuple):
    """One level-up, as every rival gets it."""

    user_id: int
    xp: int


class Workload(NamedTuple):
    """So many commands for so many users, in a random order that gives each user the same number.

    `every`: of so many learners one is such a user.
    """

    name: str
    users: int
    commands: int
    every: int = 1

    @property
    def learners(self) -> int:
        """All of them."""
        return self.users * self.every

    def grants(self) -> list[Grant]:
        """All of it."""
        chance = random.Random(SEED)
        users = [1 + self.every * (n % self.users) for n in range(self.commands)]
        chance.shuffle(users)
        return [Grant(user, chance.randint(1, TOP_XP)) for user in users]


def level_ups(grants: Sequence[Grant]) -> Iterator[LevelUp]:
    """As levelq's commands."""
    for user_id, xp in grants:
        yield LevelUp(user_id=user_id, specialization=SPECIALIZATION, xp_gained=xp, sessions_completed=1)
