"""The coupler for use in the application's own process, on its own SQLAlchemy session.

The same code as the workers run, one command at a time; the two may be used side by side. No call here
raises for a refused command: each returns a plain dict that says what happened.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal
from uuid import UUID

from pydantic import ValidationError
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.orm import Session

from . import rules
from .apply import apply_commands, entered, gather
from .catalog import Catalog
from .codec import SOURCES, lane_of
from .commands import Command, LevelUp, SetLevel, SyncLevels
from .errors import InvalidCommand, LevelqError
from .ledger import write
from .outcome import Outcome, Totals
from .results import Change, Consistency, ErrorType, Failure, Sync, compare
from .rules import Decision, State
from .sqlstate import ErrorClass, classify, in_words


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
            lane = lane_of(SyncLevels(user_id=user_id, specialization=specialization))
        except ValidationError as error:
            return _invalid(error)
        try:
            row = self._session.execute(_BOTH_LEVELS, {"user": lane.user_id, "name": lane.specialization}).one()
        except SQLAlchemyError as error:
            self._session.rollback()
            return _failure("database_error", error)
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
            return _invalid(error)
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
        if decided.error != "conflict" and not decided.duplicate and not self._record(command, decided):
            return self._commit(command)
        error_type: ErrorType = "database_error" if decided.error == "database_error" else "validation_error"
        return {"success": False, "message": decided.message, "error_type": error_type}

    def _record(self, command: Command, decided: Outcome) -> bool:
        """Keep the rejection, without the caller's pending work, so that the same id gets the same answer.

        False if somebody else has decided the same id meanwhile: theirs is the first decision.
        """
        assert decided.error is not None
        connection = self._session.connection()
        (work,) = gather([command])
        before, after = (_state(totals) if totals else None for totals in (decided.before, decided.after))
        decision = Decision(decided.error, decided.message, before=before, after=after)
        try:
            with entered(connection, "direct") as (cursor, stamp):
                write(cursor, [(work.lane, work.records[0], decision)], stamp)
        except DBAPIError as error:
            if not isinstance(error.orig, Exception) or classify(error.orig) is not ErrorClass.RETRY:
                raise
            self._session.rollback()
            return False
        self._session.commit()
        return True


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


def _identified(command_id: UUID | None) -> dict[str, Any]:
    return {} if command_id is None else {"command_id": command_id}


def _state(totals: Totals) -> State:
    return tuple(getattr(totals, name) for name in rules.FIELDS)


def _invalid(error: ValidationError) -> Failure:
    return _failure("validation_error", InvalidCommand.from_details(error.errors(include_url=False)))


def _failure(error_type: ErrorType, error: Exception) -> Failure:
    cause = error.orig if isinstance(error, DBAPIError) and isinstance(error.orig, Exception) else error
    return {"success": False, "message": in_words(cause), "error_type": error_type}


# Both levels in one statement, so that a commit between two reads cannot look like a difference.
_BOTH_LEVELS = text("""
    SELECT p.current_level, l.current_level
    FROM (SELECT CAST(:user AS bigint) AS id, CAST(:name AS text) AS name) AS lane
    LEFT JOIN specialization_progress p ON p.student_id = lane.id AND p.specialization_id = lane.name
    LEFT JOIN user_licenses l ON l.user_id = lane.id AND l.specialization_type = lane.name
""")
