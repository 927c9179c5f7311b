"""The coupler for use in the application's own process, on its own SQLAlchemy session.

The same code as the workers run, one command at a time; the two may be used side by side. No call here
raises for a refused command: each returns a plain dict that says what happened.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NotRequired, TypedDict
from uuid import UUID

from pydantic import ValidationError
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.orm import Session

from . import rules
from .apply import apply_commands, entered, gather
from .catalog import Catalog
from .codec import SOURCES
from .commands import Command, LevelUp, SetLevel, SyncLevels
from .errors import InvalidCommand, LevelqError
from .ledger import write
from .outcome import Outcome, Totals
from .rules import Decision, State
from .sqlstate import in_words

ErrorType = Literal["validation_error", "database_error", "unknown_error"]


class Failure(TypedDict):
    """Any call that changed nothing."""

    success: Literal[False]
    message: str
    error_type: ErrorType


class ProgressChange(TypedDict):
    """The progress row, before and after."""

    old_level: int
    new_level: int
    total_xp: int
    completed_sessions: int


class LicenseChange(TypedDict):
    """The license row, before and after."""

    old_level: int
    new_level: int
    max_achieved_level: int


class Change(TypedDict):
    """A level-up or an update that was applied, now or at an earlier call with the same command_id."""

    success: Literal[True]
    message: str
    progress: ProgressChange
    license: LicenseChange
    progression_created: bool
    xp_change: int
    sessions_change: int


class Sync(TypedDict):
    """A sync that was applied."""

    success: Literal[True]
    message: str
    action: str
    final_level: int


class Consistency(TypedDict):
    """How the two rows of a lane stand to each other."""

    consistent: bool
    message: str
    progress_exists: bool
    license_exists: bool
    level: NotRequired[int]
    progress_level: NotRequired[int]
    license_level: NotRequired[int]
    difference: NotRequired[int]
    recommended_action: NotRequired[str]


class ProgressLicenseCoupler:
    """Moves one learner's progress and license together on the caller's session.

    Each change flushes the session's pending work, commits it with the change if that is applied, rolls
    both back if not, and expires the session's objects.
    """

    def __init__(self, session: Session, *, catalog: Catalog | None = None) -> None:
        self._session = session
        self._catalog = catalog

    def update_level_atomic(
        self,
        user_id: int,
        specialization: str,
        new_level: int,
        xp_change: int = 0,
        sessions_change: int = 0,
        projects_change: int = 0,
        theory_hours_change: int = 0,
        practice_hours_change: int = 0,
        advanced_by: int | None = None,
        reason: str = "",
        command_id: UUID | None = None,
    ) -> Change | Failure:
        """Set both levels (1 to the top of the catalog) and add the changes, which may be negative.

        The same `command_id` again returns the first decision; None makes a new one.
        """
        return self._change(
            lambda: SetLevel(
                user_id=user_id,
                specialization=specialization,
                new_level=new_level,
                xp_change=xp_change,
                sessions_change=sessions_change,
                projects_change=projects_change,
                theory_hours_change=theory_hours_change,
                practice_hours_change=practice_hours_change,
                advanced_by=advanced_by,
                reason=reason,
                **_identified(command_id),
            )
        )

    def level_up_atomic(
        self,
        user_id: int,
        specialization: str,
        xp_gained: int,
        sessions_completed: int = 0,
        reason: str = "Level up",
        command_id: UUID | None = None,
    ) -> Change | Failure:
        """Add experience and sessions (0 or more) and rise as far as the totals earn."""
        return self._change(
            lambda: LevelUp(
                user_id=user_id,
                specialization=specialization,
                xp_gained=xp_gained,
                sessions_completed=sessions_completed,
                reason=reason,
                **_identified(command_id),
            )
        )

    def sync_existing_records_atomic(
        self,
        user_id: int,
        specialization: str,
        source: Literal["progress", "license"] = "progress",
        command_id: UUID | None = None,
    ) -> Sync | Failure:
        """Copy the level of `source` to the other table, making its row if it is missing."""
        decided = self._decide(
            lambda: SyncLevels(user_id=user_id, specialization=specialization, source=source, **_identified(command_id))
        )
        if not isinstance(decided, Outcome):
            return decided
        assert decided.before is not None and decided.to_level is not None
        return {
            "success": True,
            "message": decided.message,
            "action": rules.sync_action(_state(decided.before), SOURCES.index(source)),
            "final_level": decided.to_level,
        }

    def validate_consistency(self, user_id: int, specialization: str) -> Consistency | Failure:
        """Compare the two levels in one statement. Neither row there counts as consistent."""
        try:
            row = self._session.execute(_BOTH_LEVELS, {"user": user_id, "specialization": specialization.upper()}).one()
        except (SQLAlchemyError, AttributeError) as error:
            self._session.rollback()
            return _failure("database_error" if isinstance(error, SQLAlchemyError) else "validation_error", error)
        return compare(*row)

    def _change(self, build: Callable[[], Command]) -> Change | Failure:
        decided = self._decide(build)
        if not isinstance(decided, Outcome):
            return decided
        before, after = decided.before, decided.after
        assert before is not None and after is not None
        return {
            "success": True,
            "message": decided.message,
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
            "progression_created": decided.from_level != decided.to_level,
            "xp_change": after.total_xp - before.total_xp,
            "sessions_change": after.completed_sessions - before.completed_sessions,
        }

    def _decide(self, build: Callable[[], Command]) -> Outcome | Failure:
        try:
            command = build()
        except ValidationError as error:
            return _failure("validation_error", InvalidCommand.from_details(error.errors(include_url=False)))
        try:
            return self._commit(command)
        except (SQLAlchemyError, LevelqError) as error:
            self._session.rollback()
            return _failure("database_error", error)
        except Exception as error:
            self._session.rollback()
            return _failure("unknown_error", error)

    def _commit(self, command: Command) -> Outcome | Failure:
        session = self._session
        session.flush()
        (decided,) = apply_commands(session.connection(), [command], catalog=self._catalog)
        if decided.status == "applied":
            session.commit()
            session.expire_all()
            return decided
        session.rollback()
        if decided.error != "conflict" and not decided.duplicate:
            self._record(command, decided)
        error_type: ErrorType = "database_error" if decided.error == "database_error" else "validation_error"
        return {"success": False, "message": decided.message, "error_type": error_type}

    def _record(self, command: Command, decided: Outcome) -> None:
        """Keep the rejection, without the caller's pending work, so that the same id gets the same answer."""
        assert decided.error is not None
        connection = self._session.connection()
        (work,) = gather([command])
        before, after = (_state(totals) if totals else None for totals in (decided.before, decided.after))
        decision = Decision(decided.error, decided.message, before=before, after=after)
        with entered(connection, "direct") as (cursor, stamp):
            write(cursor, [(work.lane, work.records[0], decision)], stamp)
        self._session.commit()


