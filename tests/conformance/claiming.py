"""claim.lua: which lanes a drain gets, how much of them, and when it is done."""

from hashlib import sha1
from typing import Any

import pytest

from levelq_core.lanes.protocol import Claim, Oversized
from tests.conformance.kit import Bench, Benches, payload


def taken(claim: Claim) -> dict[int, int]:
    return {int(user): len(entries) for user, entries in claim.lanes}


def make_due(b: Bench, *users: int) -> None:
    b.redis.zadd(b.key("ready"), {str(user): n for n, user in enumerate(users, 1)})


class Claiming:
    """Commands stay in the lane until acknowledged; a drain retires exactly when nothing is due."""

    def test_lane_due_longest_is_claimed_first(self, b: Bench) -> None:
        b.fill(u1=1, u2=1, u3=1)
        make_due(b, 2, 3, 1)
        assert [int(user) for user, _ in b.claim().lanes] == [2, 3, 1]

    def test_claim_holds_its_lanes_by_token_and_deadline(self, b: Bench) -> None:
        b.fill(u1=2, u2=1)
        entries = b.entries(1)
        before = b.now_ms()
        claim = b.claim("mine")
        assert claim.lanes[0] == (b"1", entries)
        assert (claim.wake, claim.retired, claim.broken) == (False, False, [])
        assert b.tokens() == {b"1": b"mine", b"2": b"mine"}
        for deadline in (*b.scores("claimed").values(), b.scores("drains")[b"drain"]):
            assert before + 600_000 <= deadline <= b.now_ms() + 600_000
        assert b.entries(1) == entries
        assert b.count() == 3
        b.check()

    def test_claimed_lane_is_not_claimed_again(self, b: Bench) -> None:
        b.fill(u1=2, u2=1)
        assert taken(b.claim("a", commands=1, drain="a")) == {1: 1}
        assert taken(b.claim("b", drain="b")) == {2: 1}
        assert taken(b.claim("c", drain="c")) == {}
        assert b.tokens() == {b"1": b"a", b"2": b"b"}

    def test_lane_that_is_not_due_waits(self, b: Bench) -> None:
        b.fill(u1=1)
        b.redis.zadd(b.key("ready"), {"1": b.now_ms() + 60_000})
        assert (b.claim().lanes, b.members("ready")) == ([], [1])
        b.pass_time(61)
        assert taken(b.claim()) == {1: 1}

    @pytest.mark.parametrize(
        ("settings", "commands", "filled", "expected", "left"),
        [
            ({"batch_lanes": 2}, 1000, {"u1": 1, "u2": 1, "u3": 1}, {1: 1, 2: 1}, {3: 1}),
            ({}, 3, {"u1": 2, "u2": 2, "u3": 2}, {1: 2, 2: 1}, {3: 2}),
            ({"lane_commands": 2}, 1000, {"u1": 5, "u2": 1}, {1: 2, 2: 1}, {}),
        ],
        ids=["lanes", "commands", "commands of a lane"],
    )
    def test_claim_is_bounded(
        self, bench: Benches, settings: Any, commands: int, filled: Any, expected: Any, left: Any
    ) -> None:
        b = bench(**settings)
        b.fill(**filled)
        assert taken(b.claim("a", commands)) == expected
        assert b.members("ready") == list(left)
        assert taken(b.claim("b")) == left

    def test_long_lane_is_read_in_order(self, b: Bench) -> None:
        b.fill(u1=250)
        assert b.claim(commands=230).lanes == [(b"1", b.entries(1)[:230])]

    def test_claim_is_bounded_in_bytes(self, bench: Benches) -> None:
        b = bench(batch_bytes=1024)
        b.fill(u1=10, u2=10, u3=10)  # of 82 bytes each
        claim = b.claim()
        assert taken(claim) == {1: 10, 2: 2}
        assert sum(len(entry) for _, entries in claim.lanes for entry in entries if isinstance(entry, bytes)) <= 1024

    def test_one_entry_of_any_size_is_taken(self, bench: Benches) -> None:
        b = bench(batch_bytes=1024, payload_limit=4096)
        b.push(1, b"x" * 4096)
        b.fill(u2=1)
        assert taken(b.claim("a")) == {1: 1}
        assert taken(b.claim("b")) == {2: 1}

    def test_oversized_entry_is_returned_as_length_hash_and_head(self, bench: Benches) -> None:
        b = bench(payload_limit=128, batch_bytes=16_384)
        fits, over, huge = b"a" * 128, b"b" * 129, bytes(range(256)) * 40
        b.push(1, fits, over, huge, fits)
        ((_, entries),) = b.claim().lanes
        whole = b.entries(1)
        assert [whole[0], whole[3]] == [entries[0], entries[3]]
        for got, stored in zip(entries[1:3], whole[1:3], strict=True):
            assert got == Oversized(len(stored), sha1(stored).hexdigest(), stored[:4096])

    def test_oversized_entry_counts_with_its_whole_size(self, bench: Benches) -> None:
        """Else one claim could read a hundred raw entries of megabytes, and hold the server for seconds."""
        b = bench(payload_limit=128, batch_bytes=1024)
        b.push(1, b"a" * 128, b"b" * 2000, b"c" * 2000)
        b.fill(u2=1)
        claim = b.claim()
        assert [(user, len(entries)) for user, entries in claim.lanes] == [(b"1", 1)]

    def test_expired_claim_is_claimed_first(self, b: Bench) -> None:
        b.fill(u1=1)
        b.claim("dead", drain="dead")
        b.pass_time(601)
        b.fill(u2=1)
        claim = b.claim("alive", drain="alive")
        assert [int(user) for user, _ in claim.lanes] == [1, 2]
        assert set(b.tokens().values()) == {b"alive"}
        assert set(b.scores("drains")) == {b"alive"}
        b.check()

    def test_claim_that_has_not_expired_is_kept(self, b: Bench) -> None:
        b.fill(u1=1)
        b.claim("a", drain="a")
        b.pass_time(590)
        assert taken(b.claim("b", drain="b")) == {}
        assert b.tokens() == {b"1": b"a"}

    def test_deadline_later_than_a_new_claim_counts_as_expired(self, b: Bench) -> None:
        b.fill(u1=1)
        b.claim("a", drain="a")
        b.pass_time(-3600)
        assert taken(b.claim("b", drain="b")) == {1: 1}
        b.check()

    def test_lane_key_of_another_type_does_not_strand_other_lanes(self, b: Bench) -> None:
        b.fill(u1=1, u2=1, u3=1)
        b.redis.delete(b.key("lane:2"))
        b.redis.set(b.key("lane:2"), "another program's")
        make_due(b, 2, 1, 3)
        before = b.now_ms()
        claim = b.claim()
        assert (taken(claim), claim.broken) == ({1: 1, 3: 1}, [b"2"])
        assert b.members("ready") == [2]
        assert before + 60_000 <= b.scores("ready")[b"2"] <= b.now_ms() + 60_000
        assert b.claim().broken == []
        b.pass_time(61)
        assert b.claim().broken == [b"2"]

    def test_empty_lane_is_removed_from_ready(self, b: Bench) -> None:
        make_due(b, 1)
        claim = b.claim()
        assert (claim.lanes, claim.retired, b.names()) == ([], True, set())

    def test_drain_with_nothing_due_retires(self, b: Bench) -> None:
        before = b.now_ms()
        claim = b.claim()
        assert claim == Claim([], wake=False, retired=True, broken=[], at_ms=claim.at_ms)
        assert before <= claim.at_ms <= b.now_ms()
        assert b.names() == set()

    def test_drain_retires_although_lanes_are_claimed_or_parked(self, b: Bench) -> None:
        b.fill(u1=1, u2=1)
        b.redis.zadd(b.key("ready"), {"2": b.now_ms() + 60_000})
        b.claim("a", drain="a")
        assert b.claim("b", drain="b").retired
        assert set(b.scores("drains")) == {b"a"}

    @pytest.mark.parametrize("first", ["empty", "broken"])
    def test_drain_that_took_nothing_stays_while_a_lane_is_due(self, bench: Benches, first: str) -> None:
        b = bench(batch_lanes=1)
        b.fill(u2=1)
        if first == "broken":
            b.redis.set(b.key("lane:1"), "x")
        make_due(b, 1, 2)
        claim = b.claim("a")
        assert (claim.lanes, claim.retired) == ([], False)
        assert b.scores("drains")
        assert taken(b.claim("b")) == {2: 1}

    def test_push_after_a_drain_retired_wakes(self, b: Bench) -> None:
        assert b.push(1, payload(1)).wake
        b.claim("a")
        b.ack("a", 1, payload(1)[4:36])
        assert b.claim("b").retired
        assert b.push(1, payload(1, 1)).wake

    def test_drain_that_registers_removes_the_reservation(self, b: Bench) -> None:
        b.fill(u1=1)
        assert "wake" in b.names()
        b.claim()
        assert "wake" not in b.names()

    def test_second_drain_is_woken_for_more_lanes_than_one_takes(self, bench: Benches) -> None:
        b = bench(batch_lanes=2)
        b.fill(u1=1, u2=1, u3=1, u4=1, u5=1)
        assert b.claim("a", drain="a").wake  # three are left, one drain takes two
        assert not b.claim("b", drain="a").wake  # one is left

    def test_second_drain_is_woken_once_for_more_commands_than_one_takes(self, bench: Benches) -> None:
        b = bench(batch_commands=2)
        b.fill(u1=2, u2=2, u3=1)
        assert b.claim("a", commands=2, drain="a").wake
        assert not b.claim("b", commands=2, drain="a").wake
        assert not b.push(4, payload(4)).wake

    def test_one_hot_lane_wakes_no_second_drain(self, bench: Benches) -> None:
        b = bench(batch_commands=2)
        b.fill(u1=50)
        assert not b.claim(commands=2).wake
        assert not b.push(1, payload(1, 99)).wake

    def test_claim_is_blocked_until_the_outbox_is_restored(self, b: Bench) -> None:
        b.fill(u1=1)
        before = b.everything()
        claim = b.lanes.claim(b.partition, "drain", "token", 10, restored_only=True)
        assert claim == Claim([], wake=False, retired=False, broken=[], blocked=True)
        assert b.everything() == before
        b.redis.set(b.key("filled"), "1")
        claim = b.lanes.claim(b.partition, "drain", "token", 10, restored_only=True)
        assert (taken(claim), claim.blocked) == ({1: 1}, False)
