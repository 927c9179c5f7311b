"""One claim as a batch: what is read, what is put aside as rubbish, and what is acknowledged by which identity."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha1
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from levelq_core import Command, LevelUp, SyncLevels
from levelq_core.coupler.lane_batch import LaneBatch, Parked
from levelq_core.domain.codec import IDENTITY_AT, IDENTITY_BYTES, encode, record_of
from levelq_core.domain.record import Lane
from levelq_core.domain.rules import Decision
from levelq_core.lanes.parked import NEWER_VERSION
from levelq_core.lanes.protocol import Claim, Oversized
from levelq_worker.draining.batch import NEWER_DELAY_MS, Batch

STAMP = b"1760000000123"
NEWER = STAMP + b"LQ\x03" + b"whatever a later version writes"
HUGE = Oversized(70_000, "ab" * 20, b"h" * 4096)


def up(user_id: int = 1, xp: int = 0) -> LevelUp:
    return LevelUp(user_id=user_id, specialization="PLAYER", xp_gained=xp)


def entry(command: Command, *, reply: bool = False) -> bytes:
    return STAMP + encode(command, reply=reply)


def batch(*lanes: tuple[bytes, Sequence[bytes | Oversized]]) -> Batch:
    read = [(user, list(entries)) for user, entries in lanes]
    return Batch("PLAYER", Claim(read, wake=False, retired=False, broken=[]))


def held(works: Sequence[LaneBatch]) -> list[Parked]:
    return [Parked(work, "other code holds its rows", True) for work in works]


def identity(of: bytes) -> bytes:
    return of[IDENTITY_AT : IDENTITY_AT + IDENTITY_BYTES]


def rubbish_identity(of: bytes) -> bytes:
    return sha1(of).hexdigest()[:32].encode()


def test_lanes_become_works_in_the_order_of_the_claim() -> None:
    first, second, third = up(7, 1), up(7, 2), up(3, 3)
    made = batch((b"7", [entry(first), entry(second)]), (b"3", [entry(third)]))
    assert [work.lane for work in made.works] == [Lane("PLAYER", 7), Lane("PLAYER", 3)]
    assert [list(work.places) for work in made.works] == [[0, 1], [2]]
    assert [[record.xp for record in work.records] for work in made.works] == [[1, 2], [3]]
    assert made.works[0].records[0] == record_of(first)._replace(pushed_ms=1760000000123)
    assert made.commands == 3
    assert made.quarantined == []
    assert made.acknowledgements([], 1000) == [
        (b"7", 0, identity(entry(first)) + identity(entry(second))),
        (b"3", 0, identity(entry(third))),
    ]


def test_an_empty_claim_is_an_empty_batch() -> None:
    made = batch()
    assert (made.works, made.commands, made.acknowledgements([], 0)) == ([], 0, [])


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"", "not a levelq entry"),
        (b'{"kind": "level_up"}', "not a levelq entry"),
        (entry(up(2)), "the digest does not match: damaged, or another lane's entry"),
        (entry(up(1))[:-1], "81 bytes, expected at least 82"),
    ],
    ids=("empty", "JSON", "of another lane", "cut"),
)
def test_rubbish_goes_aside_and_its_neighbours_do_not(raw: bytes, why: str) -> None:
    before, after, other = entry(up(1, 1)), entry(up(1, 2)), entry(up(5, 3))
    made = batch((b"1", [before, raw, after]), (b"5", [other]))
    assert [[record.xp for record in work.records] for work in made.works] == [[1, 2], [3]]
    assert made.quarantined == [("PLAYER", 1, why, raw, len(raw))]
    assert made.acknowledgements([], 0)[0] == (b"1", 0, identity(before) + rubbish_identity(raw) + identity(after))


def test_of_a_large_piece_of_rubbish_the_first_4_kib_are_kept() -> None:
    raw = bytes(range(256)) * 40
    made = batch((b"1", [raw]))
    assert made.quarantined[0][3:] == (raw[:4096], len(raw))
    assert made.acknowledgements([], 0) == [(b"1", 0, rubbish_identity(raw))]


def test_an_oversized_entry_is_rubbish_known_by_its_hash() -> None:
    made = batch((b"1", [HUGE, entry(up(1, 1))]))
    assert made.quarantined == [
        ("PLAYER", 1, f"over the payload limit; sha1 of the whole: {HUGE.sha1}", b"h" * 4096, 70_000)
    ]
    assert made.acknowledgements([], 0)[0][2].startswith(b"ab" * 16)
    assert made.commands == 1


def test_a_lane_of_rubbish_alone_has_no_work_and_is_acknowledged() -> None:
    made = batch((b"1", [b"x", b"y"]))
    assert made.works == []
    assert len(made.quarantined) == 2
    assert made.acknowledgements([], 0) == [(b"1", 0, rubbish_identity(b"x") + rubbish_identity(b"y"))]


@pytest.mark.parametrize(
    "user",
    [
        b"",
        b"0",
        b"01",
        b"-1",
        b"+1",
        b"1.0",
        b" 1",
        b"x",
        b"\xff",
        "\u0661".encode(),
        b"9223372036854775808",
        b"1" * 99,
    ],
)
def test_a_lane_that_is_no_users_is_rubbish_whole(user: bytes) -> None:
    raw = entry(up(1))
    made = batch((user, [raw]), (b"2", [entry(up(2))]))
    assert [work.lane.user_id for work in made.works] == [2]
    assert made.quarantined[0].user_id is None
    assert made.quarantined[0].reason == f"lane of {user[:40]!r}, which is no user id"
    assert made.acknowledgements([], 0)[0] == (user, 0, rubbish_identity(raw))


def test_the_largest_user_id_is_one() -> None:
    command = LevelUp(user_id=2**63 - 1, specialization="PLAYER")
    assert batch((b"9223372036854775807", [entry(command)])).works[0].lane.user_id == 2**63 - 1


def test_what_a_newer_version_wrote_stays_with_all_that_follows_it() -> None:
    first = entry(up(1, 1))
    made = batch((b"1", [first, NEWER, entry(up(1, 2)), b"rubbish behind it"]))
    assert [record.xp for record in made.works[0].records] == [1]
    assert made.quarantined == []
    assert made.acknowledgements([], 0) == [(b"1", NEWER_DELAY_MS, identity(first))]
    assert made.lanes[0].newer == "encoding version 3; this worker knows 2"


def test_a_lane_that_begins_with_a_newer_version_only_waits() -> None:
    made = batch((b"1", [NEWER]), (b"2", [b"rubbish", NEWER]))
    assert made.works == []
    assert made.acknowledgements([], 0) == [
        (b"1", NEWER_DELAY_MS, b""),
        (b"2", NEWER_DELAY_MS, rubbish_identity(b"rubbish")),
    ]


def test_a_lane_put_aside_keeps_all_but_the_rubbish_in_front_of_it() -> None:
    other = entry(up(2, 3))
    lanes: list[tuple[bytes, Sequence[bytes | Oversized]]] = [
        (b"1", [b"junk", HUGE, entry(up(1, 1)), b"more junk", entry(up(1, 2))]),
        (b"2", [other]),
    ]
    made = batch(*lanes)
    (aside, settled) = made.acknowledgements(held(made.works[:1]), 500)
    assert aside[0] == b"1"
    assert 500 <= aside[1] <= 1000
    assert aside[2] == rubbish_identity(b"junk") + b"ab" * 16
    assert settled == (b"2", 0, identity(other))


@pytest.mark.parametrize(("decided", "acknowledged"), [(0, 1), (1, 3), (2, 5)])
def test_of_a_lane_put_aside_what_was_decided_is_acknowledged(decided: int, acknowledged: int) -> None:
    """Each rubbish entry leaves with the command in front of it, or at once if there is none."""
    entries = [b"a", entry(up(1, 1)), b"b", entry(up(1, 2)), b"c", entry(up(1, 3))]
    made = batch((b"1", entries))
    made.works[0].decisions = [Decision(None, "")] * decided
    ((_, _, identities),) = made.acknowledgements(held(made.works), 10)
    known = [rubbish_identity(raw) if len(raw) == 1 else identity(raw) for raw in entries]
    assert identities == b"".join(known[:acknowledged])


def test_lanes_put_aside_do_not_come_back_all_at_once() -> None:
    made = batch(*((b"%d" % n, [entry(up(n))]) for n in range(1, 101)))
    delays = {delay for _, delay, _ in made.acknowledgements(held(made.works), 10_000)}
    assert len(delays) > 50


@pytest.mark.parametrize(
    ("waited_ms", "least", "most"),
    [(-3_600_000, 1000, 2000), (0, 1000, 2000), (2_000, 1000, 2000), (3_001, 1500, 3001), (3_600_000, 2500, 5000)],
    ids=("the clock was set back", "at once", "a moment", "longer", "an hour"),
)
def test_a_lane_is_put_aside_for_as_long_as_its_first_command_has_waited(waited_ms: int, least: int, most: int) -> None:
    entries: list[bytes | Oversized] = [entry(up(1))]
    claim = Claim([(b"1", entries)] * 100, wake=False, retired=False, broken=[], at_ms=int(STAMP) + waited_ms)
    made = Batch("PLAYER", claim)
    delays = {delay for _, delay, _ in made.acknowledgements(held(made.works), 1000)}
    assert least <= min(delays) <= max(delays) <= most
    assert max(delays) - min(delays) > (most - least) / 2


@pytest.mark.parametrize(
    ("waited_ms", "least", "most"),
    [(-3_600_000, 1000, 2000), (0, 1000, 2000), (8_001, 4000, 8001), (3_600_000, 30_000, 60_000)],
    ids=("the clock was set back", "at once", "longer", "an hour"),
)
def test_lane_that_an_error_follows_is_parked_for_one_second_to_a_minute(waited_ms: int, least: int, most: int) -> None:
    entries: list[bytes | Oversized] = [entry(up(1))]
    claim = Claim([(b"1", entries)] * 100, wake=False, retired=False, broken=[], at_ms=int(STAMP) + waited_ms)
    made = Batch("PLAYER", claim)
    failed = [Parked(work, "raised (SQLSTATE P0001)", False) for work in made.works]
    delays = {delay for _, delay, _ in made.acknowledgements(failed, 1000)}
    assert least <= min(delays) <= max(delays) <= most
    assert max(delays) - min(delays) > (most - least) / 2


def test_parked_lanes_and_those_of_a_newer_version_have_reasons() -> None:
    made = batch((b"1", [entry(up(1))]), (b"2", [NEWER]), (b"3", [entry(up(3)), NEWER]), (b"4", [entry(up(4))]))
    newer = f"{NEWER_VERSION}: encoding version"
    found = made.reasons([])
    assert list(found) == [b"2", b"3"] and all(reason.startswith(newer) for reason in found.values())
    found = made.reasons([Parked(made.works[0], "one", False), Parked(made.works[1], "three", True)])
    assert (found[b"1"], found[b"3"], len(found)) == ("one", "three", 3)
    assert found[b"2"].startswith(newer)


def test_a_lane_that_moved_on_is_put_aside_as_if_for_the_first_time() -> None:
    old, new = entry(up(1, 1)), b"%013d" % (int(STAMP) + 3_600_000) + encode(up(1, 2))
    claim = Claim([(b"1", [old, new])], wake=False, retired=False, broken=[], at_ms=int(new[:13]))
    made = Batch("PLAYER", claim)
    made.works[0].decisions = [Decision(None, "")]
    ((_, delay, _),) = made.acknowledgements(held(made.works), 10)
    assert 10 <= delay <= 20


def test_equal_lanes_are_told_apart_when_one_is_put_aside() -> None:
    command = up(1, 1)
    made = batch((b"1", [entry(command)]), (b"1", [entry(command)]))
    acknowledged = made.acknowledgements(held(made.works[1:2]), 10)
    assert [bool(identities) for _, _, identities in acknowledged] == [True, False]


def test_only_those_who_asked_get_a_reply() -> None:
    asked, silent, other = up(1, 1), up(1, 2), SyncLevels(user_id=2, specialization="PLAYER")
    made = batch((b"1", [entry(asked, reply=True), entry(silent)]), (b"2", [entry(other, reply=True)]))
    made.works[0].decisions = [Decision(None, "", 1, 2), Decision("validation_error", "no")]
    made.works[1].decisions = [Decision("validation_error", "there is none", duplicate=True)]
    (first, first_send), (second, second_send) = made.replies()
    assert first_send[13:] + second_send[13:] == record_of(asked).digest + record_of(other).digest
    assert (first.command_id, first.status, first.to_level, first.message) == (
        asked.command_id, "applied", 2, "level 1 -> 2",
    )  # fmt: skip
    assert (second.command_id, second.user_id, second.error, second.duplicate) == (
        other.command_id, 2, "validation_error", True,
    )  # fmt: skip


def test_a_lane_put_aside_has_no_replies() -> None:
    made = batch((b"1", [entry(up(1), reply=True)]))
    assert list(made.replies()) == []


_entries = st.lists(
    st.one_of(
        st.integers(1, 1000).map(
            lambda xp: entry(LevelUp(user_id=1, specialization="PLAYER", command_id=UUID(int=xp)))
        ),
        st.binary(max_size=30),
        st.just(HUGE),
        st.just(NEWER),
    ),
    max_size=12,
)


@given(_entries)
def test_every_entry_up_to_a_newer_one_has_its_identity(entries: list[bytes | Oversized]) -> None:
    made = batch((b"1", entries))
    known = entries[: entries.index(NEWER)] if NEWER in entries else entries
    ((_, _, identities),) = made.acknowledgements([], 0)
    assert len(identities) == IDENTITY_BYTES * len(known)
    assert made.commands + len(made.quarantined) == len(known)
