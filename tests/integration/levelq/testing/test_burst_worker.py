"""The worker of the plugin in the test's own process: it leaves nothing, or says why."""

import gc
import signal

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from levelq import LevelUp, Outbox, Producer
from levelq.testing import BurstWorker
from tests.support.db_check import execute


@pytest.mark.parametrize("user_id", [1, 2])
def test_outbox_without_settings_has_those_of_each_test(
    levelq_worker: BurstWorker, levelq_engine: Engine, user_id: int
) -> None:
    with Session(levelq_engine) as session:
        handle = Outbox(session).send(LevelUp(user_id=user_id, specialization="PLAYER", xp_gained=1500))
        session.commit()
    levelq_worker.drain()
    assert handle.result().to_level == 2
    with levelq_engine.connect() as connection:
        assert connection.execute(text("SELECT user_id FROM levelq_ledger")).scalars().all() == [user_id]


def test_lane_whose_rows_the_test_holds_locked_is_an_error_with_the_reason(
    levelq_producer: Producer, levelq_worker: BurstWorker, levelq_engine: Engine
) -> None:
    levelq_producer.level_up(42, "PLAYER", 150)
    levelq_worker.drain()
    handle = levelq_producer.level_up(42, "PLAYER", 1500)
    with levelq_engine.begin() as connection:
        connection.execute(text("SELECT FROM specialization_progress FOR UPDATE"))
        with pytest.raises(AssertionError, match=r"parked: PLAYER:42, other code holds its rows .*\(1 lanes\)"):
            levelq_worker.drain()
    levelq_worker.drain()
    assert handle.result().to_level == 2


def test_drain_that_cannot_end_is_an_error_after_its_timeout(
    levelq_producer: Producer, levelq_worker: BurstWorker, levelq_engine: Engine
) -> None:
    levelq_producer.level_up(42, "PLAYER", 150)
    execute(levelq_engine, "ALTER TABLE levelq_ledger RENAME TO hidden")
    try:
        with pytest.raises(AssertionError, match=r"not drained within 0\.2 s"):
            levelq_worker.drain(timeout=0.2)
    finally:
        execute(levelq_engine, "ALTER TABLE hidden RENAME TO levelq_ledger")


def test_worker_leaves_signals_and_garbage_collection_of_the_process_alone(levelq_worker: BurstWorker) -> None:
    before = signal.getsignal(signal.SIGINT), gc.get_threshold(), gc.get_freeze_count()
    levelq_worker.drain()
    assert (signal.getsignal(signal.SIGINT), gc.get_threshold(), gc.get_freeze_count()) == before
