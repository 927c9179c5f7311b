"""renew.lua, yield.lua, sweep.lua and status.lua: staying, leaving, tidying and counting."""

from levelq_core.keys import Partition
from levelq_core.lanes.progress import progress_of
from tests.conformance.kit import Bench, Benches, identity, payload


class Upkeep:
    """Only the holder extends a claim; a due lane always has a live drain, a wake-up or the next sweep."""

    def test_renewal_extends_only_claims_of_its_token(self, b: Bench) -> None:
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

    def test_entry_waits_until_it_is_acknowledged_with_all_before_it(self, b: Bench) -> None:
        assert b.lanes.tail(b.partition, 1)[:2] == (b"", 0)
        b.fill(u1=2)
        before = b.everything()
        tail = b.lanes.tail(b.partition, 1)
        assert tail[:2] == (b.entries(1)[-1], 2)
        assert b.everything() == before
        b.push(1, payload(1, 9))
        assert b.lanes.tail(b.partition, 1, tail.entry) == tail
        ((_, (first, second, _)),) = b.claim().lanes
        b.ack("token", 1, identity(first), reason="a trigger")
        assert b.lanes.tail(b.partition, 1, tail.entry) == tail._replace(waiting=1, parked="a trigger", drains=1)
        b.claim("again")
        assert b.lanes.tail(b.partition, 1, tail.entry).claimed
        b.ack("again", 1, identity(second))
        gone = b.lanes.tail(b.partition, 1, tail.entry)
        assert (gone.waiting, gone.lost_since(tail)) == (0, False)
        assert gone._replace(server=b"another").lost_since(tail)

    def test_returned_claim_is_not_renewed(self, b: Bench) -> None:
        b.fill(u1=1)
        b.claim("late", drain="d")
        b.pass_time(601)
        b.lanes.sweep(b.partition)
        assert b.lanes.renew(b.partition, "d", "late", [b"1"]) == 0
        assert (b.members("claimed"), b.members("ready")) == ([], [1])
        b.check()

    def test_drain_that_yields_with_work_left_wakes_one_successor(self, bench: Benches) -> None:
        b = bench(batch_lanes=1)
        b.fill(u1=1, u2=1)
        b.claim("a", drain="a")
        assert b.lanes.yield_(b.partition, "a") is True
        assert b.scores("drains") == {}
        assert b.lanes.sweep(b.partition) == (False, 0)
        assert not b.push(3, payload(3)).wake
        assert b.members("claimed") == [1]

    def test_drain_that_yields_without_a_claim_removes_its_reservation(self, b: Bench) -> None:
        b.fill(u1=1)
        assert b.redis.exists(b.key("wake"))
        assert b.lanes.yield_(b.partition, "started by it, kept from claiming by the weather") is True
        assert b.lanes.yield_(b.partition, "its successor") is True

    def test_drain_that_yields_with_nothing_due_wakes_no_successor(self, b: Bench) -> None:
        b.fill(u1=1)
        b.claim("a", drain="a")
        assert b.lanes.yield_(b.partition, "a") is False
        assert "wake" not in b.names()

    def test_drain_that_yields_beside_another_drain_wakes_no_successor(self, bench: Benches) -> None:
        b = bench(batch_lanes=1)
        b.fill(u1=1, u2=1, u3=1)
        b.redis.zadd(b.key("ready"), {"3": b.now_ms() + 60_000})
        b.claim("a", drain="a")
        b.claim("b", drain="b")
        b.pass_time(61)
        assert b.lanes.yield_(b.partition, "a") is False
        assert b.lanes.yield_(b.partition, "b") is True

    def test_sweep_of_an_empty_partition_changes_nothing(self, b: Bench) -> None:
        assert b.lanes.sweep(b.partition) == (False, 0)
        assert b.names() == set()

    def test_sweep_returns_claims_of_a_dead_worker_and_wakes(self, b: Bench) -> None:
        b.fill(u1=1, u2=1)
        b.claim("dead", drain="dead")
        assert b.lanes.sweep(b.partition) == (False, 0)
        b.pass_time(601)
        assert b.lanes.sweep(b.partition) == (True, 2)
        assert (b.members("ready"), b.tokens(), b.scores("drains")) == ([1, 2], {}, {})
        assert b.lanes.sweep(b.partition) == (False, 0)
        b.check()

    def test_sweep_takes_over_wake_ups_that_do_not_arrive(self, b: Bench) -> None:
        b.fill(u1=1)
        b.pass_time(6)
        b.push(2, payload(2))  # its sender cannot reach RQ, but has reserved the wake-up again
        assert b.redis.exists(b.key("wake"))
        assert b.lanes.sweep(b.partition) == (True, 0)
        assert b.lanes.sweep(b.partition) == (False, 0)

    def test_sweep_wakes_nothing_beside_a_live_drain(self, bench: Benches) -> None:
        b = bench(batch_lanes=1)
        b.fill(u1=1, u2=1)
        b.pass_time(6)
        b.claim("a", drain="a")
        assert b.lanes.sweep(b.partition) == (False, 0)

    def test_sweep_returns_claims_from_before_the_clock_was_set_back(self, b: Bench) -> None:
        b.fill(u1=1)
        b.claim()
        b.pass_time(-3600)
        assert b.lanes.sweep(b.partition)[1] == 1
        assert b.scores("ready")[b"1"] <= b.now_ms()
        b.check()

    def test_sweep_replaces_a_lost_wake_up(self, b: Bench) -> None:
        b.fill(u1=1)
        assert b.lanes.sweep(b.partition) == (False, 0)  # the wake-up may still be on its way
        b.pass_time(6)
        assert b.lanes.sweep(b.partition) == (True, 0)

    def test_sweep_wakes_nothing_for_parked_lanes(self, b: Bench) -> None:
        b.fill(u1=1)
        b.claim()
        b.fill(u2=1)
        assert b.lanes.sweep(b.partition) == (False, 0)
        b.lanes.yield_(b.partition, "drain")
        b.redis.delete(b.key("wake"))
        b.redis.zadd(b.key("ready"), {"2": b.now_ms() + 60_000})
        assert b.lanes.sweep(b.partition) == (False, 0)

    def test_sweep_returns_a_bounded_number_of_claims(self, b: Bench) -> None:
        users = {str(user): 1 for user in range(1, 1501)}
        b.redis.zadd(b.key("claimed"), users)
        b.redis.hset(b.key("tokens"), mapping=dict.fromkeys(users, "dead"))
        assert [b.lanes.sweep(b.partition)[1] for _ in range(3)] == [1000, 500, 0]
        assert len(b.members("ready")) == 1500
        assert b.tokens() == {}

    def test_wrong_count_is_corrected_by_a_sweep(self, b: Bench) -> None:
        b.fill(u1=3, u2=1, u3=2)
        b.claim("ours", commands=3)
        for wrong in ("99999999", "-5", "no number", "0x6", "6.0", None):  # INCRBY takes neither 0x6 nor 6.0
            b.redis.delete(b.key("count"))
            if wrong is not None:
                b.redis.set(b.key("count"), wrong)
            b.lanes.sweep(b.partition)
            assert b.redis.get(b.key("count")) == b"6"
            b.check()
        b.redis.delete(b.key("count"))
        b.redis.rpush(b.key("count"), "of another type")
        b.lanes.sweep(b.partition)
        assert b.count() == 6

    def test_partition_full_by_a_wrong_count_takes_pushes_after_a_sweep(self, bench: Benches) -> None:
        b = bench(partition_limit=10)
        b.fill(u1=1)
        b.redis.incrby(b.key("count"), 99_999_999)
        assert b.push(2, payload(2)).lanes == [(0, "partition")]
        b.lanes.sweep(b.partition)
        assert b.push(2, payload(2)).lanes == [(1, "")]
        b.check()

    def test_count_of_an_aborted_push_is_corrected_by_a_sweep(self, b: Bench) -> None:
        b.fill(u1=2)
        b.redis.zadd(b.key("ready"), {"2": b.now_ms()})  # as push.lua leaves it if it ends before it appends
        b.redis.incrby(b.key("count"), 1_000)
        b.lanes.sweep(b.partition)
        assert b.count() == 2
        b.claim()
        b.check()

    def test_count_of_a_deleted_lane_is_corrected_by_a_sweep(self, b: Bench) -> None:
        b.fill(u1=2, u2=5)
        b.redis.delete(b.key("lane:2"))
        b.lanes.sweep(b.partition)
        assert b.count() == 2
        b.redis.delete(b.key("lane:1"))
        b.claim()
        b.lanes.sweep(b.partition)
        assert b.names() <= {"wake"}

    def test_count_stays_right_while_sweeps_pushes_and_acknowledgements_go_on(self, b: Bench) -> None:
        b.fill(u1=3, u2=3)
        b.redis.incrby(b.key("count"), 500)
        b.claim("ours", commands=4)
        b.push(1, payload(1, 7))
        b.lanes.sweep(b.partition)
        assert b.ack("ours", 1, identity(b.entries(1)[0])) == 1
        b.push(3, payload(3))
        assert b.count() == 7
        b.lanes.sweep(b.partition)
        b.check()

    def test_lane_in_both_sets_counts_once(self, b: Bench) -> None:
        b.fill(u1=2)
        b.claim()
        b.redis.zadd(b.key("ready"), {"1": b.now_ms() + 60_000})
        b.lanes.sweep(b.partition)
        assert b.count() == 2

    def test_many_lanes_are_counted_at_intervals(self, b: Bench) -> None:
        b.redis.zadd(b.key("ready"), {str(user): b.now_ms() + 60_000 for user in range(1, 1_502)})
        b.redis.rpush(b.key("lane:1500"), "one", "two")
        b.redis.set(b.key("count"), 99)
        b.lanes.sweep(b.partition)
        assert b.count() == 2
        assert 0 < b.redis.pttl(b.key("recounted")) <= 1_501
        b.redis.set(b.key("count"), 99)
        b.lanes.sweep(b.partition)
        assert b.count() == 99
        b.redis.delete(b.key("recounted"))  # it expires
        b.lanes.sweep(b.partition)
        assert b.count() == 2

    def test_mark_of_a_recount_that_lasts_too_long_is_ignored(self, b: Bench) -> None:
        b.redis.zadd(b.key("ready"), {str(user): b.now_ms() + 60_000 for user in range(1, 1_502)})
        for lasts in (None, 10**6):
            b.redis.set(b.key("count"), 99)
            b.redis.set(b.key("recounted"), "planted", ex=lasts)
            b.lanes.sweep(b.partition)
            assert b.count() == 0

    def test_registration_that_ends_too_late_and_endless_reservation_are_removed(self, b: Bench) -> None:
        b.redis.zadd(b.key("drains"), {"planted": 9e15})
        b.redis.set(b.key("wake"), "planted")
        assert not b.push(1, payload(1)).wake
        assert b.lanes.sweep(b.partition) == (True, 0)
        assert b.scores("drains") == {}

    def test_reservation_that_lasts_too_long_is_replaced_by_a_sweep(self, b: Bench) -> None:
        b.redis.set(b.key("wake"), "sweep", ex=10**6)
        assert not b.push(1, payload(1)).wake
        assert b.lanes.sweep(b.partition) == (True, 0)
        assert b.lanes.sweep(b.partition) == (False, 0)

    def test_drains_key_of_another_type_refuses_no_push_and_is_removed_by_a_sweep(self, b: Bench) -> None:
        b.redis.rpush(b.key("drains"), "of another type")
        answer = b.push(1, payload(1))
        assert (answer.wake, answer.lanes) == (True, [(1, "")])
        b.lanes.sweep(b.partition)
        assert len(b.claim().lanes) == 1
        b.check()

    def test_lanes_in_neither_set_are_put_back_and_others_do_not_change(self, b: Bench) -> None:
        b.fill(u1=1, u2=1, u3=1)
        b.claim("ours", commands=1)
        b.redis.zadd(b.key("ready"), {"2": 9e15})
        b.redis.zrem(b.key("ready"), "3")
        b.redis.set(b.key("lane:4"), "of another type")
        assert b.lanes.recover(b.partition, [b"1", b"2", b"3", b"4", b"5"]) == 1
        assert b.scores("ready")[b"2"] == 9e15 and b.members("ready") == [3, 2]
        b.redis.delete(b.key("lane:4"))
        b.check()

    def test_progress_is_noted_only_while_commands_wait(self, b: Bench) -> None:
        b.fill(u1=2, u2=1)
        b.claim("ours")
        assert progress_of(b.redis, b.lanes.keys, b.partition).since is None
        assert b.ack("ours", 1, identity(b.entries(1)[0])) == 1
        assert 0 <= (progress_of(b.redis, b.lanes.keys, b.partition).since or 0) < 60
        b.redis.delete(b.key("progress"))
        b.ack("ours", 2)
        assert "progress" not in b.names()  # given back, not decided
        b.claim("again")
        b.ack("again", 1, delay_ms=60_000, reason="parked")
        assert "progress" in b.names()
        b.ack("again", 2, identity(b.entries(2)[0]))
        b.redis.zadd(b.key("ready"), {"1": 0})
        b.claim("last")
        assert b.ack("last", 1, identity(b.entries(1)[0])) == 1
        assert "progress" not in b.names()

    def test_progress_has_how_long_lanes_are_due_and_claims_expired(self, b: Bench) -> None:
        b.fill(u1=1, u2=1, u3=1)
        b.claim("ours", commands=2)
        b.pass_time(700)
        found = progress_of(b.redis, b.lanes.keys, b.partition)
        assert found.drains == 0 and found.overdue == 2 and not found.restoring
        assert 700 <= found.due < 760 and 100 <= found.overdue_for < 160
        b.redis.set(b.key("relay"), "a lease")
        assert progress_of(b.redis, b.lanes.keys, b.partition).restoring
        assert progress_of(b.redis, b.lanes.keys, Partition("COACH")) == (0, None, 0.0, 0, 0.0, 0, False)

    def test_status_counts_and_changes_nothing(self, b: Bench) -> None:
        b.fill(u1=3, u2=1, u3=1, u4=2)
        b.claim(commands=3)
        b.redis.zadd(b.key("ready"), {"3": b.now_ms() + 60_000})
        before = b.everything()
        status = b.lanes.status(b.partition)
        assert b.everything() == before
        assert status[:5] == (7, 2, 1, 1, 1)
        assert 0 <= status.oldest_seconds < 60

    def test_status_has_how_long_the_oldest_command_has_waited(self, b: Bench) -> None:
        b.fill(u1=1, u2=2)
        for user, age in ((1, 40_000), (2, 90_000)):
            stamp = b"%013d" % (b.now_ms() - age)
            b.redis.lset(b.key(f"lane:{user}"), 0, stamp + payload(user, 0))
        assert 90 <= b.lanes.status(b.partition).oldest_seconds < 120
        b.claim()
        assert 90 <= b.lanes.status(b.partition).oldest_seconds < 120

    def test_status_of_an_empty_partition_is_zero(self, b: Bench) -> None:
        assert b.lanes.status(b.partition) == (0, 0, 0, 0, 0, 0.0)
        assert b.names() == set()

    def test_status_ignores_malformed_lanes(self, b: Bench) -> None:
        b.redis.rpush(b.key("lane:1"), "no time in front")
        b.redis.set(b.key("lane:2"), "of another type")
        b.redis.zadd(b.key("ready"), {"1": 1, "2": 2, "3": 3})
        assert b.lanes.status(b.partition) == (0, 3, 0, 0, 0, 0.0)

    def test_registry_lists_the_partitions(self, b: Bench) -> None:
        assert b.lanes.partitions() == []
        b.redis.zadd(b.lanes.keys.registry, {"PLAYER:1:0": 2, "COACH:1:3": 1})
        assert b.lanes.partitions() == [Partition("COACH", 1, 3), Partition("PLAYER", 1, 0)]
