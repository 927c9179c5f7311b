"""What a producer can say of a command: queued, decided or unknown, and the outcome; and what a timeout says."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest
from redis import Redis
from rq import Queue, SimpleWorker
from rq.serializers import JSONSerializer
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from levelq_core import Settings, command_id_for
from levelq_producer import (
    AsyncProducer,
    InvalidCommand,
    Outbox,
    OutcomeTimeout,
    OutcomeUnknown,
    Producer,
    QueueUnavailable,
)
from levelq_worker.draining.context import Runtime
from tests.support.coupler import drain_all
from tests.support.fixtures.keys import KEYS, PLAYER
from tests.support.producing import level_up

LANES: list[dict[str, Any]] = [{}, {"user_id": 1, "specialization": "player"}]


@pytest.fixture(params=[True, False], ids=["with the ledger", "without a database"])
def own(request: pytest.FixtureRequest, settings: Settings) -> Settings:
    return settings if request.param else settings.model_copy(update={"database_url": None})


@pytest.fixture
def producer(own: Settings) -> Iterator[Producer]:
    with Producer(own) as made:
        yield made


@pytest.mark.parametrize("lane", LANES, ids=["all lanes", "its lane"])
def test_command_is_queued_then_decided_and_an_id_never_sent_is_unknown(
    producer: Producer, worker: Runtime, lane: dict[str, Any]
) -> None:
    handle = producer.level_up(1, "PLAYER", 10, idempotency_key="match-991")
    command_id = command_id_for("match-991")
    assert (producer.state(command_id, **lane), producer.outcome(command_id, **lane)) == ("queued", None)
    worker.lanes.claim(PLAYER, "drain", "token", 100)
    assert producer.state(command_id, **lane) == "queued"  # claimed
    worker.lanes.ack(PLAYER, "token", [(b"1", 0, b"")])
    drain_all(worker, "PLAYER")
    assert (producer.state(command_id, **lane), producer.outcome(command_id, **lane)) == ("decided", handle.result())
    never = uuid4()
    assert producer.state(never, **lane) == "unknown"
    with pytest.raises(OutcomeUnknown, match=rf"^command_id: {never} is unknown: it is not queued, and ") as caught:
        producer.outcome(never, **lane)
    assert caught.value.command_id == never


async def test_async_producer_knows_the_same(own: Settings, worker: Runtime) -> None:
    async with AsyncProducer(own) as producer:
        handle = await producer.level_up(1, "PLAYER", 10)
        assert (await producer.state(handle.command_id), await producer.outcome(handle.command_id)) == ("queued", None)
        await asyncio.to_thread(drain_all, worker, "PLAYER")
        assert await producer.outcome(handle.command_id) == await handle
        assert [await producer.state(one) for one in (handle.command_id, uuid4())] == ["decided", "unknown"]


def test_command_without_a_reply_is_decided_if_the_ledger_can_be_read_and_else_unknown(
    producer: Producer, worker: Runtime
) -> None:
    handle = producer.level_up(1, "PLAYER", 10, reply=False)
    assert producer.state(handle.command_id) == "queued"
    drain_all(worker, "PLAYER")
    with_ledger = producer.settings.database_url is not None
    assert producer.state(handle.command_id) == ("decided" if with_ledger else "unknown")
    if not with_ledger:
        asked: list[Callable[[], object]] = [handle.result, lambda: producer.outcome(handle.command_id)]
        for ask in asked:
            with pytest.raises(OutcomeUnknown, match=r"send with reply=True.*, or set LEVELQ_DATABASE_URL"):
                ask()


def test_command_in_the_outbox_is_queued(settings: Settings, worker: Runtime, own_engine: Engine) -> None:
    with Session(own_engine) as session, Producer(settings) as producer:
        handle = Outbox(session, settings=settings).send(level_up())
        assert producer.state(handle.command_id) == "unknown"  # to others, until the commit
        session.commit()
        assert (producer.state(handle.command_id), producer.outcome(handle.command_id)) == ("queued", None)
        with pytest.raises(OutcomeTimeout, match=r"is queued in the outbox, which no worker serves") as caught:
            handle.result(timeout=0.01)
        assert (caught.value.state, caught.value.workers, caught.value.specialization) == ("queued", 0, "PLAYER")


def test_command_that_is_decided_while_the_lanes_are_searched_is_decided(
    producer: Producer, worker: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is neither in the ledger before the search nor in a lane after it."""
    handle = producer.send(level_up())
    lanes = producer._connections.get().lanes
    search = lanes.holds

    def late(*args: Any) -> bool | None:
        drain_all(worker, "PLAYER")
        return search(*args)

    monkeypatch.setattr(lanes, "holds", late)
    assert producer.state(handle.command_id) == "decided"


