"""A user's history: decided commands, quarantined entries, and the lanes that are parked now."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from levelq_core.database.table_names import LEDGER, QUARANTINE
from levelq_core.domain.commands import MAX_USER_ID
from levelq_core.domain.outcome import ErrorCode, Status, Totals, totals
from levelq_core.domain.record import KIND_NAMES
from levelq_core.errors import InvalidArgument, SchemaError
from levelq_core.operations.connections import redis_of, require_engine
from levelq_core.operations.parked_advice import is_locked
from levelq_core.settings import Settings

from .levels import Levels, rows_of
from .problems import held_by, row_holder
from .records import CommandContent, Reading
from .selection import check_text, last_id_before_since
from .waiting import ParkedUserLane, WaitingLane, user_lanes

MOST_ENTRIES = 10_000  # of one page


class HistoryEntry(CommandContent):
    """One decided command: what it held, and what was decided.

    `before` and `after` are None where no row was read. `at`: when the transaction began; commands of one batch have
    the same. `xid`: the transaction's id in PostgreSQL. `source`: where the batch came from, such as `queue`,
    `direct` or `cancel`. `worker`: which worker process decided it (`host:pid`), None if it was no worker.
    """

    status: Status
    error: ErrorCode | None
    message: str
    at: datetime
    from_level: int | None
    to_level: int | None
    before: Totals | None
    after: Totals | None
    batch: UUID
    xid: int
    source: str
    worker: str | None


class QuarantinedEntry(Reading):
    """One entry of a user's lane that was no command. `raw`: its first 4 KiB, base64 in JSON; `length`: in bytes."""

    at: datetime
    specialization: str
    reason: str
    length: int
    raw: bytes


class Wanted(NamedTuple):
    """Which of a user's entries: of one specialization, of these kinds, decided from `since` on and before `until`.

    `kinds`: of commands, as in the ledger; empty for all. Times have a zone.
    """

    user_id: int
    specialization: str | None = None
    kinds: tuple[str, ...] = ()
    since: datetime | None = None
    until: datetime | None = None


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
        kinds: Sequence[str] = (),
        since: datetime | None = None,
    ) -> tuple[HistoryEntry, ...]:
        """The user's decided commands, the newest first; of one specialization, or of all.

        `before`: for the next page, the `command_id` of the last entry of this one; or a time with a zone. `since`: the
        first time that is included. `kinds`: only these kinds of commands, such as `level_up`. Rows that were pruned
        are missing, and an id that the ledger does not keep has nothing before it. Raises InvalidArgument.
        """
        if before is not None and not (isinstance(before, UUID) or _is_time(before)):
            message = f"before: expected a command_id (UUID) or a datetime with a zone, got {before!r}"
            raise InvalidArgument(message, field="before", value=before)
        until, entry = (before, None) if isinstance(before, datetime) else (None, before)
        wanted = wanted_of(user_id, limit, specialization, kinds=kinds, since=since, until=until)
        with self._engine.connect() as connection:
            return decided(connection, wanted, limit, before=entry)

    def command(self, command_id: UUID) -> HistoryEntry | None:
        """One decided command, None if the ledger does not have it; it has what the direct calls decided, too.

        Raises InvalidArgument for an id that is no UUID.
        """
        if not isinstance(command_id, UUID):
            message = f"command_id: expected a UUID, got {command_id!r}"
            raise InvalidArgument(message, field="command_id", value=command_id)
        with self._engine.connect() as connection:
            row = connection.execute(text(f"{_DECIDED} WHERE command_id = :id"), {"id": command_id}).mappings().first()
        return None if row is None else _entry(row)

    def quarantined(self, user_id: int, *, limit: int = 50) -> tuple[QuarantinedEntry, ...]:
        """What workers took out of the user's lanes because it was no command, newest first. Raises InvalidArgument."""
        check_arguments(user_id, limit)
        with self._engine.connect() as connection:
            return quarantined(connection, Wanted(user_id), limit)

    def levels(self, user_id: int) -> tuple[Levels, ...]:
        """The user's levels in both tables, by specialization. Raises InvalidArgument."""
        check_arguments(user_id, 1)
        with self._engine.connect() as connection:
            return tuple(found.levels for found in rows_of(connection, user_id))

    def waiting(self, user_id: int) -> tuple[WaitingLane, ...]:
        """The user's lanes that hold commands or are parked, each with its first commands, and why it is parked.

        Raises ConfigurationError if Redis cannot be read, InvalidArgument.
        """
        check_arguments(user_id, 1)
        settings = Settings.of(self._settings)
        with redis_of(settings) as redis:
            found = list(user_lanes(redis, settings, user_id))
        held: str | None = None
        if any(lane.parked is not None and is_locked(lane.parked.reason) for lane, *_ in found):
            with suppress(DBAPIError, SchemaError), self._engine.connect() as connection:
                held = held_by(row_holder(connection, settings))
        kept = (one for one in found if one[0].waiting != 0 or one[0].parked)
        return tuple(WaitingLane.of(lane, first, held, paused) for lane, first, paused in kept)

    def parked(self, user_id: int) -> tuple[ParkedUserLane, ...]:
        """Those of `waiting` that are parked: with the reason and what to do about it. Raises the same."""
        return tuple(lane.parked for lane in self.waiting(user_id) if lane.parked is not None)


