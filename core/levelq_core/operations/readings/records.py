"""What the records of the readings have in common."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, PlainSerializer

from levelq_core.coupler.ledger import MODES
from levelq_core.domain.record import KIND_NAMES, RESET, SET_LEVEL, Lane, Record
from levelq_core.keys import Partition
from levelq_core.lanes import parked
from levelq_core.operations.parked_advice import remedy
from levelq_core.operations.wording import iso_utc, time_of
from levelq_core.untrusted_text import printable

Time = Annotated[datetime, PlainSerializer(iso_utc, return_type=str, when_used="json")]


class Reading(BaseModel):
    """A frozen record; `model_dump_json()` gives its JSON."""

    model_config = ConfigDict(frozen=True, defer_build=True, ser_json_bytes="base64", val_json_bytes="base64")


class CommandContent(Reading):
    """What a command holds.

    `xp` and the numbers below it are what it adds; of a reset, the totals that it sets. `level`: the level that it
    names. `mode`: the source of a sync; of an adjust or a reset, `keep` or `earned` instead of a level.
    """

    command_id: UUID
    user_id: int
    specialization: str
    kind: str
    xp: int
    sessions: int
    projects: int
    theory_hours: int
    practice_hours: int
    level: int | None
    mode: str | None
    reason: str
    advanced_by: int | None

    @classmethod
    def of_record(cls, lane: Lane, record: Record) -> Self:
        """The content of a decoded command."""
        mode = MODES.get((record.kind, record.level))
        return cls(
            command_id=UUID(bytes=record.command_id),
            user_id=lane.user_id,
            specialization=lane.specialization,
            kind=KIND_NAMES[record.kind],
            xp=record.xp,
            sessions=record.sessions,
            projects=record.projects,
            theory_hours=record.theory,
            practice_hours=record.practice,
            level=record.level if mode is None and record.kind in (SET_LEVEL, RESET) else None,
            mode=mode,
            reason=record.reason,
            advanced_by=record.advanced_by or None,
        )

    def in_words(self) -> str:
        """The kind and what it adds or sets, on one line: `level_up +150 XP, +1 sessions`."""
        numbers = {
            "XP": self.xp,
            "sessions": self.sessions,
            "projects": self.projects,
            "theory hours": self.theory_hours,
            "practice hours": self.practice_hours,
        }
        sign = "" if self.kind == "reset" else "+"
        said = [f"to level {self.level}"] if self.level is not None else []
        said += [f"from {self.mode}" if self.kind == "sync_levels" else f"level {self.mode}"] if self.mode else []
        said += [
            f"{number:{sign},} {name}" for name, number in numbers.items() if number or (name == "XP" and not said)
        ]
        return f"{self.kind} {', '.join(said)}"

    def origin(self) -> str:
        """The author and the reason, as a text that follows another: `; by 3, "a match"`. Empty without both."""
        said = [f"by {self.advanced_by}"] if self.advanced_by is not None else []
        said += [f'"{printable(self.reason)}"'] if self.reason else []
        return f"; {', '.join(said)}" if said else ""


class ParkedLane(Reading):
    """A lane that waits: since when, until when, why, and what to do about it.

    `until`: the earliest time of the next attempt, None while a worker has the lane or its user is paused. `user` is
    a text only if the key in Redis names no user.
    """

    partition: str
    user: int | str
    since: Time
    until: Time | None
    attempts: int
    reason: str
    remedy: str

    @classmethod
    def of(cls, partition: Partition, lane: parked.ParkedLane, held: str | None, **more: object) -> Self:
        """The record of a lane. `held`: what to do about the rows that other code holds."""
        return cls.model_validate({
            "partition": str(partition),
            "user": int(lane.user) if lane.user.isdecimal() else lane.user,
            "since": time_of(lane.since_ms),
            "until": None if lane.until_ms is None else time_of(lane.until_ms),
            "attempts": lane.attempts,
            "reason": lane.reason,
            "remedy": remedy(lane, held),
            **more,
        })  # fmt: skip
