"""What a worker counts while it drains: each kind of event, on real servers."""

from array import array

import pytest
from sqlalchemy import text

from levelq_core import Settings
from levelq_worker.draining.drain import Drain
from levelq_worker.metrics import names
from levelq_worker.metrics.figures import Figures, Layout
from levelq_worker.sweeper import Sweeper
from tests.support.fixtures.keys import KEYS
from tests.support.system import PLAYER, System, up

LAYOUT = Layout(["PLAYER"])


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Rows that others hold are waited for a short time."""
    return settings.model_copy(update={"claim_seconds": 2.0, "redis_seconds": 0.5})


class Counted:
    """A worker of PLAYER with its figures."""

    def __init__(self, system: System) -> None:
        self.system = system
        self._cells = array("d", bytes(8 * LAYOUT.cells))
        Figures(LAYOUT, memoryview(self._cells)).observe(system.worker.observers)
        self.drain()  # it finds that there is nothing to restore

    def drain(self) -> None:
        Drain(self.system.worker, PLAYER).run()

    def fail(self) -> None:
        """Try to drain one batch."""
        Drain(self.system.worker, PLAYER).step()

    def value(self, metric: names.Metric, *labels: str) -> float:
        return self._cells[LAYOUT.starts[metric.name][("PLAYER", *labels)]]

    def sum_of(self, metric: names.Metric) -> float:
        return self._cells[LAYOUT.starts[metric.name][("PLAYER",)] + metric.cells - 1]


@pytest.fixture
def counted(system: System) -> Counted:
    return Counted(system)


def let_claim_expire(system: System) -> None:
    """A drain claims two lanes and dies; its claims run out."""
    system.push(up(1), up(2))
    system.lanes.claim(PLAYER, "dead", "token", 100)
    system.redis.zadd(KEYS.of(PLAYER, "claimed"), {"1": 1, "2": 1})


def test_expired_claims_are_counted_by_the_claim_that_finds_them(counted: Counted) -> None:
    let_claim_expire(counted.system)
    counted.drain()
    assert counted.value(names.EXPIRED) == 2
    assert counted.value(names.COMMANDS, "level_up", "applied") == 2


def test_expired_claims_are_counted_by_the_sweep_that_finds_them(counted: Counted) -> None:
    let_claim_expire(counted.system)
    Sweeper(counted.system.settings, ["PLAYER"], observers=counted.system.worker.observers).sweep()
    assert counted.value(names.EXPIRED) == 2


def test_row_held_by_others_is_counted_as_parked_and_as_time_to_lock(counted: Counted) -> None:
    system = counted.system
    system.push(up(1), up(2))
    counted.drain()
    system.push(up(1), up(2))
    with system.engine.begin() as other:
        other.execute(text("SELECT FROM specialization_progress WHERE student_id = 1 FOR UPDATE"))
        counted.drain()
    assert (counted.value(names.PARKED, "locked"), counted.value(names.PARKED, "error")) == (1, 0)
    assert counted.sum_of(names.LOCKS) >= system.settings.lock_ms / 1000
    assert counted.sum_of(names.TRANSACTION) >= counted.sum_of(names.LOCKS)
    assert counted.value(names.COMMANDS, "level_up", "applied") == 3


def test_duplicates_rejections_and_rubbish_are_counted(counted: Counted) -> None:
    command, wrong = up(1), up(2, theory_hours=1)
    counted.system.push(command, command, wrong)
    counted.system.push_raw(3, b"rubbish")
    counted.drain()
    assert counted.value(names.COMMANDS, "level_up", "applied") == 1
    assert counted.value(names.COMMANDS, "level_up", "duplicate") == 1
    assert counted.value(names.COMMANDS, "level_up", "rejected") == 1
    assert counted.value(names.REJECTIONS, "validation_error") == 1
    assert counted.value(names.QUARANTINED) == 1
    assert counted.sum_of(names.BATCH) == 4


def test_batch_that_fails_is_counted_by_the_class_of_its_error(system: System) -> None:
    url = str(system.settings.database_url)
    url += f"{'&' if '?' in url else '?'}options=-c%20default_transaction_read_only%3Don"
    read_only = system.settings.model_copy(update={"database_url": url})
    with System(read_only, system.redis, system.engine) as behind:
        counted = Counted(behind)
        behind.push(up(1))
        counted.fail()
    assert counted.value(names.RETRIES, "transient") == 1


def test_redis_that_is_away_is_counted_as_an_error_of_redis(counted: Counted) -> None:
    counted.system.push(up(1))
    counted.system.redis.acl_setuser("default", enabled=True, commands=["-eval", "-evalsha"])
    try:
        counted.fail()
    finally:
        counted.system.redis.acl_setuser("default", enabled=True, commands=["+eval", "+evalsha"])
    assert counted.value(names.RETRIES, "redis") == 1
