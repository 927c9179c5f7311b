"""Misuse gets an error that says what to do. Its table is in docs/reference/api.md."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import pytest
from redis import Redis
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from levelq_core import LevelUpRefused, Settings, level_up_atomic
from levelq_core.errors import TransactionMisuse
from levelq_producer import AsyncProducer, Outbox, OutcomeUnknown, Producer, ProducerClosed
from levelq_worker.draining.context import Runtime
from tests.support.fixtures.waiting import until
from tests.support.producing import blocked, clients, level_up, queued

CALLS: dict[str, Callable[[Any, Any], Any]] = {
    "send": lambda producer, _: producer.send(level_up()),
    "send_many": lambda producer, _: producer.send_many([]),
    "level_up": lambda producer, _: producer.level_up(1, "PLAYER", 10),
    "a command that the catalog refuses": lambda producer, _: producer.level_up(1, "GOALIE", 10),
    "an unknown durability": lambda producer, _: producer.send(level_up(), durability="disk"),
    "wait_until_applied": lambda producer, _: producer.wait_until_applied(1, "PLAYER"),
    "a wait for no lane": lambda producer, _: producer.wait_until_applied(1, "GOALIE", timeout=0),
    "handle": lambda producer, handle: producer.handle(handle.command_id),
    "state": lambda producer, handle: producer.state(handle.command_id),
    "outcome": lambda producer, handle: producer.outcome(handle.command_id),
    "result": lambda _, handle: handle.result(timeout=None),
}


@pytest.mark.parametrize("call", CALLS)
async def test_closed_producer_refuses_every_call_and_may_be_closed_again(
    settings: Settings, worker: Runtime, call: str
) -> None:
    with Producer(settings) as producer:
        handle = producer.send(level_up())
    async_producer = AsyncProducer(settings)
    async_handle = await async_producer.send(level_up())
    for _ in range(2):
        producer.close()
        await async_producer.close()
        with pytest.raises(ProducerClosed, match="make another one"):
            CALLS[call](producer, handle)
        with pytest.raises(ProducerClosed, match="make another one"):
            await CALLS[call](async_producer, async_handle)
    assert queued(worker) == 2


@pytest.mark.parametrize("with_ledger", [True, False])
async def test_handles_that_wait_when_the_producer_is_closed_are_told(
    settings: Settings, redis: Redis, worker: Runtime, with_ledger: bool
) -> None:
    own = settings if with_ledger else settings.model_copy(update={"database_url": None})
    before = clients(redis)
    producer, async_producer = Producer(own), AsyncProducer(own)
    handles = producer.send_many([level_up(1), level_up(2)], reply=True)
    tasks = [asyncio.create_task((await async_producer.send(level_up())).result(None)) for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(handle.result, None) for handle in handles]
        await asyncio.to_thread(until, lambda: blocked(redis) == 2, 30, "the two reads")
        producer.close()
        await async_producer.close()
        for future in waiting:
            with pytest.raises(ProducerClosed):
                await asyncio.wrap_future(future)
        for task in tasks:
            with pytest.raises(ProducerClosed):
                await task
    await asyncio.to_thread(until, lambda: clients(redis) <= before, 30, "the end of all connections")


def test_result_of_a_command_without_a_reply_is_unknown_at_once(settings: Settings, worker: Runtime) -> None:
    with Producer(settings.model_copy(update={"database_url": None})) as producer:
        handle = producer.level_up(1, "PLAYER", 10, reply=False)
        with pytest.raises(
            OutcomeUnknown, match=r"is not kept: send with reply=True, or set LEVELQ_DATABASE_URL"
        ) as caught:
            handle.result(timeout=None)
        assert caught.value.command_id == handle.command_id


@pytest.fixture
def failed(own_engine: Engine) -> Any:
    """A session whose transaction an earlier error has aborted."""
    with Session(own_engine) as session:
        with pytest.raises(DBAPIError):
            session.execute(text("SELECT 1/0"))
        yield session


def test_outbox_refuses_a_failed_transaction_and_works_after_its_rollback(settings: Settings, failed: Session) -> None:
    with pytest.raises(TransactionMisuse, match=r"^transaction: it is aborted by an earlier error; roll it") as caught:
        Outbox(failed, settings=settings).send(level_up())
    assert (caught.value.field, caught.value.value) == ("transaction", "aborted")
    failed.rollback()
    Outbox(failed, settings=settings).send(level_up())


def test_direct_call_reports_a_failed_transaction_and_works_after_its_rollback(failed: Session) -> None:
    result = level_up_atomic(failed, 1, "PLAYER", 10)
    assert (result["success"], result.get("error_type")) == (False, "database_error")
    assert "aborted by an earlier error" in result["message"] and "roll it back" in result["message"]
    assert level_up_atomic(failed, 1, "PLAYER", 10)["success"]
    failed.begin_nested()
    with pytest.raises(DBAPIError):
        failed.execute(text("SELECT 1/0"))
    with pytest.raises(LevelUpRefused, match="roll") as caught:
        level_up_atomic(failed, 1, "PLAYER", 10, raise_on_failure=True)
    assert (caught.value.user_id, caught.value.error_type) == (1, "database_error")


def test_outcome_of_a_command_never_sent_is_an_error(settings: Settings, worker: Runtime) -> None:
    with Producer(settings) as producer, pytest.raises(OutcomeUnknown, match="It was never sent, or"):
        producer.outcome(uuid4())
