"""The wire format: the bytes of a command in its lane. A promise; docs/reference/wire-format.md shows it.

    13 digits      milliseconds of Redis TIME when it was pushed (push.lua puts them in front)
    2s  B  B       magic "LQ", version of the kind's encoding, flags (bit 0: keep the outcome; bit 1: see the end)
    16s 16s        command id, digest
    B q 6i         kind, advanced_by (0: none), level, xp, sessions, projects, theory, practice
    rest           reason, UTF-8
    16s 8s         only with bit 1: trace id and parent id of the send's sampled trace

The digest covers the content: kind to reason, and the lane's user and specialization, which an entry does not repeat.
So an entry in another lane is malformed, and a command sent again in another trace is the same command. Numbers are
little-endian and of fixed width: one call reads an entry, and no number passes through a float (Lua's cjson rounds
beyond 2^53).
"""

from __future__ import annotations

from hashlib import blake2b
from operator import attrgetter
from struct import Struct
from struct import error as StructError
from typing import Any
from uuid import UUID

from .commands import MAX_NUMBER, MAX_USER_ID, Adjust, Command, LevelUp, Reset, SetLevel, SyncLevels, build
from .record import (
    ADJUST,
    EARNED,
    KEEP,
    LEVEL_UP,
    RESET,
    SET_LEVEL,
    SOURCES,
    SYNC_LEVELS,
    Lane,
    Record,
    lane_of,
    new_tuple,
)

VERSION = 2  # the newest that is read
MAGIC = b"LQ"
FLAG_REPLY, FLAG_TRACE = 1, 2
TRACE_BYTES = 24
# A worker leaves entries of a version that it does not know in their lanes, so each kind keeps its first version.
_KINDS_OF_VERSION = {1: (LEVEL_UP, SET_LEVEL, SYNC_LEVELS), 2: (ADJUST, RESET)}
_VERSION_OF_KIND = {kind: version for version, kinds in _KINDS_OF_VERSION.items() for kind in kinds}

STAMP_DIGITS = 13
IDENTITY_BYTES = 32  # id and digest: what ack.lua compares; see IDENTITY_AT
IDENTITY_AT = STAMP_DIGITS + 4
_HEADER = Struct("<2sBB16s16s")
_BODY = Struct("<Bq6i")
_STAMPED = Struct(f"<{STAMP_DIGITS}s2sBB16s16sBq6i")
_BODY_AT = STAMP_DIGITS + _HEADER.size
_FIXED = _STAMPED.size
_MAX_REASON_BYTES = 2000  # 500 characters of at most four bytes

_GAINS = ("xp_gained", "sessions_completed", "projects_completed", "theory_hours", "practice_hours")
_CHANGES = ("xp_change", "sessions_change", "projects_change", "theory_hours_change", "practice_hours_change")
_TOTALS = ("total_xp", "completed_sessions", "completed_projects", "theory_hours", "practice_hours")
_gains, _changes, _totals = attrgetter(*_GAINS), attrgetter(*_CHANGES), attrgetter(*_TOTALS)


class MalformedEntry(ValueError):
    """These bytes are no command; the message is the reason."""


class NewerVersion(ValueError):
    """A later levelq wrote this entry; a worker of that version must take it."""


def encode(command: Command, *, reply: bool = False) -> bytes:
    """The payload push.lua stamps and appends; at most 69 bytes and the reason."""
    return encoded(lane_of(command), command, reply=reply)[0]


def encoded(lane: Lane, command: Command, *, reply: bool = False) -> tuple[bytes, Record]:
    """The payload of a command of this lane, and the record that decoding its entry gives, but for the push's time."""
    body = _body(command)
    digest = _digest(lane.salt, body)
    command_id = command.command_id.bytes
    payload = _HEADER.pack(MAGIC, _VERSION_OF_KIND[body[0]], FLAG_REPLY if reply else 0, command_id, digest) + body
    return payload, new_tuple(Record, (command_id, digest, *_BODY.unpack_from(body), command.reason, reply, 0, b""))


