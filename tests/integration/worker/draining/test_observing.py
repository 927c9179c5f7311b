"""What observers of batches are told, and that a failing one does no harm."""

from collections.abc import Callable

import pytest
from sqlalchemy import Engine

from levelq_worker.draining.context import Runtime
from levelq_worker.draining.observing import DecidedBatch
from tests.support.coupler import drain_all, push
from tests.support.isolation import PLAYER, experience, level_up


@pytest.fixture
def worker(own_engine: Engine, own_database_url: str, worker_of: Callable[..., Runtime]) -> Runtime:
    return worker_of(own_database_url)


def test_observer_gets_the_committed_batch(worker: Runtime) -> None:
    seen: list[DecidedBatch] = []
    worker.observers.add(seen.append)
    push(worker, [level_up(1), level_up(2), level_up(2)])
    drain_all(worker, "PLAYER")
    (batch,) = seen
    assert (batch.partition, batch.entries, batch.quarantined, batch.parked) == (PLAYER, 3, 0, [])
    assert sorted(len(lane.decisions) for lane in batch.lanes) == [1, 2]
    assert 0 < batch.seconds < batch.claimed_seconds
    assert batch.committed_ms >= max(record.pushed_ms for lane in batch.lanes for record in lane.records)


def test_failing_observer_is_logged_once_and_the_commands_are_applied(
    worker: Runtime, own_engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(batch: DecidedBatch) -> None:
        raise ValueError(batch.entries)

    seen: list[DecidedBatch] = []
    worker.observers.add(fail)
    worker.observers.add(seen.append)
    for user in (1, 2):
        push(worker, [level_up(user, 5)])
        drain_all(worker, "PLAYER")
    assert len(seen) == 2
    assert experience(own_engine) == {1: 5, 2: 5}
    logged = [record.message for record in caplog.records if "observer" in record.message]
    assert logged == ["an observer of batches failed; further failures are not logged"]
