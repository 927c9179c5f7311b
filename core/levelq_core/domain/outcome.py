"""What became of a command: the values an application gets to see."""

from __future__ import annotations

from typing import Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict

Status = Literal["applied", "rejected"]
ErrorCode = Literal["validation_error", "conflict", "database_error", "cancelled"]


class Totals(BaseModel):
    """Both rows of one lane at one moment. A level of 0 says that there was no such row."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    progress_level: int
    license_level: int
    max_achieved_level: int
    total_xp: int
    completed_sessions: int
    completed_projects: int
    theory_hours: int
    practice_hours: int


class Outcome(BaseModel):
    """The decision on one command.

    `from_level` and `to_level` are the license's. `before` is what the command started from, the rows
    that a command creates included (level 1, no totals); it is None where no row was read.
    `duplicate` says that this is the answer to an earlier send of the same command.
    """

    model_config = ConfigDict(frozen=True, defer_build=True)

    command_id: UUID
    user_id: int
    specialization: str
    status: Status
    error: ErrorCode | None = None
    message: str = ""
    duplicate: bool = False
    from_level: int | None = None
    to_level: int | None = None
    before: Totals | None = None
    after: Totals | None = None
