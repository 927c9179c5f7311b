"""One claim as a batch: what is decoded, what is quarantined, and which identities are acknowledged."""

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

AT_MS = 1_760_000_000_123
NEWER = b"%d" % AT_MS + b"LQ\x03" + b"whatever a later version writes"
HUGE = Oversized(70_000, "ab" * 20, b"h" * 4096)
APPLIED = Decision(None, "")
Entries = Sequence[bytes | Oversized]


def up(user_id: int = 1, xp: int = 0) -> LevelUp:
    return LevelUp(user_id=user_id, specialization="PLAYER", xp_gained=xp)


def entry(command: Command, *, reply: bool = False, pushed_ms: int = AT_MS) -> bytes:
    return b"%d" % pushed_ms + encode(command, reply=reply)


def batch(*lanes: tuple[bytes, Entries], at_ms: int = 0) -> Batch:
    read = [(user, list(entries)) for user, entries in lanes]
    return Batch("PLAYER", Claim(read, wake=False, retired=False, broken=[], at_ms=at_ms))


def parked(lanes: Sequence[LaneBatch], *, locked: bool = True) -> list[Parked]:
    return [Parked(lane, "other code holds its rows", locked) for lane in lanes]


def identity(of: bytes | Oversized) -> bytes:
    """What acknowledges an entry, a command if it is long enough for one."""
    if isinstance(of, Oversized):
        return of.sha1[:IDENTITY_BYTES].encode()
    return of[IDENTITY_AT : IDENTITY_AT + IDENTITY_BYTES] if len(of) > 80 else malformed_identity(of)


def malformed_identity(of: bytes) -> bytes:
    return sha1(of).hexdigest()[:IDENTITY_BYTES].encode()


def identities(*entries: bytes | Oversized) -> bytes:
    return b"".join(map(identity, entries))


def experience(made: Batch) -> list[list[int]]:
    return [[record.xp for record in lane.records] for lane in made.lane_batches]


def test_lanes_are_decoded_in_the_order_of_the_claim() -> None:
    first, second, third = up(7, 1), up(7, 2), up(3, 3)
    made = batch((b"7", [entry(first), entry(second)]), (b"3", [entry(third)]))
    assert [lane.lane for lane in made.lane_batches] == [Lane("PLAYER", 7), Lane("PLAYER", 3)]
    assert [list(lane.indexes) for lane in made.lane_batches] == [[0, 1], [2]]
    assert experience(made) == [[1, 2], [3]]
    assert made.lane_batches[0].records[0] == record_of(first)._replace(pushed_ms=AT_MS)
    assert (made.commands, made.quarantined) == (3, [])
    assert made.acknowledgements([], 1000) == [
        (b"7", 0, identities(entry(first), entry(second))),
        (b"3", 0, identities(entry(third))),
    ]


def test_empty_claim_is_an_empty_batch() -> None:
    made = batch()
    assert (made.lane_batches, made.commands, made.acknowledgements([], 0)) == ([], 0, [])


LARGE = bytes(range(256)) * 40
MALFORMED = {
    "empty": (b"", "not a levelq entry"),
    "JSON": (b'{"kind": "level_up"}', "not a levelq entry"),
    "of another lane": (entry(up(2)), "the digest does not match: damaged, or another lane's entry"),
    "cut": (entry(up(1))[:-1], "81 bytes, expected at least 82"),
    "large": (LARGE, "not a levelq entry"),
}


@pytest.mark.parametrize(("raw", "why"), MALFORMED.values(), ids=MALFORMED)
def test_malformed_entry_is_quarantined_without_its_neighbours(raw: bytes, why: str) -> None:
    before, after, other = entry(up(1, 1)), entry(up(1, 2)), entry(up(5, 3))
    made = batch((b"1", [before, raw, after]), (b"5", [other]))
    assert experience(made) == [[1, 2], [3]]
    assert made.quarantined == [("PLAYER", 1, why, raw[:4096], len(raw))]
    acknowledged = identity(before) + malformed_identity(raw) + identity(after)
    assert made.acknowledgements([], 0)[0] == (b"1", 0, acknowledged)


