"""Idempotency keys: one key is one command, by whatever way it comes, until its decision is pruned."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy.orm import Session

from levelq_core import History, Settings, command_id_for, level_up_atomic
from levelq_core.operations.prune import Pruned, prune
from levelq_producer import AsyncProducer, InvalidCommand, Outbox, Producer
from levelq_worker.draining.context import Runtime
from levelq_worker.relay.thread import Relay
from tests.support.coupler import drain_all
from tests.support.db_check import query
from tests.support.fixtures.waiting import until
from tests.support.producing import queued
from tests.support.verify import World, assert_clean, up

# Arguments that differ in one value, for each method.
METHODS: dict[str, tuple[Any, Any]] = {
    "level_up": (150, 160),
    "set_level": (2, 3),
    "sync": ("progress", "license"),
    "adjust": (5, 6),
    "reset": (500, 600),
}


@pytest.mark.parametrize("name", METHODS)
async def test_second_send_of_a_key_is_a_duplicate_and_other_content_a_conflict(
    settings: Settings, worker: Runtime, name: str
) -> None:
    first, other = METHODS[name]
    with Producer(settings) as producer:
        producer.level_up(1, "PLAYER", 0)  # the rows
        async with AsyncProducer(settings) as async_producer:
            once = getattr(producer, name)(1, "PLAYER", first, idempotency_key="match-991:player-1")
            again = await getattr(async_producer, name)(1, "PLAYER", first, idempotency_key="match-991:player-1")
            conflict = getattr(producer, name)(1, "PLAYER", other, idempotency_key="match-991:player-1")
            drain_all(worker, "PLAYER")
            decided = once.result()
            assert (decided.command_id, decided.status) == (command_id_for("match-991:player-1"), "applied")
            assert await again == decided.model_copy(update={"duplicate": True})
            assert (conflict.result().status, conflict.result().error) == ("rejected", "conflict")
            assert producer.outcome(once.command_id) == decided
        with pytest.raises(InvalidCommand, match=r"^command_id: expected either command_id or idempotency_key"):
            getattr(producer, name)(1, "PLAYER", first, idempotency_key="k", command_id=once.command_id)


def test_key_is_one_command_by_whatever_way_it_comes_until_it_is_pruned(world: World) -> None:
    """The ledger's horizon is the time of the decision: an id that holds no time is treated like any other."""
    won = up(7, 10, reason="Level up", idempotency_key="match-991:player-7")
    world.apply(won)
    with Session(world.engine) as session:
        by_call = level_up_atomic(session, 7, "PLAYER", 10, idempotency_key="match-991:player-7")
        refused = level_up_atomic(session, 7, "PLAYER", 11, idempotency_key="match-991:player-7")
        both = level_up_atomic(session, 7, "PLAYER", 10, idempotency_key="k", command_id=won.command_id)
        assert [one["success"] for one in (by_call, refused, both)] == [True, False, False]
        handle = Outbox(session, settings=world.settings).send(won)
        session.commit()
    world.sql("UPDATE levelq_ledger SET applied_at = applied_at - interval '31 days'")
    month = timedelta(days=30)
    assert prune(world.engine, world.redis, month) == [Pruned("levelq_ledger", 0, 1)]  # it is in the outbox
    relay = Relay(world.settings, ["PLAYER"])
    until(lambda: relay.poll() >= 0 and queued(world.worker) == 1, what="the relay")
    relay.release()
    assert prune(world.engine, world.redis, month) == [Pruned("levelq_ledger", 0, 1)]  # it is in a lane
    world.drain()
    assert handle.result().duplicate
    assert query(world.engine, "SELECT total_xp FROM specialization_progress") == [(10,)]
    assert_clean(world.verify(at_rest=True, partial_history=True))
    assert [entry.command_id for entry in History(world.engine).of(7)] == [won.command_id]
    assert prune(world.engine, world.redis, month) == [Pruned("levelq_ledger", 1, 0)]
    world.apply(won)
    assert query(world.engine, "SELECT total_xp FROM specialization_progress") == [(20,)]
