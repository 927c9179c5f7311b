"""renew.lua, yield.lua, sweep.lua and status.lua: staying, leaving, tidying and counting."""

from __future__ import annotations

from levelq_core.partitions import Partition
from tests.conformance.kit import Benches, payload


class Upkeep:
    """Only the holder extends a claim; a due lane always has a live drain, a wake-up or the next sweep."""

    def test_a_renewal_extends_only_what_is_ours(self, bench: Benches) -> None:
        b = bench()
        b.fill(u1=1, u2=1)
        b.claim("ours", commands=1, drain="d")
        b.claim("theirs", drain="e")
        b.pass_time(300)
        theirs = b.scores("claimed")[b"2"]
        before = b.now_ms()
        assert b.lanes.renew(b.partition, "d", "ours", [b"1", b"2", b"3"]) == 1
        assert b.scores("claimed")[b"1"] >= before + 600_000
        assert b.scores("claimed")[b"2"] == theirs
        assert b.scores("drains")[b"d"] >= before + 600_000
        b.pass_time(301)
        assert [int(user) for user, _ in b.claim("next", drain="f").lanes] == [2]
        b.check()

    def test_what_was_taken_back_is_not_claimed_again_by_a_renewal(self, bench: Benches) -> None:
        b = bench()
        b.fill(u1=1)
        b.claim("late", drain="d")
        b.pass_time(601)
        b.lanes.sweep(b.partition)
        assert b.lanes.renew(b.partition, "d", "late", [b"1"]) == 0
        assert (b.members("claimed"), b.members("ready")) == ([], [1])
        b.check()

    def test_who_yields_with_work_left_wakes_one_successor(self, bench: Benches) -> None:
        b = bench(batch_lanes=1)
        b.fill(u1=1, u2=1)
        b.claim("a", drain="a")
        assert b.lanes.yield_(b.partition, "a") is True
        assert b.scores("drains") == {}
        assert b.lanes.sweep(b.partition) == (False, 0)
        assert not b.push(3, payload(3)).wake
        assert b.members("claimed") == [1]

    def test_who_yields_without_ever_claiming_clears_the_reservation_that_started_it(self, bench: Benches) -> None:
        b = bench()
        b.fill(u1=1)
        assert b.redis.exists(b.key("wake"))
        assert b.lanes.yield_(b.partition, "started by it, kept from claiming by the weather") is True
        assert b.lanes.yield_(b.partition, "its successor") is True

    def test_who_yields_with_nothing_due_wakes_nobody(self, bench: Benches) -> None:
        b = bench()
        b.fill(u1=1)
        b.claim("a", drain="a")
        assert b.lanes.yield_(b.partition, "a") is False
        assert "wake" not in b.names()

    def test_who_yields_beside_another_drain_leaves_the_work_to_it(self, bench: Benches) -> None:
        b = bench(batch_lanes=1)
        b.fill(u1=1, u2=1, u3=1)
        b.redis.zadd(b.key("ready"), {"3": b.now_ms() + 60_000})
        b.claim("a", drain="a")
        b.claim("b", drain="b")
        b.pass_time(61)
        assert b.lanes.yield_(b.partition, "a") is False
        assert b.lanes.yield_(b.partition, "b") is True

    def test_a_sweep_of_nothing_does_nothing(self, bench: Benches) -> None:
        b = bench()
        assert b.lanes.sweep(b.partition) == (False, 0)
        assert b.names() == set()

    def test_a_sweep_returns_what_a_dead_worker_held_and_wakes(self, bench: Benches) -> None:
        b = bench()
        b.fill(u1=1, u2=1)
        b.claim("dead", drain="dead")
        assert b.lanes.sweep(b.partition) == (False, 0)
        b.pass_time(601)
        assert b.lanes.sweep(b.partition) == (True, 2)
        assert (b.members("ready"), b.tokens(), b.scores("drains")) == ([1, 2], {}, {})
        assert b.lanes.sweep(b.partition) == (False, 0)
        b.check()

    def test_a_sweep_takes_over_wake_ups_that_do_not_arrive(self, bench: Benches) -> None:
        b = bench()
        b.fill(u1=1)
        b.pass_time(6)
        b.push(2, payload(2))  # its sender cannot reach RQ, but has reserved the wake-up again
        assert b.redis.exists(b.key("wake"))
        assert b.lanes.sweep(b.partition) == (True, 0)
        assert b.lanes.sweep(b.partition) == (False, 0)

    def test_a_sweep_leaves_the_work_to_a_live_drain_however_long_it_is_due(self, bench: Benches) -> None:
        b = bench(batch_lanes=1)
        b.fill(u1=1, u2=1)
        b.pass_time(6)
        b.claim("a", drain="a")
        assert b.lanes.sweep(b.partition) == (False, 0)

    def test_a_sweep_returns_claims_of_a_clock_that_was_set_back(self, bench: Benches) -> None:
        b = bench()
        b.fill(u1=1)
        b.claim()
        b.pass_time(-3600)
        assert b.lanes.sweep(b.partition)[1] == 1
        assert b.scores("ready")[b"1"] <= b.now_ms()
        b.check()

    def test_a_sweep_finds_lanes_whose_wake_up_was_lost(self, bench: Benches) -> None:
        b = bench()
        b.fill(u1=1)
        assert b.lanes.sweep(b.partition) == (False, 0)  # the wake-up may still be on its way
        b.pass_time(6)
        assert b.lanes.sweep(b.partition) == (True, 0)

    def test_a_sweep_leaves_work_to_a_live_drain_and_parked_lanes_to_time(self, bench: Benches) -> None:
        b = bench()
        b.fill(u1=1)
        b.claim()
        b.fill(u2=1)
        assert b.lanes.sweep(b.partition) == (False, 0)
        b.lanes.yield_(b.partition, "drain")
        b.redis.delete(b.key("wake"))
        b.redis.zadd(b.key("ready"), {"2": b.now_ms() + 60_000})
        assert b.lanes.sweep(b.partition) == (False, 0)

    def test_one_sweep_is_bounded(self, bench: Benches) -> None:
        b = bench()
        users = {str(user): 1 for user in range(1, 1501)}
        b.redis.zadd(b.key("claimed"), users)
        b.redis.hset(b.key("tokens"), mapping=dict.fromkeys(users, "dead"))
        assert [b.lanes.sweep(b.partition)[1] for _ in range(3)] == [1000, 500, 0]
        assert len(b.members("ready")) == 1500
        assert b.tokens() == {}

    def test_status_counts_and_changes_nothing(self, bench: Benches) -> None:
        b = bench()
        b.fill(u1=3, u2=1, u3=1, u4=2)
        b.claim(commands=3)
        b.redis.zadd(b.key("ready"), {"3": b.now_ms() + 60_000})
        before = b.everything()
        status = b.lanes.status(b.partition)
        assert b.everything() == before
        assert status[:5] == (7, 2, 1, 1, 1)
        assert 0 <= status.oldest_seconds < 60

    def test_status_knows_how_long_the_oldest_has_waited(self, bench: Benches) -> None:
        b = bench()
        b.fill(u1=1, u2=2)
        for user, age in ((1, 40_000), (2, 90_000)):
            stamp = b"%013d" % (b.now_ms() - age)
            b.redis.lset(b.key(f"lane:{user}"), 0, stamp + payload(user, 0))
        assert 90 <= b.lanes.status(b.partition).oldest_seconds < 120
        b.claim()
        assert 90 <= b.lanes.status(b.partition).oldest_seconds < 120

    def test_status_of_nothing_is_nothing(self, bench: Benches) -> None:
        b = bench()
        assert b.lanes.status(b.partition) == (0, 0, 0, 0, 0, 0.0)
        assert b.names() == set()

    def test_status_does_not_stumble_over_rubbish(self, bench: Benches) -> None:
        b = bench()
        b.redis.rpush(b.key("lane:1"), "no time in front")
        b.redis.set(b.key("lane:2"), "of another type")
        b.redis.zadd(b.key("ready"), {"1": 1, "2": 2, "3": 3})
        assert b.lanes.status(b.partition) == (0, 3, 0, 0, 0, 0.0)

    def test_the_registry_lists_the_partitions(self, bench: Benches) -> None:
        b = bench()
        assert b.lanes.partitions() == []
        b.redis.zadd(b.lanes.keys.registry, {"PLAYER:1:0": 2, "COACH:1:3": 1})
        assert b.lanes.partitions() == [Partition("COACH", 1, 3), Partition("PLAYER", 1, 0)]