def test_oversized_entry_is_quarantined_and_known_by_its_hash() -> None:
    made = batch((b"1", [HUGE, entry(up(1, 1))]))
    why = f"over the payload limit; sha1 of the whole: {HUGE.sha1}"
    assert made.quarantined == [("PLAYER", 1, why, b"h" * 4096, 70_000)]
    assert made.acknowledgements([], 0)[0][2].startswith(b"ab" * 16)
    assert made.commands == 1


def test_lane_of_malformed_entries_has_no_commands_and_is_acknowledged() -> None:
    made = batch((b"1", [b"x", b"y"]))
    assert (made.lane_batches, len(made.quarantined)) == ([], 2)
    assert made.acknowledgements([], 0) == [(b"1", 0, identities(b"x", b"y"))]


NO_USERS = (b"", b"0", b"01", b"-1", b"+1", b"1.0", b" 1", b"x", b"\xff", "\u0661".encode(), b"%d" % 2**63, b"1" * 99)


@pytest.mark.parametrize("user", NO_USERS)
def test_lane_whose_name_is_no_user_id_is_quarantined_whole(user: bytes) -> None:
    raw = entry(up(1))
    made = batch((user, [raw]), (b"2", [entry(up(2))]))
    assert [lane.lane.user_id for lane in made.lane_batches] == [2]
    assert made.quarantined[0][1:3] == (None, f"lane of {user[:40]!r}, which is no user id")
    assert made.acknowledgements([], 0)[0] == (user, 0, malformed_identity(raw))


def test_largest_user_id_is_decoded() -> None:
    made = batch((b"9223372036854775807", [entry(up(2**63 - 1))]))
    assert made.lane_batches[0].lane.user_id == 2**63 - 1


def test_entry_of_a_newer_version_stays_with_all_that_follows_it() -> None:
    first = entry(up(1, 1))
    made = batch((b"1", [first, NEWER, entry(up(1, 2)), b"malformed"]))
    assert (experience(made), made.quarantined) == ([[1]], [])
    assert made.acknowledgements([], 0) == [(b"1", NEWER_DELAY_MS, identity(first))]
    assert made.lanes[0].newer == "encoding version 3; this worker knows 2"


def test_lane_that_begins_with_a_newer_version_waits() -> None:
    made = batch((b"1", [NEWER]), (b"2", [b"malformed", NEWER]))
    assert made.lane_batches == []
    assert made.acknowledgements([], 0) == [(b"1", NEWER_DELAY_MS, b""), (b"2", NEWER_DELAY_MS, identity(b"malformed"))]


def test_parked_lane_is_acknowledged_up_to_its_first_command() -> None:
    other = entry(up(2, 3))
    made = batch((b"1", [b"junk", HUGE, entry(up(1, 1)), b"more junk", entry(up(1, 2))]), (b"2", [other]))
    (user, delay, acknowledged), settled = made.acknowledgements(parked(made.lane_batches[:1]), 500)
    assert (user, acknowledged) == (b"1", identities(b"junk", HUGE))
    assert 500 <= delay <= 1000
    assert settled == (b"2", 0, identity(other))


@pytest.mark.parametrize(("decided", "acknowledged"), [(0, 1), (1, 3), (2, 5)])
def test_parked_lane_is_acknowledged_up_to_its_first_undecided_command(decided: int, acknowledged: int) -> None:
    """Each malformed entry leaves with the command in front of it, or at once if there is none."""
    entries = [b"a", entry(up(1, 1)), b"b", entry(up(1, 2)), b"c", entry(up(1, 3))]
    made = batch((b"1", entries))
    made.lane_batches[0].decisions = [APPLIED] * decided
    ((_, _, found),) = made.acknowledgements(parked(made.lane_batches), 10)
    assert found == identities(*entries[:acknowledged])


def test_parked_lanes_are_due_at_different_times() -> None:
    made = batch(*((b"%d" % n, [entry(up(n))]) for n in range(1, 101)))
    delays = {delay for _, delay, _ in made.acknowledgements(parked(made.lane_batches), 10_000)}
    assert len(delays) > 50


