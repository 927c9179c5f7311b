"""ack.lua: exactly what was decided is removed, by identity, by the drain that still holds the claim."""

import pytest

from tests.conformance.kit import Bench, Benches, identity, malformed_identity, payload


def ids(user_id: int, *numbers: int) -> list[bytes]:
    """The identities of a user's numbered commands."""
    return [identity(bytes(13) + payload(user_id, n)) for n in numbers]


class Acknowledging:
    """An acknowledgement removes from the head what it names; a stale token changes nothing."""

    def test_decided_entries_are_removed_and_the_rest_is_due_at_once(self, b: Bench) -> None:
        b.fill(u1=3)
        b.claim(commands=2)
        before = b.now_ms()
        assert b.ack("token", 1, *ids(1, 0, 1)) == 2
        assert b.payloads(1) == [payload(1, 2)]
        assert before <= b.scores("ready")[b"1"] <= b.now_ms()
        assert (b.count(), b.members("claimed"), b.tokens()) == (1, [], {})
        b.check()

    def test_emptied_lane_leaves_no_key(self, b: Bench) -> None:
        b.fill(u1=2, u2=1)
        b.claim()
        assert b.lanes.ack(b.partition, "token", [(b"1", 0, b"".join(ids(1, 0, 1))), (b"2", 0, ids(2, 0)[0])]) == [2, 1]
        assert b.claim().retired
        assert b.names() == set()

    def test_entry_pushed_after_the_claim_stays(self, b: Bench) -> None:
        b.fill(u1=1)
        b.claim()
        b.push(1, payload(1, 7))
        assert b.ack("token", 1, *ids(1, 0)) == 1
        assert b.payloads(1) == [payload(1, 7)]
        b.check()

    def test_delay_parks_the_lane(self, b: Bench) -> None:
        b.fill(u1=2)
        b.claim()
        before = b.now_ms()
        assert b.ack("token", 1, *ids(1, 0), delay_ms=30_000) == 1
        assert before + 30_000 <= b.scores("ready")[b"1"] <= b.now_ms() + 30_000
        assert b.claim().retired
        b.pass_time(31)
        assert b.claim().lanes

    def test_head_that_was_not_claimed_stays(self, b: Bench) -> None:
        """Redis lost its last seconds, and other commands came since."""
        b.fill(u1=2)
        b.claim()
        b.redis.delete(b.key("lane:1"))
        b.redis.rpush(b.key("lane:1"), b"1760000000000" + payload(1, 8), b"1760000000000" + payload(1, 9))
        assert b.ack("token", 1, *ids(1, 0, 1)) == 0
        assert b.payloads(1) == [payload(1, 8), payload(1, 9)]
        assert b.members("ready") == [1]
        b.check()

    @pytest.mark.parametrize(
        ("pushed", "identities", "left"),
        [
            ([payload(1, n) for n in range(2)], [], 2),
            ([payload(1, n) for n in range(4)], ids(1, 0, 1, 3, 3), 2),
            ([payload(1, 0)], [ids(1, 0)[0][:16] + ids(1, 1)[0][16:]], 1),
            ([b"x"], [malformed_identity(b"y")], 1),
        ],
        ids=["release", "other entry in between", "same id with other content", "malformed entry of another hash"],
    )
    def test_removal_stops_at_the_first_other_entry(
        self, b: Bench, pushed: list[bytes], identities: list[bytes], left: int
    ) -> None:
        b.push(1, *pushed)
        b.claim()
        assert b.ack("token", 1, *identities) == len(pushed) - left
        assert b.payloads(1) == pushed[len(pushed) - left :]
        assert (b.members("ready"), b.count()) == ([1], left)
        b.check()

    def test_more_identities_than_entries_remove_the_entries(self, b: Bench) -> None:
        b.fill(u1=2)
        b.claim()
        b.redis.rpop(b.key("lane:1"))
        b.redis.decr(b.key("count"))
        assert b.ack("token", 1, *ids(1, 0, 1)) == 1
        b.check()

    def test_command_sent_twice_is_two_entries(self, b: Bench) -> None:
        b.push(1, payload(1, 5), payload(1, 5), payload(1, 6))
        b.claim("a")
        assert b.ack("a", 1, *ids(1, 5)) == 1
        b.claim("b")
        assert b.ack("b", 1, *ids(1, 5, 6)) == 2
        assert b.count() == 0

    def test_malformed_entries_are_removed_by_their_hash(self, b: Bench) -> None:
        malformed = [b"", b"{}", b"\0" * 40, b"x" * 10_000]
        b.redis.rpush(b.key("lane:1"), *malformed)
        b.push(1, payload(1, 0))
        b.claim()
        assert b.ack("token", 1, *map(malformed_identity, malformed), *ids(1, 0)) == 5
        assert b.names() == {"drains"}

    def test_uncounted_entries_do_not_take_the_count_below_zero(self, bench: Benches) -> None:
        b = bench(partition_limit=3)
        b.redis.rpush(b.key("lane:1"), *(b"garbage %d" % n for n in range(9)))
        b.push(1, payload(1, 0))
        b.fill(u2=1)
        b.claim()
        b.ack("token", 1, *(malformed_identity(b"garbage %d" % n) for n in range(9)))
        assert b.count() == 0
        assert b.push(3, *(payload(3, n) for n in range(9))).lanes == [(3, "partition")]

    def test_stale_token_changes_nothing(self, b: Bench) -> None:
        b.fill(u1=2)
        b.claim("dead", drain="dead")
        b.pass_time(601)
        b.claim("alive", drain="alive")
        before = b.everything()
        assert b.ack("dead", 1, *ids(1, 0, 1)) == -1
        assert b.ack("dead", 1, delay_ms=60_000) == -1
        assert b.everything() == before
        assert b.ack("alive", 1, *ids(1, 0, 1)) == 2

    def test_second_acknowledgement_changes_nothing(self, b: Bench) -> None:
        b.push(1, payload(1, 5), payload(1, 5))
        b.claim()
        assert b.ack("token", 1, *ids(1, 5)) == 1
        before = b.everything()
        assert b.ack("token", 1, *ids(1, 5)) == -1
        assert b.everything() == before

    def test_each_lane_has_its_own_result(self, b: Bench) -> None:
        b.fill(u1=1, u2=2, u3=1)
        b.claim("a", commands=1)
        b.claim("b")
        answers = b.lanes.ack(
            b.partition, "b", [(b"1", 0, ids(1, 0)[0]), (b"2", 9_000, ids(2, 0)[0]), (b"3", 0, b""), (b"4", 0, b"")]
        )
        assert answers == [-1, 1, 0, -1]
        assert (b.members("claimed"), b.members("ready"), b.count()) == ([1], [3, 2], 3)
        b.check()

    def test_thousands_of_lanes_are_claimed_and_acknowledged_at_once(self, bench: Benches) -> None:
        b = bench(batch_lanes=5000)
        users = range(1, 4502)
        b.push_to(*((user, (payload(user, 0),)) for user in users))
        claim = b.claim(commands=5000)
        assert [int(user) for user, _ in claim.lanes] == sorted(users, key=str)  # equal scores: by name
        assert len(b.tokens()) == len(b.members("claimed")) == 4501
        b.check()
        decided = [(user, 0, identity(entries[0])) for user, entries in claim.lanes]
        assert b.lanes.ack(b.partition, "token", decided) == [1] * 4501
        assert b.names() == {"drains"}
