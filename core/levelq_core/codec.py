"""The wire format: how a command lies in its lane. A promise; docs/reference/wire-format.md shows it.

    13 digits      milliseconds of Redis TIME when it was pushed (push.lua puts them in front)
    2s  B  B       magic "LQ", version of the encoding, flags (bit 0: keep the outcome for the sender)
    16s 16s        command id, digest
    B q 6i         kind, advanced_by (0: nobody), level, xp, sessions, projects, theory, practice
    rest           reason, UTF-8

User and specialization are the lane's, so no entry repeats them, yet the digest covers them: an entry
in a lane it was not made for is rubbish. Numbers are little-endian and fixed in width: a worker reads
an entry in one call, and no number passes through a float (Lua's cjson would round beyond 2^53).
"""

from __future__ import annotations

from hashlib import blake2b
from struct import Struct
from struct import error as StructError
from typing import NamedTuple
from uuid import UUID

from .commands import MAX_NUMBER, MAX_USER_ID, Command, LevelUp, SetLevel, SyncLevels

VERSION = 1
MAGIC = b"LQ"
FLAG_REPLY = 1

LEVEL_UP, SET_LEVEL, SYNC_LEVELS = 1, 2, 3
KIND_NAMES = {LEVEL_UP: "level_up", SET_LEVEL: "set_level", SYNC_LEVELS: "sync_levels"}
SOURCES = ("progress", "license")  # a SyncLevels carries its source in the level field, as an index here

STAMP_DIGITS = 13
IDENTITY_BYTES = 32  # id and digest: what ack.lua compares; see IDENTITY_AT
IDENTITY_AT = STAMP_DIGITS + 4
_HEADER = Struct("<2sBB16s16s")
_BODY = Struct("<Bq6i")
_STAMPED = Struct(f"<{STAMP_DIGITS}s2sBB16s16sBq6i")
_BODY_AT = STAMP_DIGITS + _HEADER.size
_FIXED = _STAMPED.size
MAX_REASON_BYTES = 2000  # 500 characters of at most four bytes


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


class Rubbish(ValueError):
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
        fixed = _BODY.pack(
            SET_LEVEL,
            by,
            command.new_level,
            command.xp_change,
            command.sessions_change,
            command.projects_change,
            command.theory_hours_change,
            command.practice_hours_change,
        )
    else:
        fixed = _BODY.pack(SYNC_LEVELS, by, SOURCES.index(command.source), 0, 0, 0, 0, 0)
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
    payload = _HEADER.pack(MAGIC, VERSION, FLAG_REPLY if reply else 0, command_id, digest) + body
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
    numbers = record[5:10]
    if record.kind == LEVEL_UP:
        names = ("xp_gained", "sessions_completed", "projects_completed", "theory_hours", "practice_hours")
        return LevelUp.model_validate(common | dict(zip(names, numbers, strict=True)))
    if record.kind == SET_LEVEL:
        names = ("xp_change", "sessions_change", "projects_change", "theory_hours_change", "practice_hours_change")
        changes = dict(zip(names, numbers, strict=True))
        return SetLevel.model_validate(common | {"new_level": record.level} | changes)
    return SyncLevels.model_validate(common | {"source": SOURCES[record.level]})


def decode(entry: bytes, salt: bytes) -> Record:
    """Read one stored entry of the lane that `salt` belongs to.

    Raises Rubbish for what no producer wrote for this lane, NewerVersion for what a later one did.
    """
    try:
        stamp, magic, version, flags, command_id, digest, kind, by, level, xp, sessions, projects, theory, practice = (
            _STAMPED.unpack_from(entry)
        )
    except StructError:
        raise _unreadable(entry) from None
    if version != VERSION or magic != MAGIC:
        raise _unreadable(entry)
    if blake2b(salt + entry[_BODY_AT:], digest_size=16).digest() != digest:
        raise Rubbish("the digest does not match: damaged, or another lane's entry")
    reason = _reason(entry[_FIXED:]) if len(entry) > _FIXED else ""
    try:
        pushed_ms = int(stamp)
    except ValueError:
        raise Rubbish("no time stamp in front") from None
    reply = flags & FLAG_REPLY == FLAG_REPLY
    record = make(
        Record,
        (command_id, digest, kind, by, level, xp, sessions, projects, theory, practice, reason, reply, pushed_ms),
    )
    if kind != LEVEL_UP or by < 0 or level or xp < 0 or sessions < 0 or projects < 0 or theory < 0 or practice < 0:
        _check(record)
    return record


def _unreadable(entry: bytes) -> Rubbish | NewerVersion:
    """Why an entry is none of this version's."""
    if entry[STAMP_DIGITS : STAMP_DIGITS + 2] != MAGIC:
        return Rubbish("not a levelq entry")
    if entry[STAMP_DIGITS + 2 : STAMP_DIGITS + 3] > bytes([VERSION]):
        return NewerVersion(f"encoding version {entry[STAMP_DIGITS + 2]}; this worker knows {VERSION}")
    if len(entry) < _FIXED:
        return Rubbish(f"{len(entry)} bytes, expected at least {_FIXED}")
    return Rubbish(f"encoding version {entry[STAMP_DIGITS + 2]}, which never existed")


def _reason(raw: bytes) -> str:
    try:
        reason = raw.decode()
    except UnicodeDecodeError:
        raise Rubbish("the reason is not UTF-8") from None
    if len(raw) > MAX_REASON_BYTES or len(reason) > 500 or "\0" in reason:
        raise Rubbish("the reason is too long or contains NUL")
    return reason


def _check(record: Record) -> None:
    """The bounds of the command models, for entries whose writer did not check them."""
    kind = record.kind
    if kind == LEVEL_UP:
        if min(record[5:10]) < 0 or record.level:
            raise Rubbish("a level_up with a negative gain or a level")
    elif kind == SYNC_LEVELS:
        if record.level not in (0, 1) or any(record[5:10]):
            raise Rubbish("a sync_levels with an unknown source or with changes")
    elif kind != SET_LEVEL:
        raise Rubbish(f"unknown kind {kind}")
    elif min(record[4:10]) < -MAX_NUMBER:
        raise Rubbish("a number below its range")
    if not 0 <= record.advanced_by <= MAX_USER_ID:
        raise Rubbish("advanced_by below 0")