WAITED = [  # locked, how long the first command has waited, the least and the most delay
    (True, -3_600_000, 1000, 2000),  # the clock was set back
    (True, 0, 1000, 2000),
    (True, 2_000, 1000, 2000),
    (True, 3_001, 1500, 3001),
    (True, 3_600_000, 2500, 5000),
    (False, -3_600_000, 1000, 2000),
    (False, 0, 1000, 2000),
    (False, 8_001, 4000, 8001),
    (False, 3_600_000, 30_000, 60_000),
]


@pytest.mark.parametrize(("locked", "waited_ms", "least", "most"), WAITED)
def test_lane_is_parked_for_as_long_as_its_first_command_has_waited(
    locked: bool, waited_ms: int, least: int, most: int
) -> None:
    made = batch(*[(b"1", [entry(up(1))])] * 100, at_ms=AT_MS + waited_ms)
    delays = {delay for _, delay, _ in made.acknowledgements(parked(made.lane_batches, locked=locked), 1000)}
    assert least <= min(delays) <= max(delays) <= most
    assert max(delays) - min(delays) > (most - least) / 2


def test_lane_that_moved_on_is_parked_as_if_for_the_first_time() -> None:
    later_ms = AT_MS + 3_600_000
    made = batch((b"1", [entry(up(1, 1)), entry(up(1, 2), pushed_ms=later_ms)]), at_ms=later_ms)
    made.lane_batches[0].decisions = [APPLIED]
    ((_, delay, _),) = made.acknowledgements(parked(made.lane_batches), 10)
    assert 10 <= delay <= 20


def test_equal_lanes_are_distinguished_when_one_is_parked() -> None:
    same = entry(up(1, 1))
    made = batch((b"1", [same]), (b"1", [same]))
    acknowledged = made.acknowledgements(parked(made.lane_batches[1:2]), 10)
    assert [bool(found) for _, _, found in acknowledged] == [True, False]


def test_parked_lanes_and_those_of_a_newer_version_have_reasons() -> None:
    made = batch((b"1", [entry(up(1))]), (b"2", [NEWER]), (b"3", [entry(up(3)), NEWER]), (b"4", [entry(up(4))]))
    newer = f"{NEWER_VERSION}: encoding version"
    found = made.reasons([])
    assert list(found) == [b"2", b"3"] and all(reason.startswith(newer) for reason in found.values())
    found = made.reasons([Parked(made.lane_batches[0], "one", False), Parked(made.lane_batches[1], "three", True)])
    assert (found[b"1"], found[b"3"], len(found)) == ("one", "three", 3)
    assert found[b"2"].startswith(newer)


def test_only_decided_commands_whose_sender_asked_get_a_reply() -> None:
    asked, silent, other = up(1, 1), up(1, 2), SyncLevels(user_id=2, specialization="PLAYER")
    made = batch(
        (b"1", [entry(asked, reply=True), entry(silent)]),
        (b"2", [entry(other, reply=True)]),
        (b"3", [entry(up(3), reply=True)]),
    )
    made.lane_batches[0].decisions = [Decision(None, "", 1, 2), Decision("validation_error", "no")]
    made.lane_batches[1].decisions = [Decision("validation_error", "there is none", duplicate=True)]
    (first, first_send), (second, second_send) = made.replies()
    assert first_send[13:] + second_send[13:] == record_of(asked).digest + record_of(other).digest
    assert (first.command_id, first.status, first.to_level, first.message) == (
        asked.command_id, "applied", 2, "level 1 -> 2",
    )  # fmt: skip
    assert (second.command_id, second.user_id, second.error, second.duplicate) == (
        other.command_id, 2, "validation_error", True,
    )  # fmt: skip


_commands = st.integers(1, 1000).map(
    lambda xp: entry(LevelUp(user_id=1, specialization="PLAYER", command_id=UUID(int=xp)))
)


@given(st.lists(st.one_of(_commands, st.binary(max_size=30), st.just(HUGE), st.just(NEWER)), max_size=12))
def test_every_entry_up_to_a_newer_one_has_its_identity(entries: list[bytes | Oversized]) -> None:
    made = batch((b"1", entries))
    known = entries[: entries.index(NEWER)] if NEWER in entries else entries
    ((_, _, found),) = made.acknowledgements([], 0)
    assert len(found) == IDENTITY_BYTES * len(known)
    assert made.commands + len(made.quarantined) == len(known)
