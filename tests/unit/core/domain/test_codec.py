"""The wire format is a promise: what is written is read, and what was not written is never read as something."""

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
    MalformedEntry,
    NewerVersion,
    decode,
    encode,
    record_of,
    with_trace,
)
from levelq_core.domain.commands import new_command_id
from levelq_core.domain.record import Lane, Record, lane_of
from tests.support.commands import CHANGES, GAINS, TOTALS, command_of
from tests.support.strategies import commands

STAMP = b"1760000000123"
ID = UUID("01890a5d-ac96-774b-bcce-b302099a8057")
LANE = Lane("PLAYER", 42)
FLAGS_AT = STAMP_DIGITS + 3

PLAYER: dict[str, Any] = {"user_id": 42, "specialization": "player", "command_id": ID}
COACH: dict[str, Any] = PLAYER | {"specialization": "COACH"}
ID_HEX = "01890a5dac96774bbcceb302099a8057"
GOLDEN: list[tuple[Command, str]] = [
    (
        LevelUp(
            **PLAYER, xp_gained=150, sessions_completed=1, projects_completed=2, reason="Workshop é", advanced_by=7,
        ),
        f"4c510100 {ID_HEX} c435321b49070b13dd9116dcc3c074eb"
        "01 0700000000000000 00000000 96000000 01000000 02000000 00000000 00000000 576f726b73686f7020c3a9",
    ),
    (
        SetLevel(
            **COACH, new_level=3, xp_change=-5, sessions_change=-1, projects_change=1, theory_hours_change=2,
            practice_hours_change=-3,
        ),
        f"4c510100 {ID_HEX} 1e5e5f8ca5a5e6e54988d3754f3010c9"
        "02 0000000000000000 03000000 fbffffff ffffffff 01000000 02000000 fdffffff",
    ),
    (
        SyncLevels(user_id=2**63 - 1, specialization="INTERNSHIP", command_id=ID, source="license"),
        f"4c510100 {ID_HEX} 286f6b982f6f84580081ca705be7061a"
        "03 0000000000000000 01000000 00000000 00000000 00000000 00000000 00000000",
    ),
    (
        Adjust(
            **COACH, xp_change=-50, sessions_change=1, projects_change=-2, theory_hours_change=3,
            practice_hours_change=-4, level="earned", advanced_by=7, reason="penalty",
        ),
        f"4c510200 {ID_HEX} 7b24df786d2e6f277fbd0d276bfb5692"
        "04 0700000000000000 00000080 ceffffff 01000000 feffffff 03000000 fcffffff 70656e616c7479",
    ),
    (
        Adjust(**PLAYER, xp_change=1),
        f"4c510200 {ID_HEX} ce5aab6893688e57f859112cb2c20473"
        "04 0000000000000000 00000000 01000000 00000000 00000000 00000000 00000000",
    ),
    (
        Reset(
            **COACH, total_xp=1500, completed_sessions=1, completed_projects=2, theory_hours=3, practice_hours=4,
            level=3,
        ),
        f"4c510200 {ID_HEX} af18b005baeb7e01e52d35b6144d60fc"
        "05 0000000000000000 03000000 dc050000 01000000 02000000 03000000 04000000",
    ),
    (
        Reset(**PLAYER),
        f"4c510200 {ID_HEX} a785f5f5fae2d3d9e85dd1363716c39d"
        "05 0000000000000000 00000080 00000000 00000000 00000000 00000000 00000000",
    ),
]  # fmt: skip


def read(payload: bytes, lane: Lane = LANE) -> Record:
    return decode(STAMP + payload, lane.salt)


def written(
    magic: bytes = b"LQ",
    version: int = 1,
    flags: int = 0,
    kind: int = 1,
    by: int = 0,
    numbers: tuple[int, ...] = (0,) * 6,
    reason: bytes = b"",
) -> bytes:
    """An entry of lane PLAYER:42 whose digest is right, whatever else it holds."""
    body = pack("<Bq6i", kind, by, *numbers) + reason
    digest = blake2b(b"PLAYER:42:" + body, digest_size=16).digest()
    return STAMP + magic + pack("<BB", version, flags) + ID.bytes + digest + body


@pytest.mark.parametrize(
    ("command", "wire"), GOLDEN, ids=[f"{n} {type(c).__name__}" for n, (c, _) in enumerate(GOLDEN)]
)
def test_wire_format_stays_as_it_is(command: Command, wire: str) -> None:
    wire = wire.replace(" ", "")
    assert encode(command).hex() == wire
    assert encode(command, reply=True).hex() == wire[:6] + "01" + wire[8:]
    assert command_of(lane_of(command), read(bytes.fromhex(wire), lane_of(command))) == command


