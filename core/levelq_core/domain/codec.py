"""The wire format: how a command lies in its lane. A promise; docs/reference/wire-format.md shows it.

    13 digits      milliseconds of Redis TIME when it was pushed (push.lua puts them in front)
    2s  B  B       magic "LQ", version of the kind's encoding, flags (bit 0: keep the outcome for the sender)
    16s 16s        command id, digest
    B q 6i         kind, advanced_by (0: nobody), level, xp, sessions, projects, theory, practice
    rest           reason, UTF-8

User and specialization are the lane's, so no entry repeats them, yet the digest covers them: an entry
in a lane it was not made for is rubbish. Numbers are little-endian and fixed in width: a worker reads
an entry in one call, and no number passes through a float (Lua's cjson would round beyond 2^53).
"""

from __future__ import annotations

from hashlib import blake2b
from operator import attrgetter
from struct import Struct
from struct import error as StructError
from typing import NamedTuple
from uuid import UUID

from .commands import MAX_NUMBER, MAX_USER_ID, Adjust, Command, LevelUp, Reset, SetLevel, SyncLevels

VERSION = 2  # the newest that is read
MAGIC = b"LQ"
FLAG_REPLY = 1

LEVEL_UP, SET_LEVEL, SYNC_LEVELS, ADJUST, RESET = 1, 2, 3, 4, 5
KIND_NAMES = {
    LEVEL_UP: "level_up", SET_LEVEL: "set_level", SYNC_LEVELS: "sync_levels", ADJUST: "adjust", RESET: "reset",
}  # fmt: skip
# A worker that does not know a kind must leave its entries where they are, so each kind keeps the version it came with.
KINDS_OF_VERSION = {1: (LEVEL_UP, SET_LEVEL, SYNC_LEVELS), 2: (ADJUST, RESET)}
VERSION_OF_KIND = {kind: version for version, kinds in KINDS_OF_VERSION.items() for kind in kinds}
SOURCES = ("progress", "license")  # a SyncLevels carries its source in the level field, as an index here
KEEP, EARNED = 0, -(2**31)  # in the level field of an Adjust or a Reset: below every level a command can name

STAMP_DIGITS = 13
IDENTITY_BYTES = 32  # id and digest: what ack.lua compares; see IDENTITY_AT
IDENTITY_AT = STAMP_DIGITS + 4
_HEADER = Struct("<2sBB16s16s")
_BODY = Struct("<Bq6i")
_STAMPED = Struct(f"<{STAMP_DIGITS}s2sBB16s16sBq6i")
_BODY_AT = STAMP_DIGITS + _HEADER.size
_FIXED = _STAMPED.size
MAX_REASON_BYTES = 2000  # 500 characters of at most four bytes


_GAINS = ("xp_gained", "sessions_completed", "projects_completed", "theory_hours", "practice_hours")
_CHANGES = ("xp_change", "sessions_change", "projects_change", "theory_hours_change", "practice_hours_change")
_TOTALS = ("total_xp", "completed_sessions", "completed_projects", "theory_hours", "practice_hours")
_changes_of, _totals_of = attrgetter(*_CHANGES), attrgetter(*_TOTALS)


class Lane(NamedTuple):
    """One user in one specialization: the unit of order, of claims and of row locks."""

    specialization: str
    user_id: int

    @property
    def salt(self) -> bytes:
        """What ties a digest to its lane."""
        return f"{self.specialization}:{self.user_id}:".encode()


class Record(NamedTuple):
    """A command as the coupler folds it: plain fields, no validation left to do, nothing to look up."""

    command_id: bytes
    digest: bytes
    kind: int
    advanced_by: int
    level: int
    xp: int
    sessions: int
    projects: int
    theory: int
    practice: int
    reason: str = ""
    reply: bool = False
    pushed_ms: int = 0


# Makes a NamedTuple of all its fields: its own constructor is a Python function more, 0.3 us for each of a command's.
make = tuple.__new__


class MalformedEntry(ValueError):
    """These bytes are no command; the message says why."""


class NewerVersion(ValueError):
    """A later levelq wrote this entry; a worker of that version must take it."""


def lane_of(command: Command) -> Lane:
    """The lane a command belongs to."""
    return Lane(command.specialization, command.user_id)


