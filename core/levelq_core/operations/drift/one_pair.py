"""Put one pair of levels in step at once: what `levelq sync USER SPECIALIZATION` does."""

from __future__ import annotations

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from levelq_core.coupler.direct import ProgressLicenseCoupler
from levelq_core.domain import rules
from levelq_core.domain.commands import SyncLevels
from levelq_core.domain.record import Lane
from levelq_core.domain.results import Failure, Sync
from levelq_core.errors import InvalidCommand
from levelq_core.operations import audit
from levelq_core.settings import Settings


def require_lane(settings: Settings, user_id: int, specialization: str) -> None:
    """Raise InvalidCommand if the catalog lacks the specialization, or no user can have this id."""
    refusal = rules.lane_refusal(Lane(specialization, user_id), settings.tracks, rules.Limits())
    if refusal is not None:
        field = refusal.partition(":")[0]
        value = user_id if field == "user_id" else specialization
        raise InvalidCommand(refusal, field=field, value=value)


def sync_pair(engine: Engine, settings: Settings, command: SyncLevels, *, actor: str | None = None) -> Sync | Failure:
    """Copy the level of the command's source to the other row, without the queue.

    If it is applied, the same transaction writes a line into the audit. `actor`: who acts, unless it is the account of
    this process. Raises InvalidCommand, DBAPIError.
    """
    user_id, name = command.user_id, command.specialization
    require_lane(settings, user_id, name)
    with Session(engine) as session, session.begin():
        coupler = ProgressLicenseCoupler(session, catalog=settings.tracks)
        result = coupler.sync_existing_records_atomic(user_id, name, command.source, command.command_id)
        if result["success"]:
            detail = {"source": command.source, "command_id": str(command.command_id)}
            audit.record(session.connection(), "sync", audit.user_target(user_id, name), detail, actor=actor)
    return result