@given(commands, st.booleans(), st.integers(0, 10**13 - 1))
def test_what_was_written_is_read(command: Command, reply: bool, pushed_ms: int) -> None:
    entry = b"%013d" % pushed_ms + encode(command, reply=reply)
    record = decode(entry, lane_of(command).salt)
    assert record == record_of(command)._replace(reply=reply, pushed_ms=pushed_ms)
    assert entry[IDENTITY_AT : IDENTITY_AT + IDENTITY_BYTES] == record.command_id + record.digest


TRACE = bytes(range(24))


def test_trace_context_stands_at_the_end_and_a_flag_announces_it() -> None:
    payload = encode(GOLDEN[0][0], reply=True)
    assert with_trace(payload, TRACE) == payload[:3] + b"\x03" + payload[4:] + TRACE


@given(commands, st.booleans(), st.binary(min_size=24, max_size=24))
def test_trace_context_is_no_part_of_the_content(command: Command, reply: bool, trace: bytes) -> None:
    payload = encode(command, reply=reply)
    entry = STAMP + with_trace(payload, trace)
    assert decode(entry, lane_of(command).salt) == decode(STAMP + payload, lane_of(command).salt)._replace(trace=trace)
    assert entry[IDENTITY_AT : IDENTITY_AT + IDENTITY_BYTES] == payload[4:36]


def test_entry_too_short_for_its_trace_context_is_malformed_whatever_its_digest() -> None:
    body = written()[STAMP_DIGITS + 36 :]
    digest = blake2b(b"PLAYER:42:" + body[:-24], digest_size=16).digest()
    for entry in (
        written(flags=2),
        written(flags=2, reason=b"x" * 23)[:-1],
        STAMP + b"LQ\x01\x02" + ID.bytes + digest + body,
    ):
        with pytest.raises(MalformedEntry, match="trace context, which it does not have"):
            decode(entry, LANE.salt)


@given(commands)
def test_record_stands_for_its_command(command: Command) -> None:
    assert command_of(lane_of(command), record_of(command)) == command


@given(commands)
def test_entry_has_69_bytes_and_the_reason(command: Command) -> None:
    assert len(encode(command)) == 69 + len(command.reason.encode())


@given(commands, st.data())
def test_damaged_byte_never_makes_another_command(command: Command, data: st.DataObject) -> None:
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
def test_random_bytes_are_refused(raw: bytes) -> None:
    with pytest.raises((MalformedEntry, NewerVersion)):
        decode(raw, LANE.salt)


MALFORMED = [
    *(b"", b"{}", b"null", b'{"kind": "level_up"}', STAMP, STAMP + b"LQ", STAMP + b"LQ\x01"),
    *(written()[:length] for length in range(STAMP_DIGITS + 69)),
]


@pytest.mark.parametrize("raw", MALFORMED, ids=range(len(MALFORMED)))
def test_entry_that_is_cut_or_something_else_is_malformed(raw: bytes) -> None:
    with pytest.raises(MalformedEntry):
        decode(raw, LANE.salt)


def test_kinds_of_the_first_version_stay_readable_for_workers_that_know_it_alone() -> None:
    """Kinds that they do not know carry a later version, so they leave them in their lanes."""
    versions = {type(command): encode(command)[2] for command, _ in GOLDEN}
    assert versions == {LevelUp: 1, SetLevel: 1, SyncLevels: 1, Adjust: 2, Reset: 2}


@pytest.mark.parametrize("version", [3, 4, 255])
def test_newer_version_is_not_malformed(version: int) -> None:
    whole = written(version=version)
    for entry in (whole, written(version=version, reason=b"x" * 9000), whole[:17]):
        with pytest.raises(NewerVersion, match=f"version {version}; this worker knows 2"):
            decode(entry, LANE.salt)


def test_version_before_the_first_is_malformed() -> None:
    with pytest.raises(MalformedEntry, match="version 0, which never existed"):
        decode(written(version=0), LANE.salt)


@pytest.mark.parametrize(
    "lane", [Lane("PLAYER", 43), Lane("COACH", 42), Lane("PLAYER", 4), Lane("PLAYER", 420), Lane("PLAYE", 42)], ids=str
)
def test_entry_of_another_lane_is_malformed(lane: Lane) -> None:
    with pytest.raises(MalformedEntry, match="digest"):
        decode(written(), lane.salt)


def only(at: int, value: int) -> tuple[int, ...]:
    return tuple(value * (at == n) for n in range(6))