def decided(
    connection: Connection, wanted: Wanted, limit: int, *, before: UUID | None = None
) -> tuple[HistoryEntry, ...]:
    """The newest decided commands among those wanted, the newest first; `before` one, if given. Raises DBAPIError."""
    conditions = ["user_id = :user_id", *_conditions(wanted, "applied_at")]
    if wanted.kinds:
        conditions.append("kind = ANY(CAST(:kinds AS text[]))")
    if before is not None:
        conditions.append(f"id < (SELECT id FROM {LEDGER} WHERE command_id = :before)")
    first = None
    if wanted.since is not None:  # without ids, all rows of the user would be looked at for the last few
        first = last_id_before_since(connection, LEDGER, "applied_at", wanted.since)
        conditions.append("id > :first")
    statement = text(f"{_DECIDED} WHERE {' AND '.join(conditions)} ORDER BY id DESC LIMIT :limit")
    given = {**wanted._asdict(), "kinds": list(wanted.kinds), "limit": limit, "before": before, "first": first}
    return tuple(_entry(row) for row in connection.execute(statement, given).mappings())


def quarantined(connection: Connection, wanted: Wanted, limit: int) -> tuple[QuarantinedEntry, ...]:
    """The newest entries that were no command, the newest first. Raises DBAPIError."""
    conditions = " AND ".join(["user_id = :user_id", *_conditions(wanted, "at")])
    statement = text(f"{_QUARANTINED} WHERE {conditions} ORDER BY id DESC LIMIT :limit")
    rows = connection.execute(statement, {**wanted._asdict(), "limit": limit}).mappings()
    return tuple(QuarantinedEntry.model_validate(dict(row)) for row in rows)


def wanted_of(
    user_id: int,
    limit: int,
    specialization: str | None = None,
    *,
    kinds: Sequence[str] = (),
    since: datetime | None = None,
    until: datetime | None = None,
) -> Wanted:
    """What a caller wants to read, checked. Raises InvalidArgument."""
    check_arguments(user_id, limit)
    for name, moment in (("since", since), ("until", until)):
        if moment is not None and not _is_time(moment):
            message = f"{name}: expected a datetime with a zone, got {moment!r}"
            raise InvalidArgument(message, field=name, value=moment)
    return Wanted(user_id, _upper(specialization), kinds_of(kinds), since, until)


def kinds_of(kinds: Sequence[str]) -> tuple[str, ...]:
    """Kinds of commands as the ledger spells them: `level-up` is `level_up`. Raises InvalidArgument."""
    found = tuple(kind.lower().replace("-", "_") for kind in kinds)
    for kind, folded in zip(kinds, found, strict=True):
        if folded not in KIND_NAMES.values():
            message = f"kinds: expected some of {', '.join(KIND_NAMES.values())}, got {kind!r}"
            raise InvalidArgument(message, field="kinds", value=kind)
    return found


def _conditions(wanted: Wanted, moment: str) -> list[str]:
    """What restricts the rows to the specialization and the times that are wanted."""
    conditions = ["specialization = :specialization"] if wanted.specialization is not None else []
    conditions += [f"{moment} >= :since"] if wanted.since is not None else []
    return conditions + ([f"{moment} < :until"] if wanted.until is not None else [])


def _entry(row: Any) -> HistoryEntry:
    states = {name: totals(tuple(row[name])) if row[name] else None for name in ("before", "after")}
    return HistoryEntry.model_validate({**row, **states})


def _is_time(value: object) -> bool:
    return isinstance(value, datetime) and value.tzinfo is not None


def check_arguments(user_id: int, limit: int) -> None:
    """Raise InvalidArgument for a user or a limit out of range."""
    for name, value, most in (("user_id", user_id, MAX_USER_ID), ("limit", limit, MOST_ENTRIES)):
        if type(value) is not int or not 1 <= value <= most:
            message = f"{name}: expected an integer from 1 to {most}, got {value!r}"
            raise InvalidArgument(message, field=name, value=value)


def _upper(specialization: str | None) -> str | None:
    if specialization is not None and not isinstance(specialization, str):
        message = f"specialization: expected its name, got {specialization!r}"
        raise InvalidArgument(message, field="specialization", value=specialization)
    check_text("specialization", specialization)
    return None if specialization is None else specialization.upper()


# By id, which ascends in the order of effect; applied_at is when the transaction began.
_DECIDED = f"""
    SELECT command_id, user_id, specialization, kind, status, error, coalesce(message, '') AS message, applied_at AS at,
           xp, sessions, projects, theory_hours, practice_hours, level, mode, from_level, to_level, before, after,
           coalesce(reason, '') AS reason, advanced_by, batch, xid, source, worker
    FROM {LEDGER}
"""

_QUARANTINED = f"SELECT at, specialization, reason, length, raw FROM {QUARANTINE}"
