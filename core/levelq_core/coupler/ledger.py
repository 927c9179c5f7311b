"""The ledger: which commands were decided, and how. Its unique command id makes the effect exactly once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from struct import Struct
from typing import Any, NamedTuple

from levelq_core.database.cursors import Cursor
from levelq_core.database.pgbinary import NULL, copy_data, eight_bigints, field, uuids
from levelq_core.database.table_names import LEDGER
from levelq_core.domain.record import (
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
)
from levelq_core.domain.rules import Decision
from levelq_core.failpoints import failpoint

from .lane_batch import BatchInfo, LaneBatch

# The columns of a row about its command, besides command_id, digest, user_id and specialization.
COMMAND_COLUMNS = "kind, xp, sessions, projects, theory_hours, practice_hours, level, mode, advanced_by, reason"

# The ledger's rows in binary format, as `write` packs them.
LEDGER_COPY = (
    f"COPY {LEDGER} (command_id, user_id, specialization, kind, status, error, message, digest, xp, sessions, "
    "projects, theory_hours, practice_hours, level, mode, advanced_by, reason, from_level, to_level, before, after, "
    "batch, xid, source, worker) FROM STDIN (FORMAT BINARY)"
)
_COLUMNS = 25

# The decisions on these commands.
_FIND = f"""
    SELECT command_id, digest, user_id, specialization, error, message, from_level, to_level, before, after
    FROM {LEDGER} WHERE command_id = ANY(%b)
"""


class PriorDecision(NamedTuple):
    """The decision on a command, and the lane and content that its id was first used for."""

    lane: Lane
    digest: bytes
    decision: Decision


def find(cursor: Cursor[Any], lane_batches: Sequence[LaneBatch]) -> dict[bytes, PriorDecision]:
    """The commands among these that were decided before, by id."""
    ids = uuids([record.command_id for batch in lane_batches for record in batch.records])
    return {row[0].bytes: prior_in(row) for row in cursor.execute(_FIND, (ids,))}


def prior_in(row: Sequence[Any]) -> PriorDecision:
    """The decision that a row holds; the columns are those of _FIND."""
    _, digest, user_id, specialization, error, message, from_level, to_level, before, after = row
    states = (tuple(before) if before else None, tuple(after) if after else None)
    decision = Decision(error, message or "", from_level, to_level, *states)
    return PriorDecision(Lane(specialization, user_id), digest, decision)


def answer(prior: PriorDecision, record: Record) -> Decision:
    """The decision for a command whose id was used before: the first one again, or a conflict."""
    if prior.digest == record.digest:
        return prior.decision._replace(duplicate=True)
    message = f"command_id was used before, for another command of {prior.lane.specialization}:{prior.lane.user_id}"
    return Decision("conflict", message)


def record_in(row: Any) -> Record:
    """The command of one ledger row as a record; the row has COMMAND_COLUMNS, command_id and digest."""
    numbers = (row.xp, row.sessions, row.projects, row.theory_hours, row.practice_hours)
    level = row.level or 0 if row.mode is None else _LEVELS_OF_MODES[row.mode]
    kind, author = _KINDS[row.kind], row.advanced_by or 0
    return Record(row.command_id.bytes, bytes(row.digest), kind, author, level, *numbers, row.reason or "")


def write(
    cursor: Cursor[Any], rows: Iterable[tuple[Lane, Record, Decision]], info: BatchInfo, *, encoding: str
) -> None:
    """Append decided commands in order: ids ascend as they take effect. `encoding`: the database's."""
    packed = list(_pack(rows, info, encoding))
    if packed:
        with cursor.copy(LEDGER_COPY) as copy:
            failpoint("copy")
            copy.write(copy_data(packed))


def _pack(rows: Iterable[tuple[Lane, Record, Decision]], info: BatchInfo, encoding: str) -> Iterator[bytes]:
    """The rows for LEDGER_COPY. Commands of a batch have much in common; that is packed once."""
    tail = field(info.batch) + field(info.xid.to_bytes(8, "big")) + field(info.source.encode())
    tail += field(info.worker.encode() if info.worker else None)
    settings: dict[tuple[int, int, int], bytes] = {}
    last_lane, lane_fields = None, b""
    last_state, packed_state = None, NULL
    for lane, record, decision in rows:
        if lane is not last_lane:
            last_lane = lane
            lane_fields = field(lane.user_id.to_bytes(8, "big")) + field(lane.specialization.encode())
        command_id, digest, kind, author, level, xp, sessions, projects, theory, practice, reason, _, _, _ = record
        error, _, from_level, to_level, before, after, _ = decision
        setting = settings.get((kind, author, level)) or settings.setdefault((kind, author, level), _setting(record))
        # What a command leaves is what the lane's next one finds: the same object.
        packed_before = packed_state if before is last_state else eight_bigints(before)
        last_state, packed_state = after, packed_before if after is before else eight_bigints(after)
        yield b"".join((
            _ID.pack(_COLUMNS, 16, command_id),
            lane_fields,
            _APPLIED[kind] if error is None else _rejected(kind, decision),
            _NUMBERS.pack(16, digest, 4, xp, 4, sessions, 4, projects, 4, theory, 4, practice),
            setting,
            _reason(reason, encoding) if reason else NULL,
            NULL + NULL if from_level is None or to_level is None else _LEVELS.pack(4, from_level, 4, to_level),
            packed_before,
            packed_state,
            tail,
        ))  # fmt: skip


_ID = Struct(">hi16s")
_NUMBERS = Struct(">i16siiiiiiiiii")
_LEVELS = Struct(">iiii")
_KINDS = {name: kind for kind, name in KIND_NAMES.items()}
# What stands in `mode` instead of a level, by kind and the record's level.
MODES = {
    **{(SYNC_LEVELS, level): source for level, source in enumerate(SOURCES)},
    (ADJUST, KEEP): "keep",
    (ADJUST, EARNED): "earned",
    (RESET, EARNED): "earned",
}
_LEVELS_OF_MODES = {mode: level for (_, level), mode in MODES.items()}
_APPLIED = {kind: field(name.encode()) + field(b"applied") + NULL + NULL for kind, name in KIND_NAMES.items()}


def _setting(record: Record) -> bytes:
    """Level, mode and author."""
    mode = MODES.get((record.kind, record.level))
    names_level = mode is None and record.kind in (SET_LEVEL, RESET)
    level = record.level.to_bytes(4, "big", signed=True) if names_level else None
    author = record.advanced_by.to_bytes(8, "big") if record.advanced_by else None
    return field(level) + field(mode.encode() if mode else None) + field(author)


def _reason(reason: str, encoding: str) -> bytes:
    """The reason. A database of another encoding than UTF8 may lack characters: they are written as escapes."""
    return field(reason.encode() if encoding == "UTF8" else reason.encode("ascii", "backslashreplace"))


def _rejected(kind: int, decision: Decision) -> bytes:
    assert decision.error is not None
    kind_name = KIND_NAMES[kind].encode()
    return b"".join(map(field, (kind_name, b"rejected", decision.error.encode(), decision.message.encode())))