def with_trace(payload: bytes, trace: bytes) -> bytes:
    """An encoded command that carries a trace context of TRACE_BYTES."""
    return b"%b%c%b%b" % (payload[:3], payload[3] | FLAG_TRACE, payload[4:], trace)


def record_of(command: Command) -> Record:
    """The record that decoding the command's entry gives."""
    return encoded(lane_of(command), command)[1]


def command_of(lane: Lane, record: Record, command_id: UUID | None = None) -> Command:
    """The command that a record of this lane holds, under another id if one is given. Raises InvalidCommand."""
    own = UUID(bytes=record.command_id) if command_id is None else command_id
    fields: dict[str, Any] = {"user_id": lane.user_id, "specialization": lane.specialization, "command_id": own}
    fields |= {"reason": record.reason, "advanced_by": record.advanced_by or None}
    kind, level, numbers = record.kind, record.level, record[5:10]
    if kind == LEVEL_UP:
        return build(LevelUp, **fields, **dict(zip(_GAINS, numbers, strict=True)))
    if kind == SYNC_LEVELS:
        return build(SyncLevels, **fields, source=SOURCES[level])
    if kind == RESET:
        totals = dict(zip(_TOTALS, numbers, strict=True))
        return build(Reset, **fields, **totals, level="earned" if level == EARNED else level)
    changes = dict(zip(_CHANGES, numbers, strict=True))
    if kind == ADJUST:
        return build(Adjust, **fields, **changes, level="earned" if level == EARNED else "keep")
    return build(SetLevel, **fields, **changes, new_level=level)


def digest_in(payload: bytes) -> bytes:
    """The digest in an encoded command, before push.lua puts its stamp in front."""
    return payload[20:36]


def _body(command: Command) -> bytes:
    by = command.advanced_by or 0
    if isinstance(command, LevelUp):
        fixed = _BODY.pack(LEVEL_UP, by, 0, *_gains(command))
    elif isinstance(command, SetLevel):
        fixed = _BODY.pack(SET_LEVEL, by, command.new_level, *_changes(command))
    elif isinstance(command, SyncLevels):
        fixed = _BODY.pack(SYNC_LEVELS, by, SOURCES.index(command.source), 0, 0, 0, 0, 0)
    elif isinstance(command, Adjust):
        fixed = _BODY.pack(ADJUST, by, EARNED if command.level == "earned" else KEEP, *_changes(command))
    else:
        fixed = _BODY.pack(RESET, by, EARNED if command.level == "earned" else command.level, *_totals(command))
    return fixed + command.reason.encode()


def _digest(salt: bytes, body: bytes) -> bytes:
    return blake2b(salt + body, digest_size=16).digest()


def decode(entry: bytes, salt: bytes) -> Record:
    """Read one stored entry of the lane that `salt` belongs to.

    Raises MalformedEntry for what no producer wrote for this lane, NewerVersion for what a later one did.
    """
    try:
        stamp, magic, version, flags, command_id, digest, kind, by, level, xp, sessions, projects, theory, practice = (
            _STAMPED.unpack_from(entry)
        )
    except StructError:
        raise _unreadable(entry) from None
    if magic != MAGIC or not 1 <= version <= VERSION:
        raise _unreadable(entry)
    trace = b""
    if flags & FLAG_TRACE:
        if len(entry) < _FIXED + TRACE_BYTES:
            raise MalformedEntry("its flags announce a trace context, which it does not have")
        entry, trace = entry[:-TRACE_BYTES], entry[-TRACE_BYTES:]
    if _digest(salt, entry[_BODY_AT:]) != digest:
        raise MalformedEntry("the digest does not match: damaged, or another lane's entry")
    reason = _reason(entry[_FIXED:]) if len(entry) > _FIXED else ""
    try:
        pushed_ms = int(stamp)
    except ValueError:
        raise MalformedEntry("no time stamp in front") from None
    reply = flags & FLAG_REPLY == FLAG_REPLY
    record = new_tuple(
        Record,
        (
            command_id,
            digest,
            kind,
            by,
            level,
            xp,
            sessions,
            projects,
            theory,
            practice,
            reason,
            reply,
            pushed_ms,
            trace,
        ),
    )
    if (
        kind != LEVEL_UP or version != 1 or by < 0 or level
        or xp < 0 or sessions < 0 or projects < 0 or theory < 0 or practice < 0
    ):  # fmt: skip
        _check(record, version)
    return record


