"""A user's history: decided commands, quarantined entries, and the lanes that are parked now."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from levelq_core.database.table_names import LEDGER, QUARANTINE
from levelq_core.domain.commands import MAX_USER_ID
from levelq_core.domain.outcome import ErrorCode, Status, Totals, totals
from levelq_core.errors import InvalidArgument, SchemaError
from levelq_core.keys import Partition
from levelq_core.lanes import parked
from levelq_core.operations.connections import lanes_of, require_engine
from levelq_core.operations.parked_advice import is_locked
from levelq_core.settings import Settings

from .problems import held_by, row_holder
from .records import ParkedLane, Reading

MOST_ENTRIES = 10_000  # of one page


class HistoryEntry(Reading):
    """One decided command: what it held, and what was decided.

    `xp` and the numbers below it are what the command adds; of a reset, the totals that it sets. `before` and `after`
    are None where no row was read. `at`: when the transaction began; commands of one batch have the same.
    """

    command_id: UUID
    user_id: int
    specialization: str
    kind: str
    status: Status
    error: ErrorCode | None
    message: str
    at: datetime
    xp: int
    sessions: int
    projects: int
    theory_hours: int
    practice_hours: int
    from_level: int | None
    to_level: int | None
    before: Totals | None
    after: Totals | None
    reason: str
    advanced_by: int | None


class QuarantinedEntry(Reading):
    """One entry of a user's lane that was no command. `raw`: its first 4 KiB, base64 in JSON; `length`: in bytes."""

    at: datetime
    specialization: str
    reason: str
    length: int
    raw: bytes


class ParkedUserLane(ParkedLane):
    """A lane of the user that is parked now.

    `waiting`: how many commands it holds, None if its key is no list. `retry_in_seconds`: until the next attempt, by
    the clock of Redis; 0 if it is due, None while a worker has it.
    """

    specialization: str
    waiting: int | None
    retry_in_seconds: float | None


class History:
    """What `levelq history` prints. Each call reads at most `limit` rows, by an index, and changes nothing.

    `engine`: a SQLAlchemy Engine on psycopg 3, the application's own; each call takes one connection and returns it.
    `settings`: for `parked`, which reads Redis; those of the environment unless given.

    A call blocks: on an event loop, run it in a thread. SQLAlchemy's errors are raised as they are.
    """

    def __init__(self, engine: Engine, settings: Settings | None = None) -> None:
        require_engine(engine)
        self._engine = engine
        self._settings = settings

    def of(
        self,
        user_id: int,
        specialization: str | None = None,
        *,
        limit: int = 50,
        before: UUID | datetime | None = None,
    ) -> tuple[HistoryEntry, ...]:
        """The user's decided commands, the newest first; of one specialization, or of all.

        `before`: for the next page, the `command_id` of the last entry of this one; or a time with a zone. Rows that
        were pruned are missing, and an id that the ledger does not keep has nothing before it. Raises InvalidArgument.
        """
        _check(user_id, limit)
        given: dict[str, Any] = {"user": user_id, "limit": limit}
        conditions = ["user_id = :user"]
        if specialization is not None:
            given["specialization"] = _upper(specialization)
            conditions.append("specialization = :specialization")
        if isinstance(before, datetime) and before.tzinfo is not None:
            conditions.append("applied_at < :before")
        elif isinstance(before, UUID):
            conditions.append(f"id < (SELECT id FROM {LEDGER} WHERE command_id = :before)")
        elif before is not None:
            message = f"before: expected a command_id (UUID) or a datetime with a zone, got {before!r}"
            raise InvalidArgument(message, field="before", value=before)
        if before is not None:
            given["before"] = before
        statement = text(f"{_DECIDED} WHERE {' AND '.join(conditions)} ORDER BY id DESC LIMIT :limit")
        with self._engine.connect() as connection:
            return tuple(_entry(row) for row in connection.execute(statement, given).mappings())

    def quarantined(self, user_id: int, *, limit: int = 50) -> tuple[QuarantinedEntry, ...]:
        """What workers took out of the user's lanes because it was no command, newest first. Raises InvalidArgument."""
        _check(user_id, limit)
        with self._engine.connect() as connection:
            rows = connection.execute(_QUARANTINED, {"user": user_id, "limit": limit}).mappings()
            return tuple(QuarantinedEntry.model_validate(dict(row)) for row in rows)

    def parked(self, user_id: int) -> tuple[ParkedUserLane, ...]:
        """The user's lanes that wait now, with the reason and what to do about it.

        Raises ConfigurationError if Redis cannot be read, InvalidArgument.
        """
        _check(user_id, 1)
        settings = Settings.of(self._settings)
        found: list[tuple[Partition, parked.UserLane]] = []
        with lanes_of(settings) as lanes:
            names = {partition.specialization for partition in lanes.partitions()} | set(settings.tracks)
            for name, layout in lanes.read_layouts(names).found.items():
                for partition in layout.holding(name, user_id):
                    lane = parked.of_user(lanes.redis, lanes.keys, partition, user_id)
                    found += [] if lane is None else [(partition, lane)]
        held: str | None = None
        if any(is_locked(lane.parked.reason) for _, lane in found):
            with suppress(DBAPIError, SchemaError), self._engine.connect() as connection:
                held = held_by(row_holder(connection, settings))
        return tuple(_user_lane(partition, lane, held) for partition, lane in found)


def _user_lane(partition: Partition, lane: parked.UserLane, held: str | None) -> ParkedUserLane:
    until = lane.parked.until_ms
    left = None if until is None else max(0.0, (until - lane.now_ms) / 1000)
    more = {"specialization": partition.specialization, "waiting": lane.waiting, "retry_in_seconds": left}
    return ParkedUserLane.of(partition, lane.parked, held, **more)


def _entry(row: Any) -> HistoryEntry:
    states = {name: totals(tuple(row[name])) if row[name] else None for name in ("before", "after")}
    return HistoryEntry.model_validate({**row, **states})


def _check(user_id: int, limit: int) -> None:
    for name, value, most in (("user_id", user_id, MAX_USER_ID), ("limit", limit, MOST_ENTRIES)):
        if type(value) is not int or not 1 <= value <= most:
            message = f"{name}: expected an integer from 1 to {most}, got {value!r}"
            raise InvalidArgument(message, field=name, value=value)


def _upper(specialization: str) -> str:
    if not isinstance(specialization, str):
        message = f"specialization: expected its name, got {specialization!r}"
        raise InvalidArgument(message, field="specialization", value=specialization)
    return specialization.upper()


# Newest first by id, which ascends in the order of effect; applied_at is when the transaction began.
_DECIDED = f"""
    SELECT command_id, user_id, specialization, kind, status, error, coalesce(message, '') AS message, applied_at AS at,
           xp, sessions, projects, theory_hours, practice_hours, from_level, to_level, before, after,
           coalesce(reason, '') AS reason, advanced_by
    FROM {LEDGER}
"""

_QUARANTINED = text(f"""
    SELECT at, specialization, reason, length, raw FROM {QUARANTINE}
    WHERE user_id = :user ORDER BY id DESC LIMIT :limit
""")