def _body(command: Command) -> bytes:
    by = command.advanced_by or 0
    if isinstance(command, LevelUp):
        fixed = _BODY.pack(
            LEVEL_UP,
            by,
            0,
            command.xp_gained,
            command.sessions_completed,
            command.projects_completed,
            command.theory_hours,
            command.practice_hours,
        )
    elif isinstance(command, SetLevel):
        fixed = _BODY.pack(SET_LEVEL, by, command.new_level, *_changes_of(command))
    elif isinstance(command, SyncLevels):
        fixed = _BODY.pack(SYNC_LEVELS, by, SOURCES.index(command.source), 0, 0, 0, 0, 0)
    elif isinstance(command, Adjust):
        level = EARNED if command.level == "earned" else KEEP
        fixed = _BODY.pack(ADJUST, by, level, *_changes_of(command))
    else:
        level = EARNED if command.level == "earned" else command.level
        fixed = _BODY.pack(RESET, by, level, *_totals_of(command))
    return fixed + command.reason.encode()


def _digest(salt: bytes, body: bytes) -> bytes:
    return blake2b(salt + body, digest_size=16).digest()


def encode(command: Command, *, reply: bool = False) -> bytes:
    """The payload push.lua stamps and appends; at most 69 bytes and the reason."""
    return encoded(command, reply=reply)[0]


def encoded(command: Command, *, reply: bool = False) -> tuple[bytes, Record]:
    """The payload, and the record that its entry gives when it is decoded, but for the time of the push."""
    body = _body(command)
    digest = _digest(lane_of(command).salt, body)
    command_id = command.command_id.bytes
    payload = _HEADER.pack(MAGIC, VERSION_OF_KIND[body[0]], FLAG_REPLY if reply else 0, command_id, digest) + body
    return payload, make(Record, (command_id, digest, *_BODY.unpack_from(body), command.reason, reply, 0))


def digest_in(payload: bytes) -> bytes:
    """The digest in an encoded command, before push.lua puts its stamp in front."""
    return payload[20:36]


def record_of(command: Command) -> Record:
    """The same record that decoding the command's entry gives, without the detour."""
    return encoded(command)[1]


def command_of(lane: Lane, record: Record) -> Command:
    """The public command a record stands for."""
    common = {
        "user_id": lane.user_id,
        "specialization": lane.specialization,
        "command_id": UUID(bytes=record.command_id),
        "reason": record.reason,
        "advanced_by": record.advanced_by or None,
    }
    kind, level = record.kind, record.level
    if kind == SYNC_LEVELS:
        return SyncLevels.model_validate(common | {"source": SOURCES[level]})
    names = {LEVEL_UP: _GAINS, RESET: _TOTALS}.get(kind, _CHANGES)
    fields = common | dict(zip(names, record[5:10], strict=True))
    if kind == LEVEL_UP:
        return LevelUp.model_validate(fields)
    if kind == SET_LEVEL:
        return SetLevel.model_validate(fields | {"new_level": level})
    if kind == ADJUST:
        return Adjust.model_validate(fields | {"level": "earned" if level == EARNED else "keep"})
    return Reset.model_validate(fields | {"level": "earned" if level == EARNED else level})


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
    if blake2b(salt + entry[_BODY_AT:], digest_size=16).digest() != digest:
        raise MalformedEntry("the digest does not match: damaged, or another lane's entry")
    reason = _reason(entry[_FIXED:]) if len(entry) > _FIXED else ""
    try:
        pushed_ms = int(stamp)
    except ValueError:
        raise MalformedEntry("no time stamp in front") from None
    reply = flags & FLAG_REPLY == FLAG_REPLY
    record = make(
        Record,
        (command_id, digest, kind, by, level, xp, sessions, projects, theory, practice, reason, reply, pushed_ms),
    )
    if (
        kind != LEVEL_UP or version != 1 or by < 0 or level
        or xp < 0 or sessions < 0 or projects < 0 or theory < 0 or practice < 0
    ):  # fmt: skip
        _check(record, version)
    return record


def _unreadable(entry: bytes) -> MalformedEntry | NewerVersion:
    """Why an entry is none of this version's."""
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
    if len(raw) > MAX_REASON_BYTES or len(reason) > 500 or "\0" in reason:
        raise MalformedEntry("the reason is too long or contains NUL")
    return reason


def _check(record: Record, version: int) -> None:
    """The bounds of the command models, for entries whose writer did not check them."""
    kind = record.kind
    if kind not in KINDS_OF_VERSION[version]:
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
