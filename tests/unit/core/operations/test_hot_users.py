"""Which users `levelq status` names because most commands of a partition are theirs."""

from levelq_core.operations.readings.workers import HotLane, Rates, hot_users


def rates(partition: str, rate: float) -> Rates:
    return Rates(
        partition=partition, rate_10_s=rate, rate_1_min=rate, rate_10_min=rate, rejected_1_min=0.0,
        lag_p50_seconds=None, lag_p99_seconds=None, lag_p99_10_min_seconds=None,
    )  # fmt: skip


def test_a_user_with_most_commands_of_a_busy_partition_is_named() -> None:
    lanes = [
        HotLane(partition="PLAYER:1:0", user_id=99, commands=5_400),
        HotLane(partition="PLAYER:1:0", user_id=8, commands=2_000),  # a third of it
        HotLane(partition="COACH:1:0", user_id=7, commands=60),  # most, of few
    ]
    found = list(hot_users(lanes, [rates("PLAYER:1:0", 100.0), rates("COACH:1:0", 1.0)]))
    assert found == ["user 99 has 90% of the commands of PLAYER:1:0 in the last minute"]
