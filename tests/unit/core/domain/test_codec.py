"""The wire format is a promise: what is written is read, and what was not written is never read as something."""

from __future__ import annotations

from hashlib import blake2b
from struct import pack
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from levelq_core import Adjust, Command, LevelUp, Reset, SetLevel, SyncLevels
from levelq_core.domain.codec import (
    IDENTITY_AT,
    IDENTITY_BYTES,
    STAMP_DIGITS,
    Lane,
    MalformedEntry,
    NewerVersion,
    Record,
    command_of,
    decode,
    encode,
    lane_of,
    record_of,
)
from levelq_core.domain.commands import new_command_id
from tests.support.strategies import commands

STAMP = b"1760000000123"
ID = UUID("01890a5d-ac96-774b-bcce-b302099a8057")
LANE = Lane("PLAYER", 42)
FLAGS_AT = STAMP_DIGITS + 3

GOLDEN: list[tuple[Command, str]] = [
    (
        LevelUp(
            user_id=42,
            specialization="player",
            command_id=ID,
            xp_gained=150,
            sessions_completed=1,
            projects_completed=2,
            reason="Workshop é",
            advanced_by=7,
        ),
        "4c510100" "01890a5dac96774bbcceb302099a8057" "c435321b49070b13dd9116dcc3c074eb"
        "01" "0700000000000000" "00000000" "96000000" "01000000" "02000000" "00000000" "00000000"
        "576f726b73686f7020c3a9",
    ),
    (
        SetLevel(
            user_id=42,
            specialization="COACH",
            command_id=ID,
            new_level=3,
            xp_change=-5,
            sessions_change=-1,
            projects_change=1,
            theory_hours_change=2,
            practice_hours_change=-3,
        ),
        "4c510100" "01890a5dac96774bbcceb302099a8057" "1e5e5f8ca5a5e6e54988d3754f3010c9"
        "02" "0000000000000000" "03000000" "fbffffff" "ffffffff" "01000000" "02000000" "fdffffff",
    ),
    (
        SyncLevels(user_id=2**63 - 1, specialization="INTERNSHIP", command_id=ID, source="license"),
        "4c510100" "01890a5dac96774bbcceb302099a8057" "286f6b982f6f84580081ca705be7061a"
        "03" "0000000000000000" "01000000" "00000000" "00000000" "00000000" "00000000" "00000000",
    ),
    (
        Adjust(
            user_id=42,
            specialization="COACH",
            command_id=ID,
            xp_change=-50,
            sessions_change=1,
            projects_change=-2,
            theory_hours_change=3,
            practice_hours_change=-4,
            level="earned",
            advanced_by=7,
            reason="penalty",
        ),
        "4c510200" "01890a5dac96774bbcceb302099a8057" "7b24df786d2e6f277fbd0d276bfb5692"
        "04" "0700000000000000" "00000080" "ceffffff" "01000000" "feffffff" "03000000" "fcffffff"
        "70656e616c7479",
    ),
    (
        Adjust(user_id=42, specialization="PLAYER", command_id=ID, xp_change=1),
        "4c510200" "01890a5dac96774bbcceb302099a8057" "ce5aab6893688e57f859112cb2c20473"
        "04" "0000000000000000" "00000000" "01000000" "00000000" "00000000" "00000000" "00000000",
    ),
    (
        Reset(
            user_id=42,
            specialization="COACH",
            command_id=ID,
            total_xp=1500,
            completed_sessions=1,
            completed_projects=2,
            theory_hours=3,
            practice_hours=4,
            level=3,
        ),
        "4c510200" "01890a5dac96774bbcceb302099a8057" "af18b005baeb7e01e52d35b6144d60fc"
        "05" "0000000000000000" "03000000" "dc050000" "01000000" "02000000" "03000000" "04000000",
    ),
    (
        Reset(user_id=42, specialization="PLAYER", command_id=ID),
        "4c510200" "01890a5dac96774bbcceb302099a8057" "a785f5f5fae2d3d9e85dd1363716c39d"
        "05" "0000000000000000" "00000080" "00000000" "00000000" "00000000" "00000000" "00000000",
    ),
]  # fmt: skip


