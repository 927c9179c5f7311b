"""push.lua: what a lane takes, what it refuses, and who is woken."""

from typing import Any

import pytest
from redis.exceptions import ResponseError

from levelq_core.keys import Partition
from levelq_core.lanes.protocol import WAKE_MS, PushAnswer
from tests.conformance.kit import Bench, Benches, payload

COACH = Partition("COACH")


class PushBatch:
    """A lane that holds commands is in ready or claimed; a limit refuses the rest of a lane, and only that."""

    def test_push_appends_in_order_and_makes_the_lane_ready(self, b: Bench) -> None:
        before = b.now_ms()
        assert b.push(7, payload(7, 0), payload(7, 1)) == PushAnswer(wake=True, lanes=[(2, "")])
        b.push(7, payload(7, 2))
        assert b.payloads(7) == [payload(7, n) for n in range(3)]
        stamps = [int(entry[:13]) for entry in b.entries(7)]
        assert stamps == sorted(stamps)
        assert before <= stamps[0] <= stamps[2] <= b.now_ms()
        assert before <= b.scores("ready")[b"7"] <= stamps[0]
        b.check()

    def test_push_larger_than_the_stack_of_lua_is_taken(self, b: Bench) -> None:
        entries = tuple(b"%d" % n for n in range(9_001))
        assert b.push_to((1, entries), (2, (b"x",))).lanes == [(9_001, ""), (1, "")]
        assert b.payloads(1) == list(entries)
        assert b.count() == 9_002

    def test_large_user_ids_keep_every_digit(self, b: Bench) -> None:
        users = [2**63 - 1, 2**63 - 2, 2**53, 2**53 + 1]
        for user_id in users:
            b.push(user_id, payload(user_id))
        assert {int(user) for user in b.scores("ready")} == set(users)
        assert sorted(int(user) for user, _ in b.claim().lanes) == sorted(users)
        b.check()

    def test_not_before_time_is_not_changed_by_a_push(self, b: Bench) -> None:
        for at in (b.now_ms() + 60_000, b.now_ms() - 60_000):
            b.redis.zadd(b.key("ready"), {"1": at})
            b.push(1, payload(1))
            assert b.scores("ready")[b"1"] == at

    def test_claimed_lane_grows_and_stays_claimed(self, b: Bench) -> None:
        b.fill(u1=1)
        b.claim()
        b.push(1, payload(1, 5))
        assert (b.members("ready"), b.members("claimed"), len(b.entries(1))) == ([], [1], 2)
        b.check()

    def test_full_lane_takes_what_fits_and_reports_lane(self, bench: Benches) -> None:
        b = bench(lane_limit=5)
        b.fill(u1=3)
        answer = b.push_to((1, tuple(payload(1, n) for n in range(3, 7))), (2, (payload(2),)))
        assert answer.lanes == [(2, "lane"), (1, "")]
        assert b.payloads(1) == [payload(1, n) for n in range(5)]
        assert b.push(1, payload(1, 9)).lanes == [(0, "lane")]
        assert b.count() == 6
        b.check()

    def test_full_partition_takes_what_fits_and_reports_partition(self, bench: Benches) -> None:
        b = bench(partition_limit=5)
        answer = b.push_to(*((user, (payload(user, 0), payload(user, 1))) for user in (1, 2, 3, 4)))
        assert answer.lanes == [(2, ""), (2, ""), (1, "partition"), (0, "partition")]
        assert b.count() == 5
        assert b.members("ready") == [1, 2, 3]
        b.check()

    def test_nearer_limit_is_reported(self, bench: Benches) -> None:
        b = bench(lane_limit=3, partition_limit=4)
        assert b.push(1, *(payload(1, n) for n in range(9))).lanes == [(3, "lane")]
        assert b.push(2, *(payload(2, n) for n in range(9))).lanes == [(1, "partition")]

    def test_full_lane_of_a_partition_beyond_its_limit_reports_lane(self, bench: Benches) -> None:
        """A restore takes no limit into account."""
        b = bench(lane_limit=1, partition_limit=2)
        b.fill(u1=1)
        b.redis.set(b.key("count"), 3)
        assert b.push(1, payload(1, 9)).lanes == [(0, "lane")]
        assert b.push(2, payload(2)).lanes == [(0, "partition")]

    def test_acknowledged_command_makes_room(self, bench: Benches) -> None:
        b = bench(lane_limit=2, partition_limit=2)
        b.fill(u1=2)
        b.claim()
        b.ack("token", 1, payload(1)[4:36])
        assert b.push(1, payload(1, 8), payload(1, 9)).lanes[0][0] == 1

    def test_lane_key_of_another_type_is_refused_alone(self, b: Bench) -> None:
        b.redis.set(b.key("lane:2"), "another program's")
        answer = b.push_to((1, (payload(1),)), (2, (payload(2), payload(2, 1))), (3, (payload(3),)))
        assert answer.lanes == [(1, ""), (0, "type"), (1, "")]
        assert b.members("ready") == [1, 3]
        assert b.count() == 2
        assert b.redis.get(b.key("lane:2")) == b"another program's"

    def test_closed_partition_takes_nothing(self, b: Bench) -> None:
        b.redis.set(b.key("closed"), "1")
        assert b.push(1, payload(1)) == PushAnswer(wake=False, lanes=[], moved=True)
        assert b.names() == {"closed"}

    @pytest.mark.parametrize("known", [True, False], ids=["script known", "script forgotten"])
    @pytest.mark.parametrize("name", ["ready", "count"])
    def test_failed_push_leaves_no_lane_and_other_partitions_go_on(self, b: Bench, name: str, known: bool) -> None:
        b.lanes.push([(Partition("INTERNSHIP"), [(1, [payload(1)])])])
        if not known:
            b.redis.script_flush()
        b.redis.sadd(b.key(name), "of another type")
        refused, pushed = b.lanes.push([(b.partition, [(1, [payload(1)])]), (COACH, [(1, [payload(1)])])])
        assert isinstance(refused, ResponseError)
        assert pushed == PushAnswer(wake=True, lanes=[(1, "")])
        assert b.entries(1) == []

    def test_partitions_share_nothing(self, bench: Benches) -> None:
        b = bench(partition_limit=1)
        answers = b.lanes.push([(p, [(1, [payload(1)])]) for p in (b.partition, COACH, Partition("PLAYER", 1, 1))])
        assert answers == [PushAnswer(wake=True, lanes=[(1, "")])] * 3
        assert b.claim().lanes[0][0] == b"1"
        assert b.lanes.status(COACH).ready == 1

    def test_hundred_pushes_wake_once(self, b: Bench) -> None:
        assert [b.push(n, payload(n)).wake for n in range(1, 101)] == [True] + [False] * 99

    @pytest.mark.parametrize(
        ("settings", "early", "late"), [({}, WAKE_MS / 2000, WAKE_MS / 1000), ({"claim_seconds": 4}, 1, 3)]
    )
    def test_lost_wake_up_is_sent_again_when_it_expires_and_after_a_claim_at_the_latest(
        self, bench: Benches, settings: dict[str, Any], early: float, late: float
    ) -> None:
        b = bench(**settings)
        assert b.push(1, payload(1)).wake
        b.pass_time(early)
        assert not b.push(1, payload(1)).wake
        b.pass_time(late)
        assert b.push(1, payload(1)).wake

    def test_refused_or_parked_command_wakes_no_drain(self, b: Bench) -> None:
        b.redis.set(b.key("lane:1"), "x")
        assert not b.push(1, payload(1)).wake
        b.redis.zadd(b.key("ready"), {"2": b.now_ms() + 60_000})
        assert not b.push(2, payload(2)).wake

    def test_live_drain_that_can_take_all_due_lanes_is_the_only_one(self, bench: Benches) -> None:
        b = bench(batch_lanes=2, batch_commands=4)
        b.fill(u1=1)
        b.claim()
        assert not b.push(2, payload(2)).wake
        assert not b.push(3, payload(3)).wake
        assert b.push(4, payload(4)).wake  # a third lane is due, and one drain takes two
        assert not b.push(5, payload(5)).wake  # a wake-up is reserved already

    def test_more_commands_than_a_live_drain_takes_wake_another(self, bench: Benches) -> None:
        b = bench(batch_lanes=100, batch_commands=3)
        b.fill(u1=1)
        b.claim()
        assert not b.push(2, payload(2, 0), payload(2, 1)).wake
        assert b.push(2, payload(2, 2)).wake

    def test_dead_drain_does_not_count(self, b: Bench) -> None:
        b.fill(u1=1)
        b.claim()
        b.pass_time(601)
        assert b.push(2, payload(2)).wake

    def test_forgotten_scripts_are_sent_again(self, b: Bench) -> None:
        b.fill(u1=1)
        for _ in range(2):
            b.redis.script_flush()
            answers = b.lanes.push([(p, [(1, [payload(1)])]) for p in (b.partition, COACH)])
            assert [answer.lanes for answer in answers if isinstance(answer, PushAnswer)] == [[(1, "")]] * 2
        b.redis.script_flush()
        assert len(b.claim().lanes[0][1]) == 3
