"""The hash `parked`: why a lane waits, since when and how often it was tried; nothing of it outlives its cause."""

from levelq_core.lanes.parked import MOST_BYTES, MOST_LANES, WRONG_TYPE, ParkedLanes, read
from levelq_core.lanes.user_lane import of_user
from tests.conformance.acknowledging import ids
from tests.conformance.kit import Bench, Benches, payload

WHY = "learner 1 is blocked (SQLSTATE P0001)"


def park(b: Bench, user_id: int = 1, *, reason: str = WHY, decided: tuple[int, ...] = ()) -> None:
    """Claim everything that is due, and acknowledge one lane as parked for 30 s."""
    b.claim()
    assert b.ack("token", user_id, *ids(user_id, *decided), delay_ms=30_000, reason=reason) == len(decided)


class Parking:
    """A parked lane keeps its reason while its first command stays, and loses it with its cause."""

    def test_parked_lane_has_its_reason_and_its_times(self, b: Bench) -> None:
        b.fill(u1=2)
        before = b.now_ms()
        park(b)
        (lane,) = b.parked().values()
        assert (lane.user, lane.attempts, lane.reason) == ("1", 1, WHY)
        assert before <= lane.since_ms <= b.now_ms()
        assert lane.until_ms == b.scores("ready")[b"1"] == lane.since_ms + 30_000
        b.check()

    def test_lane_parked_again_keeps_since_and_counts_attempts(self, b: Bench) -> None:
        b.fill(u1=2)
        park(b)
        since = b.parked()["1"].since_ms
        b.redis.hset(b.key("parked"), "1", f"{since - 7_000} 1 {WHY}")  # as if it was parked 7 s ago
        b.pass_time(31)
        park(b, reason="another message (SQLSTATE P0001)")
        lane = b.parked()["1"]
        assert (lane.since_ms, lane.attempts, lane.reason) == (since - 7_000, 2, "another message (SQLSTATE P0001)")

    def test_lane_with_a_new_head_that_is_parked_starts_a_new_note(self, b: Bench) -> None:
        b.fill(u1=3)
        park(b)
        b.redis.hset(b.key("parked"), "1", f"1000 9 {WHY}")
        b.pass_time(31)
        before = b.now_ms()
        park(b, decided=(0,))
        lane = b.parked()["1"]
        assert lane.attempts == 1 and before <= lane.since_ms <= b.now_ms()

    def test_claim_reports_lanes_parked_for_a_database_error(self, b: Bench) -> None:
        b.fill(u1=1)
        park(b)
        b.fill(u2=1)
        park(b, 2, reason="other code holds its rows or its user")
        b.fill(u3=1)
        b.pass_time(31)
        claim = b.claim()
        assert sorted(user for user, _ in claim.lanes) == [b"1", b"2", b"3"]
        assert claim.parked == {b"1"}

    def test_progress_removes_the_note(self, b: Bench) -> None:
        b.fill(u1=2, u2=2)
        park(b)
        b.pass_time(601)
        b.claim()
        assert b.ack("token", 1, *ids(1, 0)) == 1
        assert (b.parked(), b.members("ready")) == ({}, [1])
        assert not b.redis.exists(b.key("parked"))

    def test_emptied_lane_leaves_nothing(self, b: Bench) -> None:
        b.fill(u1=2)
        park(b)
        b.pass_time(31)
        b.claim()
        assert b.ack("token", 1, *ids(1, 0, 1)) == 2
        assert b.claim().retired
        assert b.names() == set()

    def test_released_lane_keeps_its_note(self, b: Bench) -> None:
        """The database went away: nothing was decided, and the cause may last."""
        b.fill(u1=2)
        park(b)
        noted = b.parked()["1"]
        b.pass_time(31)
        b.claim()
        claimed = b.parked()["1"]
        assert claimed == noted._replace(until_ms=None)
        b.ack("token", 1)
        assert b.parked()["1"]._replace(until_ms=0) == noted._replace(until_ms=0)
        b.check()

    def test_expired_claim_keeps_the_note(self, b: Bench) -> None:
        b.fill(u1=2)
        park(b)
        b.pass_time(31)
        b.claim("dead", drain="dead")
        b.pass_time(601)
        assert b.lanes.sweep(b.partition)[1] == 1
        assert b.parked()["1"].attempts == 1
        b.check()

    def test_stale_token_changes_no_note(self, b: Bench) -> None:
        b.fill(u1=2, u2=1)
        b.claim("dead", drain="dead")
        assert b.ack("dead", 2, delay_ms=30_000, reason=WHY) == 0
        b.pass_time(601)
        b.claim("alive", drain="alive")
        before = b.everything()
        assert b.ack("dead", 1, delay_ms=30_000, reason=WHY) == -1
        assert b.ack("dead", 2, *ids(2, 0)) == -1
        assert b.everything() == before

    def test_each_lane_of_an_acknowledgement_has_its_own_reason(self, b: Bench) -> None:
        b.fill(u1=1, u2=1, u3=2, u4=1)
        b.claim()
        lanes = [(b"1", 9_000, b""), (b"2", 0, ids(2, 0)[0]), (b"3", 9_000, ids(3, 0)[0]), (b"4", 0, b"")]
        assert b.lanes.ack(b.partition, "token", lanes, {b"3": "three", b"1": "one", b"2": "gone"}) == [0, 1, 1, 0]
        assert {user: lane.reason for user, lane in b.parked().items()} == {"1": "one", "3": "three"}
        b.check()

    def test_lane_that_vanished_leaves_no_note(self, b: Bench) -> None:
        """Its key was deleted by hand: while it was parked, and while it was claimed."""
        b.fill(u1=1, u2=1)
        b.claim()
        lanes = [(b"1", 9_000, b""), (b"2", 9_000, b"")]
        b.lanes.ack(b.partition, "token", lanes, {b"1": WHY, b"2": WHY})
        b.redis.delete(b.key("lane:1"))
        b.pass_time(31)
        b.claim()
        assert list(b.parked()) == ["2"]
        b.redis.delete(b.key("lane:2"))
        b.ack("token", 2, delay_ms=30_000, reason=WHY)
        assert (b.parked(), b.members("ready")) == ({}, [])

    def test_reason_is_one_bounded_line_that_keeps_its_code(self, b: Bench) -> None:
        b.fill(u1=1)
        park(b, reason="no\nway, " + "\u20ac" * 200 + " (SQLSTATE P0001)")
        raw = b.redis.hget(b.key("parked"), "1").split(b" ", 2)[2]
        assert MOST_BYTES - 4 < len(raw) <= MOST_BYTES
        assert raw.decode().startswith("no way, \u20ac") and raw.decode().endswith("\u20ac... (SQLSTATE P0001)")

    def test_broken_lane_has_a_reason_until_it_is_a_list_again(self, b: Bench) -> None:
        b.redis.set(b.key("lane:1"), "no list")
        b.redis.zadd(b.key("ready"), {"1": 0})
        for attempt in (1, 2):
            assert b.claim().broken == [b"1"]
            lane = b.parked()["1"]
            assert (lane.reason, lane.attempts) == (WRONG_TYPE, attempt)
            assert lane.until_ms is not None and lane.until_ms - b.now_ms() > 50_000
            found = of_user(b.redis, b.lanes.keys, b.partition, 1)
            assert (found.parked, found.waiting) == (lane, None)
            b.pass_time(61)
        b.redis.delete(b.key("lane:1"))
        b.fill(u1=1)
        b.claim()
        b.ack("token", 1, *ids(1, 0))
        assert b.parked() == {}

    def test_push_to_a_parked_lane_changes_neither_note_nor_time(self, b: Bench) -> None:
        b.fill(u1=1)
        park(b)
        noted = b.parked()
        b.push(1, payload(1, 5))
        assert b.parked() == noted
        found = of_user(b.redis, b.lanes.keys, b.partition, 1)
        assert (found.parked, found.waiting, found.due_ms) == (noted["1"], 2, noted["1"].until_ms)
        assert found.now_ms <= b.now_ms() < found.now_ms + 60_000
        other = of_user(b.redis, b.lanes.keys, b.partition, 2)
        assert (other.parked, other.waiting, other.due_ms, other.claimed_by) == (None, 0, None, None)

    def test_bounded_number_of_parked_lanes_is_read(self, bench: Benches) -> None:
        b = bench(batch_lanes=5000)
        users = range(1, MOST_LANES + 502)
        b.push_to(*((user, (payload(user, 0),)) for user in users))
        claim = b.claim(commands=5000)
        b.lanes.ack(
            b.partition,
            "token",
            [(user, 9_000, b"") for user, _ in claim.lanes],
            {user: WHY for user, _ in claim.lanes},
        )
        found = read(b.redis, b.lanes.keys, b.partition)
        assert (found.total, len(found.lanes)) == (len(users), MOST_LANES)
        assert {lane.reason for lane in found.lanes} == {WHY}

    def test_partition_without_parked_lanes_has_none(self, b: Bench) -> None:
        b.fill(u1=1)
        assert read(b.redis, b.lanes.keys, b.partition) == ParkedLanes(0, [])