def test_among_too_many_commands_only_the_named_lane_is_searched(producer: Producer, redis: Redis) -> None:
    handle = producer.send(level_up())
    entry: Any = redis.lindex(KEYS.lane(PLAYER, 1), 0)
    other = entry[:17] + bytes(16) + entry[33:]
    for user_id in (1, 2):
        redis.rpush(KEYS.lane(PLAYER, user_id), *[other] * 10_000)
    redis.zadd(KEYS.of(PLAYER, "ready"), {"2": 0})
    with pytest.raises(OutcomeUnknown, match=r"PLAYER:1:0 holds too many commands to search: give user_id and spec"):
        producer.state(handle.command_id)
    assert producer.state(handle.command_id, 1, "PLAYER") == "queued"  # the oldest of 10,001
    assert producer.state(handle.command_id, 2, "PLAYER") == "unknown"
    with pytest.raises(OutcomeTimeout, match=r"it is queued in PLAYER:1:0"):
        handle.result(timeout=0.01)  # it knows its lane


@pytest.mark.parametrize(
    "wrong", [{"user_id": 1}, {"specialization": "PLAYER"}, {"user_id": "1", "specialization": "P"}]
)
def test_half_a_lane_and_an_id_that_is_no_uuid_are_refused(producer: Producer, wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidCommand, match=r"^(user_id|specialization): "):
        producer.state(uuid4(), **wrong)
    with pytest.raises(InvalidCommand, match=r"^command_id: expected a UUID, got 'match-991'; .*command_id_for"):
        producer.outcome("match-991")  # type: ignore[arg-type]


def test_timeout_says_whether_a_worker_serves_the_command(producer: Producer, redis: Redis) -> None:
    handle = producer.send(level_up())
    for ask in (handle, producer.handle(handle.command_id)):
        with pytest.raises(OutcomeTimeout) as caught:
            ask.result(timeout=0.01)
        assert str(caught.value) == (
            f"command {handle.command_id} was not decided within 0.01 s; it is queued in PLAYER:1:0, which no worker "
            "serves (`levelq worker -s PLAYER` starts one)"
        )
        assert (caught.value.state, caught.value.workers, caught.value.specialization) == ("queued", 0, "PLAYER")
    rq_worker = SimpleWorker([Queue("levelq.PLAYER", connection=redis, serializer=JSONSerializer)], connection=redis)
    rq_worker.register_birth()  # type: ignore[no-untyped-call]
    with pytest.raises(OutcomeTimeout, match=r"it is queued in PLAYER:1:0, which 1 worker serves$") as caught:
        handle.result(timeout=0.01)
    assert caught.value.workers == 1


def test_without_redis_the_state_cannot_be_read() -> None:
    with Producer.from_url("redis://:secret@127.0.0.1:1/0") as producer:
        with pytest.raises(QueueUnavailable, match=r"^LEVELQ_REDIS_URL redis://:\*\*\*@127\.0\.0\.1:1/0: ") as caught:
            producer.state(uuid4())
        assert (caught.value.setting, caught.value.value) == ("LEVELQ_REDIS_URL", "redis://:***@127.0.0.1:1/0")
