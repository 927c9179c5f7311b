"""The coupler in the application's own process, on its own SQLAlchemy session.

It runs the workers' code, one command at a time, and may run beside workers. Each call returns a plain dict with
what happened; for a refused command it raises LevelUpRefused only with `raise_on_failure=True`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeVar
from uuid import UUID

from pydantic import ValidationError
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from levelq_core.domain.catalog import Catalog
from levelq_core.domain.commands import Adjust, Command, LevelUp, Reset, SetLevel, SyncLevels, fields_of
from levelq_core.domain.outcome import Outcome
from levelq_core.domain.record import lane_of
from levelq_core.domain.results import Change, Consistency, Failure, Sync, changed, compare, synced
from levelq_core.errors import LevelqError, LevelUpRefused

from .direct_transaction import DirectTransaction, failure, invalid
from .sessions import AnySession, check_session, session_of

_R = TypeVar("_R", Change, Sync)


class ProgressLicenseCoupler:
    """Moves one learner's progress and license together on the caller's session.

    Each change flushes the session's pending work and commits it together with an applied change. A refused change, or
    an invalid argument, rolls back what the session holds. But a transaction that the caller owns by a block
    (`session.begin()`, `begin_nested()`, a transaction on the session's Connection) is neither committed nor rolled
    back: there a change is one SAVEPOINT, and the result has `"committed": False`.

    `session` is a Session or a scoped_session; `db` is another name for it. Raises TypeError for anything else, and if
    both or neither are given. A session with several engines (`binds`, or a `get_bind` of its own) must use one for
    both tables. `catalog`: the settings' unless given. With `raise_on_failure=True`, a method raises LevelUpRefused
    where it would return a failure.
    """

    def __init__(
        self, session: AnySession | None = None, *, db: AnySession | None = None, catalog: Catalog | None = None
    ) -> None:
        if session is not None and db is not None:
            raise TypeError("session, db: expected one of the two, got both")
        given = db if session is None else session
        if given is None:
            raise TypeError("session or db: expected a SQLAlchemy Session, got NoneType")
        check_session(given)
        self._given = given
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
        *,
        idempotency_key: str | None = None,
        raise_on_failure: bool = False,
    ) -> Change | Failure:
        """Set both levels (1 to the top of the catalog) and add the changes, which may be negative.

        The same `command_id` again returns the first decision; None makes a new one. An `idempotency_key` of 1 to 200
        characters may be given instead, here and in the other calls.
        """
        return self._apply(SetLevel, locals(), changed)

    def level_up_atomic(
        self,
        user_id: int,
        specialization: str,
        xp_gained: int,
        sessions_completed: int = 0,
        reason: str = "Level up",
        command_id: UUID | None = None,
        *,
        idempotency_key: str | None = None,
        raise_on_failure: bool = False,
    ) -> Change | Failure:
        """Add experience and sessions (0 or more) and rise as far as the totals earn."""
        return self._apply(LevelUp, locals(), changed)

    def adjust_atomic(
        self,
        user_id: int,
        specialization: str,
        xp_change: int = 0,
        sessions_change: int = 0,
        projects_change: int = 0,
        theory_hours_change: int = 0,
        practice_hours_change: int = 0,
        level: Literal["keep", "earned"] = "keep",
        advanced_by: int | None = None,
        reason: str = "",
        command_id: UUID | None = None,
        *,
        idempotency_key: str | None = None,
        raise_on_failure: bool = False,
    ) -> Change | Failure:
        """Add the changes, which may be negative; the levels stay, or become what the new totals earn, up or down."""
        return self._apply(Adjust, locals(), changed)

    def reset_atomic(
        self,
        user_id: int,
        specialization: str,
        total_xp: int = 0,
        completed_sessions: int = 0,
        completed_projects: int = 0,
        theory_hours: int = 0,
        practice_hours: int = 0,
        level: int | Literal["earned"] = "earned",
        advanced_by: int | None = None,
        reason: str = "",
        command_id: UUID | None = None,
        *,
        idempotency_key: str | None = None,
        raise_on_failure: bool = False,
    ) -> Change | Failure:
        """Set all totals (0 or more), and both levels to what these earn or to one of the catalog's."""
        return self._apply(Reset, locals(), changed)

    def sync_existing_records_atomic(
        self,
        user_id: int,
        specialization: str,
        source: Literal["progress", "license"] = "progress",
        command_id: UUID | None = None,
        *,
        idempotency_key: str | None = None,
        raise_on_failure: bool = False,
    ) -> Sync | Failure:
        """Copy the level of `source` to the other table, inserting its row if it is missing."""
        return self._apply(SyncLevels, locals(), lambda outcome: synced(outcome, source))

    def validate_consistency(self, user_id: int, specialization: str) -> Consistency | Failure:
        """Compare the two levels in one statement. Neither row there counts as consistent."""
        try:
            lane = lane_of(SyncLevels(user_id=user_id, specialization=specialization))
        except ValidationError as error:
            return failure("validation_error", invalid(error))
        try:
            row = self._transaction().read(_BOTH_LEVELS, {"user": lane.user_id, "name": lane.specialization})
        except (SQLAlchemyError, LevelqError) as error:
            return failure("database_error", error)
        except Exception as error:
            return failure("unknown_error", error)
        return compare(*row)

    def _transaction(self) -> DirectTransaction:
        return DirectTransaction(session_of(self._given), self._catalog)

    def _apply(
        self, kind: type[Command], arguments: dict[str, Any], result_of: Callable[[Outcome], _R]
    ) -> _R | Failure:
        """Apply a command whose fields are the arguments of the method that calls this."""
        transaction = self._transaction()
        try:
            result = result_of(transaction.apply(kind, fields_of(kind, arguments)))
        except LevelUpRefused as refused:
            if arguments["raise_on_failure"]:
                raise
            return refused.result
        if transaction.is_callers:
            result["committed"] = False
        return result


def level_up_atomic(
    db: AnySession,
    user_id: int,
    specialization: str,
    xp_gained: int,
    sessions_completed: int = 0,
    reason: str = "Level up",
    command_id: UUID | None = None,
    *,
    idempotency_key: str | None = None,
    raise_on_failure: bool = False,
) -> Change | Failure:
    """Level one learner up on the caller's session; see ProgressLicenseCoupler.

    On an AsyncSession: `await session.run_sync(level_up_atomic, user_id, specialization, xp_gained)`.
    """
    return ProgressLicenseCoupler(db).level_up_atomic(
        user_id,
        specialization,
        xp_gained,
        sessions_completed,
        reason,
        command_id,
        idempotency_key=idempotency_key,
        raise_on_failure=raise_on_failure,
    )


# Both levels in one statement, so that a commit between two reads cannot look like a difference. Cast to one
# type: a prepared statement fails once the types of its results change.
_BOTH_LEVELS = text("""
    SELECT CAST(p.current_level AS bigint), CAST(l.current_level AS bigint)
    FROM (SELECT CAST(:user AS bigint) AS id, CAST(:name AS text) AS name) AS lane
    LEFT JOIN specialization_progress p ON p.student_id = lane.id AND p.specialization_id = lane.name
    LEFT JOIN user_licenses l ON l.user_id = lane.id AND l.specialization_type = lane.name
""")
