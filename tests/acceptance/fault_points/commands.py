"""The commands of a scenario: the same kinds for every lane, in rounds of which each lane gets a few."""

from __future__ import annotations

from levelq_core import Adjust, Command, LevelUp, Reset, SetLevel, SyncLevels

USERS = range(1, 21)
PER_LANE = 3  # commands of a round for each lane


class Workload:
    """Makes the rounds, and knows what must become of all that was made."""

    def __init__(self, specializations: tuple[str, ...]) -> None:
        self._lanes = [(user, name) for name in specializations for user in USERS]
        self._made = 0
        self.applied = self.rejected = 0

    @property
    def commands(self) -> int:
        """How many were made."""
        return self.applied + self.rejected

    def round(self) -> list[Command]:
        """The next commands of every lane, in turn."""
        numbers = range(self._made, self._made + PER_LANE)
        self._made += PER_LANE
        refused = sum(_refused(n) for n in numbers) * len(self._lanes)
        self.rejected += refused
        self.applied += PER_LANE * len(self._lanes) - refused
        return [_command(user, name, n) for n in numbers for user, name in self._lanes]


def _refused(n: int) -> bool:
    return n % 11 == 4


def _command(user: int, name: str, n: int) -> Command:
    """The lane's n-th command: mostly level-ups, some that move levels down, and now and then one that is refused."""
    if _refused(n):
        return SetLevel(user_id=user, specialization=name, new_level=2, xp_change=-2_000_000_000)
    if n % 7 == 3:
        return SetLevel(user_id=user, specialization=name, new_level=1 + n % 3, xp_change=5)
    if n % 7 == 5:
        return SyncLevels(user_id=user, specialization=name)
    if n % 7 == 1:  # after a level-up, so that there is something to take away
        return Adjust(user_id=user, specialization=name, xp_change=-100, level="earned")
    if n % 7 == 6:
        return Reset(user_id=user, specialization=name, total_xp=900)
    return LevelUp(user_id=user, specialization=name, xp_gained=300, sessions_completed=1)