def legible(entry: bytes) -> dict[str, int | str]:
    """The fields of a stamped entry as far as it has them, whatever is wrong with it; for people."""
    if entry[STAMP_DIGITS : STAMP_DIGITS + 2] != MAGIC:
        return {}
    stamp, _, version, flags, command_id, digest, *numbers = _STAMPED.unpack(entry[:_FIXED].ljust(_FIXED, b"\0"))
    values = (stamp.decode("ascii", "replace"), version, flags, str(UUID(bytes=command_id)), digest.hex(), *numbers)
    named = zip(_LEGIBLE, values, strict=True)
    found: dict[str, int | str] = {name: value for (name, end), value in named if end <= len(entry)}
    return found if len(entry) <= _FIXED else found | {"reason": entry[_FIXED:].decode(errors="replace")}


# Where each field of an entry ends.
_LEGIBLE = (
    ("stamp", 13), ("version", 16), ("flags", 17), ("command_id", 33), ("digest", 49), ("kind", 50),
    ("advanced_by", 58), ("level", 62), ("xp", 66), ("sessions", 70), ("projects", 74), ("theory_hours", 78),
    ("practice_hours", 82),
)  # fmt: skip


def _unreadable(entry: bytes) -> MalformedEntry | NewerVersion:
    """The error of an entry that this version cannot read."""
    if entry[STAMP_DIGITS : STAMP_DIGITS + 2] != MAGIC:
        return MalformedEntry("not a levelq entry")
    if entry[STAMP_DIGITS + 2 : STAMP_DIGITS + 3] > bytes([VERSION]):
        return NewerVersion(f"encoding version {entry[STAMP_DIGITS + 2]}; this worker knows {VERSION}")
    if len(entry) < _FIXED:
        return MalformedEntry(f"{len(entry)} bytes, expected at least {_FIXED}")
    return MalformedEntry(f"encoding version {entry[STAMP_DIGITS + 2]}, which never existed")


def _reason(raw: bytes) -> str:
    try:
        reason = raw.decode()
    except UnicodeDecodeError:
        raise MalformedEntry("the reason is not UTF-8") from None
    if len(raw) > _MAX_REASON_BYTES or len(reason) > 500 or "\0" in reason:
        raise MalformedEntry("the reason is too long or contains NUL")
    return reason


def _check(record: Record, version: int) -> None:
    """The bounds of the command models, for entries whose writer did not check them."""
    kind = record.kind
    if kind not in _KINDS_OF_VERSION[version]:
        raise MalformedEntry(f"unknown kind {kind} of encoding version {version}")
    if kind == LEVEL_UP:
        if min(record[5:10]) < 0 or record.level:
            raise MalformedEntry("a level_up with a negative gain or a level")
    elif kind == SYNC_LEVELS:
        if record.level not in (0, 1) or any(record[5:10]):
            raise MalformedEntry("a sync_levels with an unknown source or with changes")
    elif kind == RESET:
        if min(record[5:10]) < 0:
            raise MalformedEntry("a reset to a negative total")
    elif kind == ADJUST and record.level not in (KEEP, EARNED):
        raise MalformedEntry("an adjust with a level that is neither keep nor earned")
    elif min(record[5:10]) < -MAX_NUMBER or (kind == SET_LEVEL and record.level < -MAX_NUMBER):
        raise MalformedEntry("a number below its range")
    if not 0 <= record.advanced_by <= MAX_USER_ID:
        raise MalformedEntry("advanced_by below 0")
