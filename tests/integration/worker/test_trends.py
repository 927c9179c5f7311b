"""What workers add to the trends while they drain, and what `trends` makes of it."""

from collections.abc import Iterator
from itertools import pairwise

import pytest

from levelq_core import ConfigurationError, InvalidArgument, LevelUp
from levelq_core.domain.lag_histogram import MOST_MS, bucket_of
from levelq_core.lanes.pauses import PARKED_UNTIL
from levelq_core.lanes.trend_slots import DAY, HOUR, MOST_BYTES, Slot
from levelq_core.lanes.worker_reports import WorkerReports
from levelq_core.operations.readings.trends import TrendPoint, Window, read_trends, trends
from levelq_core.operations.wording import time_of
from levelq_worker.draining.context import Runtime
from levelq_worker.reporter import Reporter
from tests.support.coupler import drain_all, runtime
from tests.support.fixtures.command_line import NOWHERE
from tests.support.fixtures.keys import KEYS
from tests.support.system import PLAYER, System, up

BEGIN = 1_764_489_600_000  # of a slot of both series, in ms


@pytest.fixture(autouse=True)
def at_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers report at this time, so that no border of slots is between two steps of a test."""
    monkeypatch.setattr(WorkerReports, "now_ms", lambda self: BEGIN)


@pytest.fixture
def another(system: System) -> Iterator[Runtime]:
    with runtime(system.settings) as made:
        yield made


def point(system: System, window: Window = "1h") -> TrendPoint:
    """The slot that begins at BEGIN, read when it has just ended."""
    seconds = (HOUR if window == "1h" else DAY).slot_seconds
    found = read_trends(system.redis, system.settings, window, BEGIN + 1000 * seconds).points[-1]
    assert found.at == time_of(BEGIN)
    return found


@pytest.mark.parametrize(("window", "seconds"), [("1h", 20), ("24h", 600)])
def test_two_workers_fill_one_chart(
    system: System, reporter: Reporter, another: Runtime, window: Window, seconds: int
) -> None:
    second = Reporter(another, ["PLAYER"])
    assert point(system, window) == TrendPoint(at=time_of(BEGIN))
    reporter.post()
    idle = point(system, window)
    assert (idle.applied_per_second, idle.rejected_per_second, idle.waiting, idle.parked) == (0, 0, 0, 0)
    assert idle.batch_commands is idle.lag_p50_seconds is idle.lag_p99_seconds is None
    again = up(3)
    system.push(*(up(user) for user in range(10, 14)), again, again, LevelUp(user_id=9, specialization="COACH"))
    system.drain("PLAYER", "COACH")
    reporter.post()
    system.push(up(1), LevelUp(user_id=1, specialization="PLAYER", theory_hours=5))  # PLAYER tracks no hours
    drain_all(another, "PLAYER")
    second.post()
    found = point(system, window)
    assert found.applied_per_second == pytest.approx(7 / seconds, abs=0.001)
    assert found.rejected_per_second == pytest.approx(1 / seconds, abs=0.001)
    assert found.batch_commands == 3.0  # 6 and 1 of the first worker, 2 of the second
    assert found.lag_p50_seconds is not None and found.lag_p99_seconds is not None
    assert 0 <= found.lag_p50_seconds <= found.lag_p99_seconds < 60


def test_last_batches_of_a_worker_that_ends_are_counted(system: System, reporter: Reporter) -> None:
    reporter.post()
    system.push(*(up(user) for user in range(1, 7)))
    system.drain()
    reporter.stop()
    assert point(system).applied_per_second == 0.3
    assert system.redis.hlen(KEYS.workers) == 0


def test_one_worker_samples_the_backlog_of_a_slot(system: System, reporter: Reporter, another: Runtime) -> None:
    system.fill(30, users=10)
    system.push(up(1, specialization="COACH"))
    far = BEGIN * 2
    system.redis.zadd(KEYS.of(PLAYER, "ready"), {"1": far, "2": far, "3": PARKED_UNTIL})  # the last: a paused user's
    reporter.post()
    found = point(system)
    assert (found.waiting, found.parked) == (31, 2)
    system.redis.config_resetstat()
    Reporter(another, ["PLAYER"]).post()  # another worker, that serves less, has nothing to count
    assert system.redis.info("commandstats").get("cmdstat_zcount") is None
    assert (point(system).waiting, point(system).parked) == (31, 2)


def test_two_days_of_busy_slots_stay_small(system: System) -> None:
    """Whatever the numbers of workers, partitions and users: a slot holds sums. Here each has a hundred buckets."""
    busy = Slot(10**7, 10**4, 10**7, 10**4, dict.fromkeys(range(100), 10**5), 10**6, 10**3)
    day, hour = 48 * 3600, 3600
    for seconds in (*range(0, day, 600), *range(day, day + 2 * hour, 20)):
        system.lanes.add_to_trends(busy, BEGIN + 1000 * seconds)
    assert system.redis.hlen(KEYS.trends) == HOUR.slots + DAY.slots + 2
    assert system.redis.memory_usage(KEYS.trends, samples=0) < 500_000
    most = max(map(len, system.redis.hvals(KEYS.trends)))
    system.lanes.add_to_trends(busy._replace(lags=dict.fromkeys(range(bucket_of(MOST_MS) + 1), 10**5)), BEGIN)
    assert most < max(map(len, system.redis.hvals(KEYS.trends))) < MOST_BYTES


def test_unreadable_trends_disturb_neither_worker_nor_reader(
    system: System, reporter: Reporter, caplog: pytest.LogCaptureFixture
) -> None:
    system.redis.set(KEYS.trends, "of another type")
    reporter.post()
    assert system.redis.hlen(KEYS.workers) == 1 and caplog.messages == []
    assert all(found.waiting is None for found in trends(system.settings).points)
    system.redis.delete(KEYS.trends)
    reporter.post()
    assert point(system).waiting == 0


@pytest.mark.parametrize(
    ("window", "sweep_seconds", "count", "seconds"),
    [("1h", 2, 180, 20), ("24h", 2, 144, 600), ("1h", 30, 60, 60), ("1h", 65, 25, 140), ("24h", 600, 72, 1200)],
)
def test_trends_have_a_point_for_every_slot_until_now(
    system: System, window: Window, sweep_seconds: float, count: int, seconds: int
) -> None:
    found = trends(system.settings.model_copy(update={"sweep_seconds": sweep_seconds}), window)
    assert (found.window, found.slot_seconds, len(found.points)) == (window, seconds, count)
    times = [each.at.timestamp() for each in found.points]
    assert {later - earlier for earlier, later in pairwise(times)} == {seconds}
    assert 0 <= found.at.timestamp() - times[-1] - seconds < (HOUR if window == "1h" else DAY).slot_seconds


def test_wrong_window_and_silent_redis_are_named(system: System) -> None:
    with pytest.raises(InvalidArgument, match="window: expected '1h' or '24h', got '2h'"):
        trends(system.settings, "2h")  # type: ignore[arg-type]
    away = system.settings.model_copy(update={"redis_url": f"redis://{NOWHERE}"})
    with pytest.raises(ConfigurationError, match="LEVELQ_REDIS_URL"):
        trends(away)


def test_point_of_several_slots_holds_their_sum(system: System) -> None:
    settings = system.settings.model_copy(update={"sweep_seconds": 20.0})
    for slot, did in enumerate((Slot(applied=4, lags={7: 4}, waiting=3), Slot(applied=6, rejected=2, lags={9: 8}))):
        system.lanes.add_to_trends(did, BEGIN + 20_000 * slot)
    found = read_trends(system.redis, settings, "1h", BEGIN + 40_000).points[-1]
    assert (found.applied_per_second, found.rejected_per_second, found.waiting, found.parked) == (0.25, 0.05, 3, None)
    assert (found.lag_p50_seconds, found.lag_p99_seconds) == (0.009, 0.009)
