"""The records that the rules work on: a lane, and a command as plain numbers."""

from __future__ import annotations

from typing import NamedTuple

from .commands import Command

LEVEL_UP, SET_LEVEL, SYNC_LEVELS, ADJUST, RESET = 1, 2, 3, 4, 5
KIND_NAMES = {
    LEVEL_UP: "level_up", SET_LEVEL: "set_level", SYNC_LEVELS: "sync_levels", ADJUST: "adjust", RESET: "reset",
}  # fmt: skip
SOURCES = ("progress", "license")  # the level field of a SyncLevels holds its source, as an index of this
KEEP, EARNED = 0, -(2**31)  # in the level field of an Adjust or a Reset: below every level a command can name


class Lane(NamedTuple):
    """One user in one specialization: the unit of order, of claims and of row locks."""

    specialization: str
    user_id: int

    @property
    def salt(self) -> bytes:
        """What ties a digest to its lane."""
        return f"{self.specialization}:{self.user_id}:".encode()


class Record(NamedTuple):
    """A validated command. `advanced_by`: 0 if there is none. A Reset's numbers are totals, the others' are changes.

    `trace`: the sender's trace context, which is no part of the content; empty without one.
    """

    command_id: bytes
    digest: bytes
    kind: int
    advanced_by: int
    level: int
    xp: int
    sessions: int
    projects: int
    theory: int
    practice: int
    reason: str = ""
    reply: bool = False
    pushed_ms: int = 0
    trace: bytes = b""


# Makes a NamedTuple of all its fields, without its own constructor, which is a Python function.
new_tuple = tuple.__new__


def lane_of(command: Command) -> Lane:
    """The lane a command belongs to."""
    return new_tuple(Lane, (command.specialization, command.user_id))
