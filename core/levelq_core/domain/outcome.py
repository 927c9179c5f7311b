"""The decision on a command as an application sees it."""

from __future__ import annotations

from typing import Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from .record import Lane, Record
from .rules import FIELDS, Decision, State, describe

Status = Literal["applied", "rejected"]
ErrorCode = Literal["validation_error", "conflict", "database_error", "cancelled"]


class Totals(BaseModel):
    """Both rows of one lane at one moment. A level of 0: there was no such row."""

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

    `from_level` and `to_level` are the license's. `before` is what the command started from, including rows that it
    creates (level 1, no totals); None where no row was read. `duplicate`: the same command was decided before.
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


def outcome(lane: Lane, record: Record, decision: Decision) -> Outcome:
    """The outcome of a command of this lane."""
    return Outcome(
        command_id=UUID(bytes=record.command_id),
        user_id=lane.user_id,
        specialization=lane.specialization,
        status="rejected" if decision.error else "applied",
        error=decision.error,
        message=describe(record, decision),
        duplicate=decision.duplicate,
        from_level=decision.from_level,
        to_level=decision.to_level,
        before=totals(decision.before),
        after=totals(decision.after),
    )


def totals(state: State | None) -> Totals | None:
    """A state of the rules as Totals."""
    return None if state is None else Totals(**dict(zip(FIELDS, state, strict=True)))


def state_of(totals: Totals) -> State:
    """Totals as a state of the rules."""
    return tuple(getattr(totals, name) for name in FIELDS)