@pytest.mark.parametrize(
    ("parts", "why"),
    [
        ({"kind": 0}, "unknown kind 0"),
        ({"kind": 4}, "unknown kind 4 of encoding version 1"),
        ({"kind": 5}, "unknown kind 5 of encoding version 1"),
        *(({"kind": kind, "version": 2}, f"unknown kind {kind} of encoding version 2") for kind in (0, 1, 2, 3, 6)),
        ({"kind": 4, "version": 2, "numbers": (1, 0, 0, 0, 0, 0)}, "neither keep nor earned"),
        ({"kind": 4, "version": 2, "numbers": (-1, 0, 0, 0, 0, 0)}, "neither keep nor earned"),
        *(({"kind": 4, "version": 2, "numbers": only(at, -(2**31))}, "range") for at in range(1, 6)),
        *(({"kind": 5, "version": 2, "numbers": only(at, -1)}, "negative total") for at in range(1, 6)),
        ({"numbers": (1, 0, 0, 0, 0, 0)}, "level"),
        *(({"numbers": only(at, -1)}, "negative gain") for at in range(1, 6)),
        ({"kind": 3, "numbers": (2, 0, 0, 0, 0, 0)}, "unknown source"),
        ({"kind": 3, "numbers": (-1, 0, 0, 0, 0, 0)}, "unknown source"),
        *(({"kind": 3, "numbers": only(at, 1)}, "changes") for at in range(1, 6)),
        *(({"kind": 2, "numbers": only(at, -(2**31))}, "range") for at in range(6)),
        ({"by": -1}, "advanced_by"),
        ({"reason": b"\xff"}, "UTF-8"),
        ({"reason": b"\xed\xa0\x80"}, "UTF-8"),
        ({"reason": b"a\0b"}, "NUL"),
        ({"reason": b"x" * 501}, "too long"),
        ({"reason": "😀".encode() * 501}, "too long"),
    ],
    ids=str,
)
def test_values_that_no_command_allows_are_malformed_though_the_digest_is_right(
    parts: dict[str, Any], why: str
) -> None:
    with pytest.raises(MalformedEntry, match=why):
        decode(written(**parts), LANE.salt)


def test_extreme_values_are_read() -> None:
    most = 2**31 - 1
    extremes: list[dict[str, Any]] = [
        {"kind": 1, "by": 2**63 - 1, "numbers": (0, *[most] * 5)},
        {"kind": 2, "numbers": (-most,) * 6},
        {"kind": 3, "numbers": (1, 0, 0, 0, 0, 0), "reason": "😀".encode() * 500},
        {"kind": 4, "version": 2, "numbers": (-(2**31), *[-most] * 5)},
        {"kind": 5, "version": 2, "numbers": (-most, *[most] * 5)},
        {"kind": 5, "version": 2, "numbers": (-(2**31), *[0] * 5)},
    ]
    for parts in extremes:
        record = decode(written(**parts), LANE.salt)
        assert record_of(command_of(LANE, record))._replace(pushed_ms=record.pushed_ms) == record


@pytest.mark.parametrize("stamp", [b"x" * 13, b"176000000012x", b" " * 13, b"\xff" * 13])
def test_entry_without_a_time_is_malformed(stamp: bytes) -> None:
    with pytest.raises(MalformedEntry, match="time stamp"):
        decode(stamp + written()[STAMP_DIGITS:], LANE.salt)


DIFFERENT: list[Command] = [
    LevelUp(**PLAYER),
    LevelUp(**PLAYER | {"user_id": 43}),
    LevelUp(**PLAYER | {"specialization": "COACH"}),
    LevelUp(**PLAYER, reason="x"),
    LevelUp(**PLAYER, advanced_by=1),
    *(LevelUp(**PLAYER | {name: 1}) for name in GAINS),
    SetLevel(**PLAYER, new_level=0),
    *(SetLevel(**PLAYER | {"new_level": 0} | {name: 1}) for name in ("new_level", *CHANGES)),
    SyncLevels(**PLAYER),
    SyncLevels(**PLAYER, source="license"),
    Adjust(**PLAYER),
    Adjust(**PLAYER, level="earned"),
    *(Adjust(**PLAYER | {name: 1}) for name in CHANGES),
    Reset(**PLAYER),
    Reset(**PLAYER, level=1),
    Reset(**PLAYER, level=0),
    *(Reset(**PLAYER | {name: 1}) for name in TOTALS),
]


def test_digest_differs_by_kind_lane_and_every_field() -> None:
    assert len({record_of(command).digest for command in DIFFERENT}) == len(DIFFERENT)


@given(commands)
def test_digest_depends_on_the_content_only(command: Command) -> None:
    again = command.model_copy(update={"command_id": new_command_id()})
    digests = {record_of(command).digest, record_of(again).digest, encode(command, reply=True)[20:36]}
    assert len(digests) == 1


def test_digest_is_of_the_folded_specialization() -> None:
    assert record_of(LevelUp(**PLAYER | {"specialization": "pLaYer"})).digest == record_of(LevelUp(**PLAYER)).digest
