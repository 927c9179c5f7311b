"""peek.lua and withdraw.lua: what waits is read and removed wherever it stands, also in a lane that a drain holds."""

from uuid import UUID

from levelq_core.lanes.protocol import Oversized
from tests.conformance.acknowledging import ids
from tests.conformance.kit import Bench, Benches, malformed_identity, payload


class Withdrawing:
    """What was decided is removed by identity, the others keep their order, and no lane is stranded."""

    def test_command_is_found_wherever_it_waits_and_nowhere_else(self, b: Bench) -> None:
        b.fill(u1=3, u2=1)
        b.claim("t", commands=3)  # the lane of user 1
        b.push(2, b"malformed", b"x" * 20)
        for number, users in ((0, [1, 2]), (2, [1]), (9, [])):
            found = {user: b.lanes.holds(b.partition, UUID(int=number + 1), user) for user in (1, 2, 3)}
            assert found == {user: user in users for user in (1, 2, 3)}
            assert b.lanes.holds(b.partition, UUID(int=number + 1)) is bool(users)

    def test_among_too_many_commands_it_is_found_in_a_named_lane_only(self, b: Bench) -> None:
        b.fill(u1=1)
        b.push_to(*((user, (payload(user, 8),)) for user in range(2, 103)))
        b.redis.rpush(b.settings.keys.lane(b.partition, 1), *[b"0" * 13 + payload(1, 7)] * 10_000)
        assert b.lanes.holds(b.partition, UUID(int=1), 1)
        assert b.lanes.holds(b.partition, UUID(int=9), 1) is False
        assert b.lanes.holds(b.partition, UUID(int=99)) is None

    def test_entries_are_removed_from_the_middle_in_any_order(self, b: Bench) -> None:
        b.fill(u1=300)
        assert b.withdraw(1, *ids(1, 299, 5, 150, 7)) == 4
        assert b.payloads(1) == [payload(1, n) for n in range(300) if n not in (5, 7, 150, 299)]
        assert (b.count(), b.members("ready")) == (296, [1])
        b.check()

    def test_lane_that_becomes_empty_leaves_no_key(self, b: Bench) -> None:
        b.fill(u1=2, u2=1)
        b.claim("t", commands=1)
        b.ack("t", 1, delay_ms=60_000, reason="why")
        assert b.lanes.withdraw(b.partition, [(b"1", b"".join(ids(1, 0, 1))), (b"2", b"".join(ids(2, 0)))]) == [2, 1]
        assert b.claim().retired
        assert b.names() <= {"wake"}

    def test_claim_of_a_lane_stays_with_its_drain(self, b: Bench) -> None:
        b.fill(u1=3)
        b.claim("t")
        assert b.withdraw(1, *ids(1, 0, 1, 2)) == 3
        assert (b.members("claimed"), b.members("ready"), b.count()) == ([1], [], 0)
        b.push(1, payload(1, 9))
        assert b.ack("t", 1, *ids(1, 0, 1, 2)) == 0
        assert (b.payloads(1), b.members("ready")) == ([payload(1, 9)], [1])
        b.check()

    def test_acknowledgement_stops_at_a_withdrawn_entry(self, b: Bench) -> None:
        b.fill(u1=4)
        b.claim("t")
        b.withdraw(1, *ids(1, 1))
        assert b.ack("t", 1, *ids(1, 0, 1, 2)) == 1
        assert b.payloads(1) == [payload(1, 2), payload(1, 3)]
        b.check()

    def test_parked_lane_is_due_once_its_head_is_removed_and_only_then(self, b: Bench) -> None:
        b.fill(u1=3)
        b.claim("t")
        b.ack("t", 1, delay_ms=60_000, reason="why")
        b.withdraw(1, *ids(1, 1))
        assert (b.parked()["1"].reason, b.claim("u").lanes) == ("why", [])
        b.withdraw(1, *ids(1, 0))
        assert b.parked() == {}
        assert [len(entries) for _, entries in b.claim("v").lanes] == [1]
        b.check()

    def test_malformed_and_oversized_entries_are_withdrawn_by_their_hash(self, bench: Benches) -> None:
        b = bench(payload_limit=128)
        b.push(1, payload(1), b"malformed", b"x" * 5000)
        _, malformed, large = b.entries(1)
        ((length, found),) = b.lanes.peek(b.partition, [(b"1", 0)])
        assert (length, found[1], found[2]) == (3, malformed, Oversized(5013, found[2].sha1, large[:4096]))  # type: ignore[union-attr]
        assert b.withdraw(1, malformed_identity(malformed), found[2].sha1[:32].encode()) == 2  # type: ignore[union-attr]
        assert b.payloads(1) == [payload(1)]
        b.check()

    def test_lanes_are_read_from_their_newest_entry_in_bounded_parts(self, bench: Benches) -> None:
        b = bench(batch_commands=10)
        b.fill(u1=12, u2=5)
        first = b.lanes.peek(b.partition, [(b"1", 0), (b"2", 0), (b"3", 0)])
        assert [(length, len(entries)) for length, entries in first] == [(12, 10), (5, 0), (0, 0)]
        assert first[0][1] == b.entries(1)[2:]
        rest = b.lanes.peek(b.partition, [(b"1", 10), (b"2", 0)])
        assert [entries for _, entries in rest] == [b.entries(1)[:2], b.entries(2)]
        assert [len(entries) for _, entries in b.lanes.peek(b.partition, [(b"2", 9)])] == [0]

    def test_lane_key_that_is_no_list_is_reported_and_kept(self, b: Bench) -> None:
        b.redis.set(b.key("lane:1"), "text")
        b.fill(u2=1)
        assert [length for length, _ in b.lanes.peek(b.partition, [(b"1", 0), (b"2", 0)])] == [-1, 1]
        assert b.redis.get(b.key("lane:1")) == b"text"

    def test_uncounted_entry_leaves_no_count_below_zero(self, b: Bench) -> None:
        b.fill(u1=1)
        b.redis.delete(b.key("count"))
        assert b.withdraw(1, *ids(1, 0)) == 1
        assert b.count() == 0 and b.names() <= {"wake"}
