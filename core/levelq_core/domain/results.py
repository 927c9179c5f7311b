"""What the direct calls return: plain dicts, typed.

`committed` is present, and False, only where the caller owns the transaction and must commit it.
"""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict, final

from .outcome import Outcome, state_of
from .record import SOURCES
from .rules import sync_action

ErrorType = Literal["validation_error", "database_error", "unknown_error"]


@final
class Failure(TypedDict):
    """Any call that changed nothing."""

    success: Literal[False]
    message: str
    error_type: ErrorType
    committed: NotRequired[bool]


@final
class ProgressChange(TypedDict):
    """The progress row, before and after."""

    old_level: int
    new_level: int
    total_xp: int
    completed_sessions: int


@final
class LicenseChange(TypedDict):
    """The license row, before and after."""

    old_level: int
    new_level: int
    max_achieved_level: int


@final
class Change(TypedDict):
    """A change of totals or levels that was applied, now or at an earlier call with the same command_id."""

    success: Literal[True]
    message: str
    progress: ProgressChange
    license: LicenseChange
    progression_created: bool
    xp_change: int
    sessions_change: int
    committed: NotRequired[bool]


@final
class Sync(TypedDict):
    """A sync that was applied."""

    success: Literal[True]
    message: str
    action: str
    final_level: int
    committed: NotRequired[bool]


@final
class Consistency(TypedDict):
    """Whether the two rows of a lane are at the same level."""

    consistent: bool
    message: str
    progress_exists: bool
    license_exists: bool
    level: NotRequired[int]
    progress_level: NotRequired[int]
    license_level: NotRequired[int]
    difference: NotRequired[int]
    recommended_action: NotRequired[str]


def changed(outcome: Outcome) -> Change:
    """The result of an applied change."""
    before, after = outcome.before, outcome.after
    assert before is not None and after is not None
    return {
        "success": True,
        "message": outcome.message,
        "progress": {
            "old_level": before.progress_level,
            "new_level": after.progress_level,
            "total_xp": after.total_xp,
            "completed_sessions": after.completed_sessions,
        },
        "license": {
            "old_level": before.license_level,
            "new_level": after.license_level,
            "max_achieved_level": after.max_achieved_level,
        },
        "progression_created": outcome.from_level != outcome.to_level,
        "xp_change": after.total_xp - before.total_xp,
        "sessions_change": after.completed_sessions - before.completed_sessions,
    }


def synced(outcome: Outcome, source: str) -> Sync:
    """The result of an applied sync."""
    assert outcome.before is not None and outcome.to_level is not None
    return {
        "success": True,
        "message": outcome.message,
        "action": sync_action(state_of(outcome.before), SOURCES.index(source)),
        "final_level": outcome.to_level,
    }


def compare(progress: int | None, license_: int | None) -> Consistency:
    """Compare two levels; None is a missing row."""
    found: Consistency = {
        "consistent": progress == license_,
        "message": "Neither row exists" if progress is None else f"Both at level {progress}",
        "progress_exists": progress is not None,
        "license_exists": license_ is not None,
    }
    if progress is not None and progress == license_:
        found["level"] = progress
    elif progress is not None and license_ is not None:
        found |= {
            "message": f"Desync detected: Progress={progress}, License={license_}",
            "progress_level": progress,
            "license_level": license_,
            "difference": abs(progress - license_),
            "recommended_action": "sync_to_higher_level",
        }
    elif progress is not None:
        found |= {
            "message": f"License missing: Progress={progress}",
            "progress_level": progress,
            "recommended_action": "create_license_from_progress",
        }
    elif license_ is not None:
        found |= {
            "message": f"Progress missing: License={license_}",
            "license_level": license_,
            "recommended_action": "create_progress_from_license",
        }
    return found