def level_up_atomic(
    db: Session,
    user_id: int,
    specialization: str,
    xp_gained: int,
    sessions_completed: int = 0,
    reason: str = "Level up",
    command_id: UUID | None = None,
) -> Change | Failure:
    """Level one learner up on the caller's session; see ProgressLicenseCoupler."""
    return ProgressLicenseCoupler(db).level_up_atomic(
        user_id, specialization, xp_gained, sessions_completed, reason, command_id
    )


def compare(progress: int | None, license_: int | None) -> Consistency:
    """Say how two levels stand to each other; None is a row that is missing."""
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


def _identified(command_id: UUID | None) -> dict[str, Any]:
    return {} if command_id is None else {"command_id": command_id}


def _state(totals: Totals) -> State:
    return tuple(getattr(totals, name) for name in rules.FIELDS)


def _failure(error_type: ErrorType, error: Exception) -> Failure:
    cause = error.orig if isinstance(error, DBAPIError) and isinstance(error.orig, Exception) else error
    return {"success": False, "message": in_words(cause), "error_type": error_type}


# Both levels in one statement, so that a commit between two reads cannot look like a difference.
_BOTH_LEVELS = text("""
    SELECT p.current_level, l.current_level
    FROM (SELECT CAST(:user AS bigint) AS id, CAST(:specialization AS text) AS name) AS lane
    LEFT JOIN specialization_progress p ON p.student_id = lane.id AND p.specialization_id = lane.name
    LEFT JOIN user_licenses l ON l.user_id = lane.id AND l.specialization_type = lane.name
""")
