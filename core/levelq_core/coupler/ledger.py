"""The ledger: which commands were decided, and how. Its unique command id makes the effect exactly once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from struct import Struct
from typing import Any, NamedTuple

from levelq_core.database.cursors import Cursor
from levelq_core.database.pgbinary import COPY_HEADER, COPY_TRAILER, NULL, field, uuids
from levelq_core.database.table_names import LEDGER
from levelq_core.domain.codec import (
    ADJUST,
    EARNED,
    KEEP,
    KIND_NAMES,
    RESET,
    SET_LEVEL,
    SOURCES,
    SYNC_LEVELS,
    Lane,
    Record,
    command_of,
)
from levelq_core.domain.commands import Command
from levelq_core.domain.rules import Decision, State
from levelq_core.failpoints import failpoint

from .lane_batch import BatchInfo, LaneBatch

# What a row holds of its command besides command_id, digest, user_id and specialization.
COMMAND_COLUMNS = "kind, xp, sessions, projects, theory_hours, practice_hours, level, mode, advanced_by, reason"

# The ledger's rows in binary format, as `write` packs them.
LEDGER_COPY = (
    f"COPY {LEDGER} (command_id, user_id, specialization, kind, status, error, message, digest, xp, sessions, "
    "projects, theory_hours, practice_hours, level, mode, advanced_by, reason, from_level, to_level, before, after, "
    "batch, xid, source) FROM STDIN (FORMAT BINARY)"
)
_COLUMNS = 24

# Which of these commands were decided before, and how.
_FIND = f"""
    SELECT command_id, digest, user_id, specialization, error, message, from_level, to_level, before, after
    FROM {LEDGER} WHERE command_id = ANY(%b)
"""


class PriorDecision(NamedTuple):
    """A command that was decided: for which lane, with which content, and how."""

    lane: Lane
    digest: bytes
    decision: Decision


def find(cursor: Cursor[Any], works: Sequence[LaneBatch]) -> dict[bytes, PriorDecision]:
    """The commands among these that were decided before."""
    ids = uuids([record.command_id for work in works for record in work.records])
    return {row[0].bytes: known_of(row) for row in cursor.execute(_FIND, (ids,))}


def known_of(row: Sequence[Any]) -> PriorDecision:
    """The decision that a row holds; the columns are those of _FIND."""
    _, digest, user_id, specialization, error, message, from_level, to_level, before, after = row
    states = (tuple(before) if before else None, tuple(after) if after else None)
    return PriorDecision(
        Lane(specialization, user_id), digest, Decision(error, message or "", from_level, to_level, *states)
    )


def answer(known: PriorDecision, record: Record) -> Decision:
    """The decision for a command whose id was used before: the first one again, or a conflict."""
    if known.digest == record.digest:
        return known.decision._replace(duplicate=True)
    message = f"command_id was used before, for another command of {known.lane.specialization}:{known.lane.user_id}"
    return Decision("conflict", message)


def record_in(row: Any) -> Record:
    """The command of one ledger row as a record; the row has COMMAND_COLUMNS, command_id and digest."""
    numbers = (row.xp, row.sessions, row.projects, row.theory_hours, row.practice_hours)
    level = row.level or 0 if row.mode is None else _LEVELS_OF_MODES[row.mode]
    kind, author = _KINDS[row.kind], row.advanced_by or 0
    return Record(row.command_id.bytes, bytes(row.digest), kind, author, level, *numbers, row.reason or "")


def command_in(row: Any) -> Command:
    """The command of one ledger row as it was sent, with its id; the row has also user_id and specialization."""
    return command_of(Lane(row.specialization, row.user_id), record_in(row))


def write(
    cursor: Cursor[Any], rows: Iterable[tuple[Lane, Record, Decision]], stamp: BatchInfo, *, encoding: str
) -> None:
    """Append decided commands in order: ids ascend as they take effect. `encoding`: the database's."""
    tail = field(stamp.batch) + field(stamp.xid.to_bytes(8, "big")) + field(stamp.source.encode())
    parts = [COPY_HEADER]
    settings: dict[tuple[int, int, int], bytes] = {}
    last_lane, last_state, place, packed = None, None, b"", NULL
    for lane, record, decision in rows:
        if lane is not last_lane:
            last_lane, place = lane, field(lane.user_id.to_bytes(8, "big")) + field(lane.specialization.encode())
        command_id, digest, kind, author, level, xp, sessions, projects, theory, practice, reason, _, _ = record
        error, _, from_level, to_level, before, after, _ = decision
        said = (kind, author, level)  # most commands of a batch have the same
        setting = settings.get(said) or settings.setdefault(said, _setting(record))
        # What a command leaves is what the lane's next one finds: the same object, packed once.
        found = packed if before is last_state else _state(before)
        last_state, packed = after, found if after is before else _state(after)
        parts += (
            _ID.pack(_COLUMNS, 16, command_id),
            place,
            _APPLIED[kind] if error is None else _rejected(kind, decision),
            _NUMBERS.pack(16, digest, 4, xp, 4, sessions, 4, projects, 4, theory, 4, practice),
            setting,
            _reason(reason, encoding) if reason else NULL,
            NULL + NULL if from_level is None or to_level is None else _LEVELS.pack(4, from_level, 4, to_level),
            found,
            packed,
            tail,
        )
    if len(parts) == 1:
        return
    parts.append(COPY_TRAILER)
    with cursor.copy(LEDGER_COPY) as copy:
        failpoint("copy")
        copy.write(b"".join(parts))


_ID = Struct(">hi16s")
_NUMBERS = Struct(">i16siiiiiiiiii")
_LEVELS = Struct(">iiii")
_STATE = Struct(">iiiIii" + "iq" * 8)
_KINDS = {name: kind for kind, name in KIND_NAMES.items()}
_MODES = {
    **{(SYNC_LEVELS, level): source for level, source in enumerate(SOURCES)},
    (ADJUST, KEEP): "keep",
    (ADJUST, EARNED): "earned",
    (RESET, EARNED): "earned",
}
_LEVELS_OF_MODES = {mode: level for (_, level), mode in _MODES.items()}
_APPLIED = {kind: field(name.encode()) + field(b"applied") + NULL + NULL for kind, name in KIND_NAMES.items()}


def _setting(record: Record) -> bytes:
    """Level, mode and author."""
    mode = _MODES.get((record.kind, record.level))
    names_level = mode is None and record.kind in (SET_LEVEL, RESET)
    return b"".join(
        (
            field(record.level.to_bytes(4, "big", signed=True) if names_level else None),
            field(mode.encode() if mode else None),
            field(record.advanced_by.to_bytes(8, "big") if record.advanced_by else None),
        )
    )


def _reason(reason: str, encoding: str) -> bytes:
    """The reason. What a database of another encoding than UTF8 may not know is written as an escape."""
    return field(reason.encode() if encoding == "UTF8" else reason.encode("ascii", "backslashreplace"))


def _rejected(kind: int, decision: Decision) -> bytes:
    assert decision.error is not None
    kind_name = KIND_NAMES[kind].encode()
    return b"".join(map(field, (kind_name, b"rejected", decision.error.encode(), decision.message.encode())))


def _state(state: State | None) -> bytes:
    """A bigint[8]: the fields of Totals, in their order."""
    if state is None:
        return NULL
    a, b, c, d, e, f, g, h = state
    return _STATE.pack(116, 1, 0, 20, 8, 1, 8, a, 8, b, 8, c, 8, d, 8, e, 8, f, 8, g, 8, h)