def read(payload: bytes, lane: Lane = LANE) -> Record:
    return decode(STAMP + payload, lane.salt)


def written(**parts: Any) -> bytes:
    """An entry of lane PLAYER:42 whose digest is right, whatever else it holds."""
    p: dict[str, Any] = {
        "magic": b"LQ",
        "version": 1,
        "flags": 0,
        "kind": 1,
        "by": 0,
        "numbers": (0,) * 6,
        "reason": b"",
    } | parts
    reason: bytes = p["reason"]
    body = pack("<Bq6i", p["kind"], p["by"], *p["numbers"]) + reason
    digest = blake2b(b"PLAYER:42:" + body, digest_size=16).digest()
    magic: bytes = p["magic"]
    return STAMP + magic + pack("<BB", p["version"], p["flags"]) + ID.bytes + digest + body


@pytest.mark.parametrize(
    ("command", "wire"), GOLDEN, ids=[f"{n} {type(c).__name__}" for n, (c, _) in enumerate(GOLDEN)]
)
def test_the_wire_format_does_not_change_by_accident(command: Command, wire: str) -> None:
    assert encode(command).hex() == wire
    assert encode(command, reply=True).hex() == wire[:6] + "01" + wire[8:]
    assert command_of(lane_of(command), read(bytes.fromhex(wire), lane_of(command))) == command


@given(commands, st.booleans(), st.integers(0, 10**13 - 1))
def test_what_was_written_is_read(command: Command, reply: bool, pushed_ms: int) -> None:
    entry = b"%013d" % pushed_ms + encode(command, reply=reply)
    record = decode(entry, lane_of(command).salt)
    assert record == record_of(command)._replace(reply=reply, pushed_ms=pushed_ms)
    assert entry[IDENTITY_AT : IDENTITY_AT + IDENTITY_BYTES] == record.command_id + record.digest


@given(commands)
def test_a_record_stands_for_its_command(command: Command) -> None:
    assert command_of(lane_of(command), record_of(command)) == command


@given(commands)
def test_an_entry_has_69_bytes_and_the_reason(command: Command) -> None:
    assert len(encode(command)) == 69 + len(command.reason.encode())


@given(commands, st.data())
def test_a_damaged_byte_never_makes_another_command(command: Command, data: st.DataObject) -> None:
    entry = bytearray(STAMP + encode(command))
    at = data.draw(st.integers(0, len(entry) - 1), label="at")
    entry[at] ^= data.draw(st.integers(1, 255), label="xor")
    _same_content_or_refused(command, bytes(entry))


@given(commands, st.data())
def test_damage_of_any_size_never_makes_another_command(command: Command, data: st.DataObject) -> None:
    whole = STAMP + encode(command)
    start = data.draw(st.integers(0, len(whole)))
    end = data.draw(st.integers(start, len(whole)))
    _same_content_or_refused(command, whole[:start] + data.draw(st.binary(max_size=100)) + whole[end:])


def _same_content_or_refused(command: Command, entry: bytes) -> None:
    """The digest covers the content; stamp, flags and id are not content."""
    try:
        record = decode(entry, lane_of(command).salt)
    except (MalformedEntry, NewerVersion):
        return
    assert record[1:11] == record_of(command)[1:11]


def test_every_byte_but_stamp_flags_and_id_is_guarded() -> None:
    entry = STAMP + encode(GOLDEN[0][0])
    unguarded = set()
    for at in range(len(entry)):
        for bit in range(8):
            damaged = bytearray(entry)
            damaged[at] ^= 1 << bit
            try:
                decode(bytes(damaged), LANE.salt)
            except (MalformedEntry, NewerVersion):
                continue
            unguarded.add(at)
    assert unguarded <= {*range(STAMP_DIGITS), FLAGS_AT, *range(IDENTITY_AT, IDENTITY_AT + 16)}


