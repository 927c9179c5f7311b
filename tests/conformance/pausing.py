"""pause.lua, and what claim.lua, sweep.lua and every wake-up make of a pause."""

import pytest

from levelq_core.errors import ConfigurationError
from levelq_core.lanes.pauses import pause_of, pauses
from tests.conformance.acknowledging import ids
from tests.conformance.kit import FAR, Bench, Benches, payload


def resume(b: Bench, user_id: int | None = None) -> bool:
    """Resume and sweep, as an operator's command does; whether a drain is to be woken."""
    b.lanes.resume(b.partition, user_id)
    return b.lanes.sweep(b.partition)[0]


class Pausing:
    """Nothing of what is paused is claimed, no drain is woken for it, and all of it goes on afterwards, in order."""

    def test_paused_partition_gives_nothing_and_retires_the_drain(self, b: Bench) -> None:
        b.fill(u1=2, u2=1)
        assert b.pause() is None
        claim = b.claim()
        assert (claim.lanes, claim.retired, claim.wake) == ([], True, False)
        assert (b.members("ready"), b.members("claimed"), b.scores("drains"), b.count()) == ([1, 2], [], {}, 3)
        assert resume(b) is True
        assert [user for user, _ in b.claim().lanes] == [b"1", b"2"]
        assert b.claim(drain="other").retired
        b.check()

    def test_pause_takes_no_claim_from_its_drain_and_retires_it_only_without_a_batch(self, b: Bench) -> None:
        b.fill(u1=2)
        b.claim("t", commands=1)
        b.pause()
        b.push(2, payload(2))
        held = b.lanes.begin_claim(b.partition, "drain", "t2", 9, holding=True).result()
        assert (held.lanes, held.retired) == ([], False)
        assert b.lanes.claims(b.partition, None) == b.lanes.claims(b.partition, 1) == 1
        assert b.ack("t", 1, *ids(1, 0)) == 1
        assert b.lanes.claims(b.partition, None) == b.lanes.claims(b.partition, 1) == 0
        assert b.claim("t3").retired
        assert b.payloads(1) == [payload(1, 1)]
        b.check()

    def test_paused_partition_wakes_no_drain(self, bench: Benches) -> None:
        b = bench(batch_lanes=1)
        b.fill(u1=1, u2=1, u3=1)
        b.claim("a", drain="a")
        b.pause()
        b.redis.delete(b.key("wake"))
        assert not b.push(4, payload(4)).wake
        assert b.lanes.yield_(b.partition, "a") is False
        b.claim("dead", drain="dead")
        b.pass_time(601)
        assert b.lanes.sweep(b.partition)[0] is False  # also where lanes have been due for long and no drain lives
        assert "wake" not in b.names()
        lease = b.lanes.lease(b.partition, "take").value
        assert not b.lanes.restore(b.partition, lease, [], last=True).wake
        assert not b.lanes.relay(b.partition, lease, [(5, [payload(5)])], idle_only=False).wake
        assert resume(b) is True
        b.check()

    def test_paused_user_is_parked_with_the_reason_and_others_go_on(self, b: Bench) -> None:
        b.fill(u1=1, u2=1)
        b.pause(1, reason="poison (SQLSTATE P0001)")
        b.pause(3)
        b.fill(u3=1)
        assert b.scores("ready")[b"1"] == FAR  # at once; another lane when a claim finds it
        claim = b.claim()
        assert ([user for user, _ in claim.lanes], claim.parked) == ([b"2"], frozenset())
        why = {user: (lane.reason, lane.until_ms, lane.attempts) for user, lane in b.parked().items()}
        poison = "paused by ann: poison (SQLSTATE P0001), until resumed"
        assert why == {"1": (poison, None, 0), "3": ("paused by ann, until resumed", None, 0)}
        b.push(1, payload(1, 1))
        b.ack("token", 2, *ids(2, 0))
        assert b.scores("ready") == {b"1": FAR, b"3": FAR}
        assert b.claim().retired
        assert b.lanes.sweep(b.partition) == (False, 0)
        b.check()
        assert resume(b, 1) is True
        assert list(b.parked()) == ["3"]
        ((user, entries),) = b.claim().lanes
        assert (user, [entry[13:] for entry in entries]) == (b"1", [payload(1), payload(1, 1)])
        b.check()

    def test_lane_claimed_before_its_user_is_paused_is_parked_after_its_acknowledgement(self, b: Bench) -> None:
        b.fill(u1=3)
        b.claim("t", commands=2)
        b.pause(1)
        assert b.parked() == {}
        assert b.ack("t", 1, *ids(1, 0, 1)) == 2
        assert b.claim().retired
        assert (b.scores("ready"), list(b.parked())) == ({b"1": FAR}, ["1"])
        b.check()

    @pytest.mark.parametrize("user_id", [None, 1])
    def test_pause_ends_by_itself_within_a_sweep(self, b: Bench, user_id: int | None) -> None:
        b.fill(u1=1)
        b.pause(user_id, 60_000)
        assert b.claim().retired
        b.redis.delete(b.key("wake"))
        b.pass_time(59)
        assert b.lanes.sweep(b.partition) == (False, 0)
        b.pass_time(2)
        assert pause_of(b.redis, b.lanes.keys, b.partition, user_id) is None
        assert b.lanes.sweep(b.partition) == (True, 0)
        assert not b.names() & {"paused", "parked"}
        assert [user for user, _ in b.claim().lanes] == [b"1"]

    def test_lane_whose_pause_was_removed_by_hand_is_due_at_the_next_sweep(self, b: Bench) -> None:
        b.fill(u1=1)
        b.pause(1)
        b.redis.delete(b.key("paused"))
        b.lanes.sweep(b.partition)
        assert b.claim().lanes

    def test_pausing_again_keeps_the_beginning_and_changes_end_and_reason(self, b: Bench) -> None:
        b.fill(u1=1)
        b.pause(1, 1000, "first")
        first = pause_of(b.redis, b.lanes.keys, b.partition, 1)
        assert b.pause(1, 0, "second") == first
        second = pause_of(b.redis, b.lanes.keys, b.partition, 1)
        assert (
            first and second and (second.since_ms, second.until_ms, second.reason) == (first.since_ms, None, "second")
        )
        assert b.parked()["1"].reason == "paused by ann: second, until resumed"
        assert b.lanes.resume(b.partition, 1) == second
        assert b.lanes.resume(b.partition, 1) is None

    def test_pauses_are_read_by_user_and_bounded(self, b: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        for user_id in (7, None, 3):
            b.pause(user_id)
        b.redis.hset(b.key("paused"), mapping={"8": "rubbish", "x": "1 0 a|b", "9": "1 2 a|over"})
        assert list(pauses(b.redis, b.lanes.keys, b.partition)) == [None, 3, 7]
        assert list(pauses(b.redis, b.lanes.keys, b.partition, 1)) == [None, 3]
        monkeypatch.setattr("levelq_core.lanes.protocol.MOST_PAUSES", 6)
        b.pause(3)
        with pytest.raises(ConfigurationError, match=r"PLAYER:1:0: .* users are paused"):
            b.pause(11)

    @pytest.mark.parametrize("wrong", ["rubbish", "1 x a|b", "1 0 nobar"])
    def test_unreadable_pause_pauses_nothing(self, b: Bench, wrong: str) -> None:
        b.fill(u1=1)
        b.redis.hset(b.key("paused"), mapping={"*": wrong, "1": wrong})
        b.lanes.sweep(b.partition)
        assert len(b.claim().lanes) == 1
        assert b.redis.hlen(b.key("paused")) == 2  # `levelq rebuild` removes it

    def test_paused_key_of_another_type_pauses_nothing(self, b: Bench) -> None:
        b.fill(u1=1)
        b.redis.set(b.key("paused"), "text")
        b.lanes.sweep(b.partition)
        assert len(b.claim().lanes) == 1
        assert pauses(b.redis, b.lanes.keys, b.partition) == {}

    def test_full_batch_of_paused_lanes_leaves_the_rest_to_the_next_claim(self, bench: Benches) -> None:
        b = bench(batch_lanes=2)
        b.fill(u1=1, u2=1, u3=1, u4=1)
        for user_id in (1, 2, 3):
            b.redis.hset(b.key("paused"), str(user_id), "1 0 ann|")
        first, second = b.claim("a"), b.claim("b")
        assert (first.lanes, first.retired) == ([], False)
        assert [user for user, _ in second.lanes] == [b"4"]
        assert b.members("ready") == [1, 2, 3]
        b.check()
