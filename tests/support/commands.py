"""Records and ledger rows as the commands that they came from."""

from typing import Any
from uuid import UUID

from levelq_core import Adjust, Command, LevelUp, Reset, SetLevel, SyncLevels
from levelq_core.coupler.ledger import record_in
from levelq_core.domain import codec
from levelq_core.domain.record import ADJUST, EARNED, LEVEL_UP, RESET, SET_LEVEL, SOURCES, SYNC_LEVELS, Lane, Record

GAINS = ("xp_gained", "sessions_completed", "projects_completed", "theory_hours", "practice_hours")
CHANGES = ("xp_change", "sessions_change", "projects_change", "theory_hours_change", "practice_hours_change")
TOTALS = ("total_xp", "completed_sessions", "completed_projects", "theory_hours", "practice_hours")


def command_of(lane: Lane, record: Record) -> Command:
    common = {
        "user_id": lane.user_id,
        "specialization": lane.specialization,
        "command_id": UUID(bytes=record.command_id),
        "reason": record.reason,
        "advanced_by": record.advanced_by or None,
    }
    level = "earned" if record.level == EARNED else record.level
    names = {LEVEL_UP: GAINS, RESET: TOTALS, SYNC_LEVELS: ()}.get(record.kind, CHANGES)
    fields: dict[str, Any] = common | dict(zip(names, record[5:10], strict=bool(names)))
    if record.kind == LEVEL_UP:
        return LevelUp(**fields)
    if record.kind == SET_LEVEL:
        return SetLevel(**fields, new_level=record.level)
    if record.kind == SYNC_LEVELS:
        return SyncLevels(**fields | {"source": SOURCES[record.level]})
    if record.kind == ADJUST:
        return Adjust(**fields | {"level": level or "keep"})
    return Reset(**fields | {"level": level})


def command_in(row: Any) -> Command:
    """The command of one ledger row as it was sent, made as a retry makes it."""
    return codec.command_of(Lane(row.specialization, row.user_id), record_in(row))