@given(st.binary(max_size=200))
def test_bytes_nobody_wrote_are_rubbish(raw: bytes) -> None:
    with pytest.raises((MalformedEntry, NewerVersion)):
        decode(raw, LANE.salt)


@pytest.mark.parametrize("raw", [b"", b"{}", b"null", b'{"kind": "level_up"}', STAMP, STAMP + b"LQ", STAMP + b"LQ\x01"])
def test_what_is_too_short_or_something_else_is_rubbish(raw: bytes) -> None:
    with pytest.raises(MalformedEntry):
        decode(raw, LANE.salt)


@pytest.mark.parametrize("length", range(STAMP_DIGITS + 69))
def test_a_cut_entry_is_rubbish(length: int) -> None:
    with pytest.raises(MalformedEntry):
        decode(written()[:length], LANE.salt)


def test_kinds_of_the_first_version_stay_readable_for_workers_that_know_it_alone() -> None:
    """And those they do not know carry a later version, so that they leave them in their lanes."""
    versions = {type(command): encode(command)[2] for command, _ in GOLDEN}
    assert versions == {LevelUp: 1, SetLevel: 1, SyncLevels: 1, Adjust: 2, Reset: 2}


@pytest.mark.parametrize("version", [3, 4, 255])
def test_a_newer_version_is_told_from_rubbish(version: int) -> None:
    for entry in (
        written(version=version),
        written(version=version, reason=b"x" * 9000),
        written(version=version)[:17],
    ):
        with pytest.raises(NewerVersion, match=f"version {version}; this worker knows 2"):
            decode(entry, LANE.salt)


def test_a_version_before_the_first_is_rubbish() -> None:
    with pytest.raises(MalformedEntry, match="version 0, which never existed"):
        decode(written(version=0), LANE.salt)


@pytest.mark.parametrize(
    "lane", [Lane("PLAYER", 43), Lane("COACH", 42), Lane("PLAYER", 4), Lane("PLAYER", 420), Lane("PLAYE", 42)], ids=str
)
def test_an_entry_of_another_lane_is_rubbish(lane: Lane) -> None:
    with pytest.raises(MalformedEntry, match="digest"):
        decode(written(), lane.salt)


@pytest.mark.parametrize(
    ("parts", "why"),
    [
        ({"kind": 0}, "unknown kind 0"),
        ({"kind": 4}, "unknown kind 4 of encoding version 1"),
        ({"kind": 5}, "unknown kind 5 of encoding version 1"),
        *(({"kind": kind, "version": 2}, f"unknown kind {kind} of encoding version 2") for kind in (0, 1, 2, 3, 6)),
        ({"kind": 4, "version": 2, "numbers": (1, 0, 0, 0, 0, 0)}, "neither keep nor earned"),
        ({"kind": 4, "version": 2, "numbers": (-1, 0, 0, 0, 0, 0)}, "neither keep nor earned"),
        *(
            ({"kind": 4, "version": 2, "numbers": tuple(-(2**31) * (at == n) for n in range(6))}, "range")
            for at in range(1, 6)
        ),
        *(
            ({"kind": 5, "version": 2, "numbers": tuple(-(at == n) for n in range(6))}, "negative total")
            for at in range(1, 6)
        ),
        ({"numbers": (1, 0, 0, 0, 0, 0)}, "level"),
        *(({"numbers": tuple(-(at == n) for n in range(6))}, "negative gain") for at in range(1, 6)),
        ({"kind": 3, "numbers": (2, 0, 0, 0, 0, 0)}, "unknown source"),
        ({"kind": 3, "numbers": (-1, 0, 0, 0, 0, 0)}, "unknown source"),
        *(({"kind": 3, "numbers": tuple(int(at == n) for n in range(6))}, "changes") for at in range(1, 6)),
        *(({"kind": 2, "numbers": tuple(-(2**31) * (at == n) for n in range(6))}, "range") for at in range(6)),
        ({"by": -1}, "advanced_by"),
        ({"reason": b"\xff"}, "UTF-8"),
        ({"reason": b"\xed\xa0\x80"}, "UTF-8"),
        ({"reason": b"a\0b"}, "NUL"),
        ({"reason": b"x" * 501}, "too long"),
        ({"reason": "😀".encode() * 501}, "too long"),
    ],
    ids=str,
)
def test_what_no_model_would_allow_is_rubbish_even_with_a_right_digest(parts: dict[str, Any], why: str) -> None:
    with pytest.raises(MalformedEntry, match=why):
        decode(written(**parts), LANE.salt)


