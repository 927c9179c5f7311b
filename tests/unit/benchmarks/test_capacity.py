"""The capacity model: its arithmetic on round costs, its results for the costs that are shipped, and bad numbers."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from benchmarks.capacity.costs import Costs, Push, Shape, Terms
from benchmarks.capacity.limits import limits
from benchmarks.capacity.load import Load
from benchmarks.capacity.model import DAY, Model
from levelq_core.errors import ConfigurationError

# One command per lane and 1,000 per batch: 10 + 20 + 2 us of a worker, 2 + 4 + 1 of Redis, 10 + 5 + 1 of PostgreSQL.
ROUND: dict[str, Any] = {
    "machine": {"at": "2026-01-01", "cores": "2"},
    "cores": 2,
    "utilisation": 0.8,
    "drain_us": {
        "workers": {"command": 10, "lane": 20, "batch": 2_000},
        "redis": {"command": 2, "lane": 4, "batch": 1_000},
        "postgresql": {"command": 10, "lane": 5, "batch": 1_000},
    },
    "wait_us": 3_000,
    "push_us": {"call": 30, "lane": 10, "command": 3},
    "wake_us": 500,
    "idle_us": {"worker_partition_redis": 0, "worker_partition_workers": 0, "partition_postgresql": 0},
    "bytes": {
        "redis_command": 100,
        "redis_lane": 200,
        "wal": {"command": 500, "lane": 300, "batch": 0},
        "ledger_row": 500,
        "ledger_user_index_row": 40,
        "learner": 400,
    },
    "connections": {"redis": 8, "postgresql": 2},
    "prune_rows": 50_000,
}
COSTS = Costs.model_validate(ROUND)


def model(costs: Costs = COSTS, **given: Any) -> Model:
    return Model(Load.of(**{"users": 1_000_000, "rate": 10_000, "utilisation": 0.5, "trip_ms": 0} | given), costs)


def test_shape_is_as_full_as_the_first_limit_it_reaches() -> None:
    assert Shape.of(1, 5_000, 1_000) == (1, 0, 1 / 1_000)
    assert Shape.of(4, 5_000, 1_000) == (1 / 4, 1 / 4, 1 / 4_000)
    assert Shape.of(100, 5_000, 1_000) == (1 / 100, 1 / 100, 1 / 5_000)
    assert Shape.of(1.25, 5_000, 1_000) == (0.8, 0.8 / 4, 1 / 1_250)


def test_amount_counts_each_command_lane_and_batch() -> None:
    assert Terms(command=1, lane=10, deep=4, batch=1_000).each(Shape(0.5, 0.25, 0.01)) == 1 + 5 + 1 + 10


def test_push_shares_its_call_and_its_lanes() -> None:
    push = Push(call=30, lane=10, command=3)
    assert push.each(1, 1) == push.each(1, 20) == 43  # a send alone names a lane of its own
    assert push.each(100, 1) == pytest.approx(3 + 0.3 + 10)
    assert push.each(100, 20) == pytest.approx(3 + 0.3 + 0.5)


def test_rate_is_limited_by_the_workers_turns_and_by_the_cores() -> None:
    shape = Shape.of(1, 5_000, 1_000)
    turn = (32 + 16) / 0.8 + 3  # us: a worker's own work, PostgreSQL's, and the wait of a batch
    assert COSTS.rate(shape, workers=1) == pytest.approx(1e6 / turn)
    assert COSTS.rate(shape, workers=2, cores=16) == pytest.approx(2e6 / turn)
    together = 2e6 * 0.8 / (32 + 7 + 16)
    assert COSTS.rate(shape, workers=2) == COSTS.rate(shape, workers=100) == pytest.approx(together)


def test_needs_of_a_load() -> None:
    needs = model(rate=100_000, cores=2, retention_days=10, backlog_seconds=100).needs()
    assert needs.workers == math.ceil(0.1 * (32 + 16 + 3) / 0.5)
    assert needs.worker_hosts == math.ceil(0.1 * 32 / 0.5 / 2)
    assert needs.redis_nodes == math.ceil(0.1 * (7 + 43) / 0.5)
    assert needs.shards == 16  # a power of two, no fewer than the nodes
    assert needs.postgresql_cores == pytest.approx(0.1 * 16 / 0.5)
    assert needs.postgresql_connections == 2 * needs.workers
    assert needs.redis_gb == pytest.approx((10_000_000 * 100 + 3_000_000 * 200) / 1e9)  # no more lanes than there are
    assert needs.ledger_gb_a_day == pytest.approx(100_000 * DAY * 500 / 1e9)
    assert needs.ledger_tb == pytest.approx(needs.ledger_gb_a_day / 100)
    assert needs.prunes == 2
    assert needs.postgresql_hosts_by["disk"] == needs.postgresql_hosts == math.ceil(needs.ledger_tb / 10)


def test_peak_sizes_processes_and_average_sizes_storage() -> None:
    flat, steep = model(rate=40_000).needs(), model(rate=10_000, peak=4).needs()
    assert (steep.workers, steep.redis_nodes) == (flat.workers, flat.redis_nodes)
    assert steep.ledger_tb == pytest.approx(flat.ledger_tb / 4)


def test_backlog_needs_enough_shards_to_hold_it() -> None:
    assert model(rate=1_000, backlog_seconds=100).needs().shards == 1
    assert model(rate=1_000, backlog_seconds=10_000).needs().shards == 2  # 10 of the 6 million that three may hold


def test_idle_reads_of_partitions_count_as_work_of_redis() -> None:
    idle = {"worker_partition_redis": 500, "worker_partition_workers": 0, "partition_postgresql": 0}
    watched = Costs.model_validate(ROUND | {"idle_us": idle})
    quiet, busy = model(rate=100_000).needs(), model(watched, rate=100_000).needs()
    assert quiet.watching == 0
    assert busy.redis_nodes > quiet.redis_nodes
    assert 0 < busy.watching < 1


def test_page_images_are_at_most_the_pages_and_the_changes() -> None:
    def images(users: int, rate: float) -> float:
        return model(users=users, rate=rate, specializations=1).page_images()["learners"]

    pages = 1_000 * 400 / 8_192
    assert images(1_000, 100_000) == pytest.approx(pages * 8_192 / 300, rel=0.01)
    assert images(10**12, 1) == pytest.approx(2 * 8_192, rel=0.01)  # two changes a second, each of another page


@pytest.mark.parametrize(
    ("what", "needed"),
    [
        ("one worker process", "workers"),
        ("one Redis", "redis_nodes"),
        ("one PostgreSQL of 16 cores", "postgresql_hosts"),
    ],
)
def test_one_is_enough_up_to_a_limit_and_not_beyond(what: str, needed: str) -> None:
    wide: dict[str, Any] = {"wal_mb": 1e6, "disk_tb": 1e6}
    (rate,) = (limit.rate for limit in limits(model(**wide)) if limit.what == what)
    assert getattr(model(**wide, rate=0.99 * rate).needs(), needed) == 1
    assert getattr(model(**wide, rate=1.01 * rate).needs(), needed) == 2


@pytest.mark.parametrize(
    ("given", "what", "rate"),
    [
        ({"disk_tb": 1, "retention_days": 1}, "the ledger's disk (1 TB, retention 1 d)", 1e12 / 500 / DAY),
        ({"peak": 2}, "one levelq prune", 100_000),
        ({"backlog_seconds": 100}, "LEVELQ_PARTITION_LIMIT with one shard", 60_000),
        ({}, "100 connections of PostgreSQL", 50 * 1e6 * 0.5 / 51),
        ({}, "RQ's Redis", 1_000 * 1e6 * 0.5 / 51),
    ],
)
def test_other_limits(given: dict[str, Any], what: str, rate: float) -> None:
    assert [limit.rate for limit in limits(model(**given)) if limit.what == what] == [pytest.approx(rate)]


def test_limits_are_sorted_by_rate() -> None:
    rates = [limit.rate for limit in limits(model())]
    assert rates == sorted(rates)


SHIPPED = Costs.load()
TEN_MILLION: dict[str, Any] = {"users": 10_000_000, "rate": 100_000, "utilisation": 0.6, "trip_ms": 0.3}


def test_shipped_costs_name_their_machine() -> None:
    assert {"at", "cores", "python"} <= SHIPPED.machine.keys()
    assert 0.5 < SHIPPED.utilisation <= 1


def test_shipped_costs_fall_with_commands_per_lane() -> None:
    rates = [SHIPPED.rate(Shape.of(depth, 5_000, 1_000), workers=2) for depth in (1, 2, 5, 20, 100)]
    assert rates == sorted(rates)


@pytest.mark.parametrize("name", ["commands_per_lane", "commands_per_send"])
def test_commands_that_come_together_need_less(name: str) -> None:
    apart, together = (model(SHIPPED, **TEN_MILLION | {name: number}).needs() for number in (1, 20))
    assert together.redis_nodes < apart.redis_nodes
    assert together.workers <= apart.workers


def test_twice_the_load_needs_about_twice_as_much() -> None:
    once, twice = (model(SHIPPED, **TEN_MILLION | {"rate": rate}).needs() for rate in (100_000, 200_000))
    for name in ("workers", "postgresql_cores", "redis_nodes", "ledger_tb"):
        assert getattr(twice, name) == pytest.approx(2 * getattr(once, name), rel=0.3)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no users": ({"users": 0}, "--users: Input should be greater than or equal to 1, got 0"),
    "no rate": ({"rate": 0}, "--rate: Input should be greater than or equal to 1, got 0"),
    "a rate that is no number": ({"rate": math.nan}, "--rate: Input should be a finite number, got nan"),
    "an endless rate": ({"rate": math.inf}, "--rate: Input should be a finite number, got inf"),
    "a peak below the average": ({"peak": 0.5}, "--peak: Input should be greater than or equal to 1, got 0.5"),
    "cores more than busy": ({"utilisation": 60}, "--utilisation: Input should be less than or equal to 1, got 60"),
    "less than a command": ({"commands_per_lane": 0.1}, "--commands-per-lane: Input should be greater"),
    "no retention": ({"retention_days": 0}, "--retention-days: Input should be greater"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_number_is_named_in_one_line(case: str) -> None:
    given, expected = BAD[case]
    with pytest.raises(ConfigurationError) as raised:
        model(**given)
    assert str(raised.value).startswith(expected) and "\n" not in str(raised.value)


def test_backlog_that_no_number_of_shards_holds_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="--backlog-seconds: expected what 4096 shards hold, got 8192 shards"):
        model(rate=1e6, backlog_seconds=40_000).needs()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"utilisation": 1.5}, "utilisation: Input should be less than or equal to 1, got 1.5"),
        ({"wake_us": "much"}, "wake_us: Input should be a valid number"),
        ({"speed": 1}, "speed: Extra inputs are not permitted"),
    ],
)
def test_wrong_costs_file_is_refused_in_one_line(tmp_path: Path, change: dict[str, Any], expected: str) -> None:
    file = tmp_path / "costs.json"
    file.write_text(json.dumps(ROUND | change))
    with pytest.raises(ConfigurationError) as raised:
        Costs.load(file)
    assert str(raised.value).startswith(f"--costs {file}: {expected}") and "\n" not in str(raised.value)


def test_costs_file_that_is_no_json_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "costs.json"
    file.write_text("costs")
    with pytest.raises(ConfigurationError, match="Invalid JSON"):
        Costs.load(file)