def test_the_outermost_values_are_read() -> None:
    most = 2**31 - 1
    for parts in (
        {"kind": 1, "by": 2**63 - 1, "numbers": (0, *[most] * 5)},
        {"kind": 2, "numbers": (-most,) * 6},
        {"kind": 3, "numbers": (1, 0, 0, 0, 0, 0), "reason": "😀".encode() * 500},
        {"kind": 4, "version": 2, "numbers": (-(2**31), *[-most] * 5)},
        {"kind": 5, "version": 2, "numbers": (-most, *[most] * 5)},
        {"kind": 5, "version": 2, "numbers": (-(2**31), *[0] * 5)},
    ):
        record = decode(written(**parts), LANE.salt)
        assert record_of(command_of(LANE, record))._replace(pushed_ms=record.pushed_ms) == record


@pytest.mark.parametrize("stamp", [b"x" * 13, b"176000000012x", b" " * 13, b"\xff" * 13])
def test_an_entry_without_a_time_is_rubbish(stamp: bytes) -> None:
    with pytest.raises(MalformedEntry, match="time stamp"):
        decode(stamp + written()[STAMP_DIGITS:], LANE.salt)


CHANGES = ("xp_change", "sessions_change", "projects_change", "theory_hours_change", "practice_hours_change")
BASE: dict[str, Any] = {"user_id": 42, "specialization": "PLAYER", "command_id": ID}
DIFFERENT: list[Command] = [
    LevelUp(**BASE),
    LevelUp(**BASE | {"user_id": 43}),
    LevelUp(**BASE | {"specialization": "COACH"}),
    LevelUp(**BASE, reason="x"),
    LevelUp(**BASE, advanced_by=1),
    *(
        LevelUp(**BASE | {name: 1})
        for name in ("xp_gained", "sessions_completed", "projects_completed", "theory_hours", "practice_hours")
    ),
    SetLevel(**BASE, new_level=0),
    *(SetLevel(**BASE | {"new_level": 0} | {name: 1}) for name in ("new_level", *CHANGES)),
    SyncLevels(**BASE),
    SyncLevels(**BASE, source="license"),
    Adjust(**BASE),
    Adjust(**BASE, level="earned"),
    *(Adjust(**BASE | {name: 1}) for name in CHANGES),
    Reset(**BASE),
    Reset(**BASE, level=1),
    Reset(**BASE, level=0),
    *(
        Reset(**BASE | {name: 1})
        for name in ("total_xp", "completed_sessions", "completed_projects", "theory_hours", "practice_hours")
    ),
]


def test_a_digest_differs_by_kind_lane_and_every_field() -> None:
    assert len({record_of(command).digest for command in DIFFERENT}) == len(DIFFERENT)


@given(commands)
def test_a_digest_is_of_the_content_not_of_the_sending(command: Command) -> None:
    again = command.model_copy(update={"command_id": new_command_id()})
    digests = {record_of(command).digest, record_of(again).digest, encode(command, reply=True)[20:36]}
    assert len(digests) == 1


def test_a_digest_is_of_the_folded_specialization() -> None:
    assert record_of(LevelUp(**BASE | {"specialization": "pLaYer"})).digest == record_of(LevelUp(**BASE)).digest
