"""From `Producer.send` to `handle.result`, with real servers, and all that can go wrong on the way."""

import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any
from uuid import uuid4

import pytest
from redis import Redis
from rq import Queue, SimpleWorker
from rq.serializers import JSONSerializer
from sqlalchemy import Engine

import levelq_worker
from levelq.embedded import Servers
from levelq_core import Command, LevelUp, SetLevel, Settings, SyncLevels
from levelq_core.domain.commands import new_command_id
from levelq_core.lanes.script_files import load
from levelq_producer import (
    AsyncProducer,
    InvalidCommand,
    LaneFull,
    OutcomeTimeout,
    OutcomeUnknown,
    PartitionFull,
    Producer,
    QueueUnavailable,
    SendUnknown,
)
from levelq_producer.sending import WINDOW
from levelq_worker.draining.context import Runtime, install
from tests.support.coupler import drain_all
from tests.support.fixtures.keys import KEYS
from tests.support.fixtures.ports import free_port
from tests.support.fixtures.proxy import Fault, Proxy
from tests.support.fixtures.waiting import until
from tests.support.isolation import PLAYER, experience, level_up, order, sent


@pytest.fixture
def producers(servers: Servers, redis: Redis) -> Iterator[Callable[..., Producer]]:
    """Make producers on this test's Redis, by default without a database."""
    with ExitStack() as stack:

        def make(**given: Any) -> Producer:
            return stack.enter_context(Producer.from_url(given.pop("url", servers.valkey.url), **given))

        yield make


@pytest.fixture
def producer(producers: Callable[..., Producer]) -> Producer:
    return producers()


@pytest.fixture
async def async_producer(servers: Servers, redis: Redis) -> Any:
    async with AsyncProducer.from_url(servers.valkey.url) as made:
        yield made


def waiting(worker: Runtime) -> int:
    return worker.lanes.status(PLAYER).waiting


def queue_of(redis: Redis) -> Queue:
    return Queue("levelq.PLAYER", connection=redis, serializer=JSONSerializer)


def work_with_rq(redis: Redis) -> None:
    """Run the wake-ups in an ordinary RQ worker."""
    SimpleWorker([queue_of(redis)], connection=redis, serializer=JSONSerializer).work(burst=True)


# The main path


def test_each_kind_of_command_comes_back_with_its_outcome(producer: Producer, worker: Runtime) -> None:
    handles = [
        producer.level_up(1, "player", 2600, sessions_completed=2),
        producer.set_level(1, "PLAYER", 2, xp_change=-600, reason="appeal"),
        producer.sync(1, "PLAYER", "license"),
        producer.sync(2, "PLAYER"),
    ]
    drain_all(worker, "PLAYER")
    outcomes = [handle.result() for handle in handles]
    assert [(o.status, o.from_level, o.to_level, o.message) for o in outcomes] == [
        ("applied", 1, 3, "level 1 -> 3"),
        ("applied", 3, 2, "level 3 -> 2"),
        ("applied", 2, 2, "none: both at level 2"),
        ("rejected", None, None, "source: there is no progress row with a level to copy"),
    ]
    assert [o.command_id for o in outcomes] == [handle.command_id for handle in handles]


async def test_async_commands_come_back_with_their_outcomes(async_producer: AsyncProducer, worker: Runtime) -> None:
    first = await async_producer.level_up(1, "player", 2600)
    second = await async_producer.set_level(1, "PLAYER", 2)
    third = await async_producer.sync(1, "PLAYER")
    many = await async_producer.send_many([level_up(user) for user in (5, 6)], reply=True)
    drain_all(worker, "PLAYER")
    outcomes = [await handle.result() for handle in (first, second, third, *many)]
    assert [o.to_level for o in outcomes] == [3, 2, 2, 1, 1]
    assert await async_producer.handle(first.command_id).result() == outcomes[0]


async def test_async_result_waits_without_holding_the_loop(async_producer: AsyncProducer) -> None:
    handle = await async_producer.send(level_up())
    with pytest.raises(OutcomeTimeout, match=rf"command {handle.command_id} was not decided within 0.1 s"):
        await handle.result(timeout=0.1)


async def test_async_handle_without_a_reply_is_answered_from_the_ledger(
    servers: Servers, settings: Settings, worker: Runtime
) -> None:
    async with AsyncProducer(settings) as producer:
        handle = await producer.send(level_up(), reply=False)
        drain_all(worker, "PLAYER")
        assert (await handle.result()).status == "applied"
    async with AsyncProducer.from_url(servers.valkey.url) as producer:
        handle = await producer.send(level_up(), reply=False)
        with pytest.raises(OutcomeUnknown, match=r"send with reply=True, or set LEVELQ_DATABASE_URL"):
            await handle.result()


async def test_async_producer_raises_and_returns_errors(servers: Servers, redis: Redis) -> None:
    async with AsyncProducer.from_url(servers.valkey.url, lane_limit=1) as producer:
        with pytest.raises(InvalidCommand):
            await producer.send_many([level_up(), LevelUp(user_id=1, specialization="WIZARD")])
        handles = await producer.send_many([level_up(), level_up(), level_up(2)])
        assert [type(handle.error) for handle in handles] == [type(None), LaneFull, type(None)]
        with pytest.raises(LaneFull):
            await producer.send(level_up())
    async with AsyncProducer.from_url(f"redis://:secret@127.0.0.1:{free_port()}/0") as producer:
        with pytest.raises(QueueUnavailable, match=r"LEVELQ_REDIS_URL redis://:\*\*\*@127\.0\.0\.1") as raised:
            await producer.send(level_up())
        assert "secret" not in str(raised.value)


def test_drain_by_the_name_of_the_job_applies_a_command(producer: Producer, worker: Runtime) -> None:
    install(worker)
    handle = producer.send(level_up())
    levelq_worker.drain("PLAYER")
    assert handle.result().status == "applied"


def test_ordinary_rq_worker_runs_the_wake_up_of_a_send(producer: Producer, worker: Runtime, redis: Redis) -> None:
    install(worker)
    handles = producer.send_many([level_up(user) for user in range(1, 6)], reply=True)
    assert [(job.func_name, list(job.args)) for job in queue_of(redis).get_jobs()] == [
        ("levelq_worker.drain", ["PLAYER:1:0"])
    ]
    work_with_rq(redis)
    assert {handle.result().status for handle in handles} == {"applied"}


def test_burst_keeps_the_order_of_each_lane(producer: Producer, worker: Runtime, own_engine: Engine) -> None:
    commands = [level_up(user, 1) for _ in range(200) for user in range(1, 51)]
    handles = producer.send_many(commands)
    assert [handle.command_id for handle in handles] == [command.command_id for command in commands]
    assert {handle.error for handle in handles} == {None}
    drain_all(worker, "PLAYER")
    assert order(own_engine) == sent(commands)


def test_at_rest_redis_holds_the_registry_and_no_lane(producer: Producer, worker: Runtime, redis: Redis) -> None:
    install(worker)
    handle = producer.send(level_up())
    producer.send(level_up(), reply=False)
    work_with_rq(redis)
    handle.result()
    ours = {key.decode(): redis.ttl(key) for key in redis.scan_iter("levelq:*")}
    reply = KEYS.reply(handle.command_id.bytes)
    assert 0 < ours.pop(reply) <= 60
    assert KEYS.registry in ours
    kept = {KEYS.database, KEYS.registry, KEYS.shards, KEYS.of(PLAYER, "count"), KEYS.of(PLAYER, "filled")}
    assert set(ours) <= kept
    assert redis.get(KEYS.of(PLAYER, "count")) in (None, b"0")
    assert [key for key in redis.scan_iter("rq:job:*") if redis.ttl(key) < 0] == []


# Outcomes


def test_without_reply_nothing_is_written_and_the_ledger_answers(
    producers: Callable[..., Producer], worker: Runtime, redis: Redis, own_database_url: str
) -> None:
    handle = producers(database_url=own_database_url).send(level_up(), reply=False)
    drain_all(worker, "PLAYER")
    assert list(redis.scan_iter("levelq:reply:*")) == []
    outcome = handle.result()
    assert (outcome.status, outcome.duplicate, outcome.message) == ("applied", False, "level stays 1")


def test_outcome_without_reply_and_database_is_unknown(producer: Producer) -> None:
    handle = producer.send(level_up(), reply=False)
    assert handle.error is None
    with pytest.raises(OutcomeUnknown, match=r"send with reply=True, or set LEVELQ_DATABASE_URL"):
        handle.result()


def test_ledger_answers_when_the_reply_is_gone(
    producers: Callable[..., Producer], worker: Runtime, redis: Redis, own_database_url: str
) -> None:
    producer = producers(database_url=own_database_url)
    handle = producer.send(level_up(xp=1000))
    drain_all(worker, "PLAYER")
    fresh = handle.result()
    redis.delete(KEYS.reply(handle.command_id.bytes))
    assert producer.handle(handle.command_id).result() == fresh


def test_outcome_comes_by_redis_while_the_ledger_is_away(producers: Callable[..., Producer], worker: Runtime) -> None:
    handle = producers(database_url="postgresql://nobody@127.0.0.1:1/nowhere").send(level_up(1))
    with pytest.raises(OutcomeTimeout, match=r"not decided within 0.1 s; the ledger could not be asked: .*127.0.0.1:1"):
        handle.result(timeout=0.1)
    drain_all(worker, "PLAYER")
    assert handle.result(timeout=20).status == "applied"


def test_outcome_may_be_read_repeatedly_and_elsewhere(producers: Callable[..., Producer], worker: Runtime) -> None:
    handle = producers().send(level_up())
    drain_all(worker, "PLAYER")
    assert producers().handle(handle.command_id).result() == handle.result() == handle.result()


def test_result_arrives_while_it_is_waited_for(producer: Producer, worker: Runtime, redis: Redis) -> None:
    handle = producer.send(level_up())
    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(handle.result, 30)
        until(lambda: redis.info("clients")["blocked_clients"] == 1, what="the sender to wait")
        drain_all(worker, "PLAYER")
        assert result.result().status == "applied"


@pytest.mark.parametrize("with_ledger", [False, True])
def test_outcome_that_does_not_come_times_out(
    producers: Callable[..., Producer], own_database_url: str, with_ledger: bool
) -> None:
    producer = producers(**{"database_url": own_database_url} if with_ledger else {})
    with pytest.raises(OutcomeTimeout, match=r"was not decided within 0\.2 s"):
        producer.send(level_up()).result(timeout=0.2)
    with pytest.raises(OutcomeTimeout):
        producer.handle(uuid4()).result(timeout=0.01)


def test_same_command_again_is_a_duplicate_and_counts_once(
    producer: Producer, worker: Runtime, own_engine: Engine
) -> None:
    command = level_up(xp=1000)
    producer.send(command)
    drain_all(worker, "PLAYER")
    again = producer.send(command)
    same_batch = producer.send_many([command, command], reply=True)
    drain_all(worker, "PLAYER")
    for handle in (again, *same_batch):
        outcome = handle.result()
        assert (outcome.status, outcome.duplicate, outcome.from_level, outcome.to_level) == ("applied", True, 1, 2)
    assert experience(own_engine) == {1: 1000}


def test_same_id_for_another_command_is_a_conflict(
    producers: Callable[..., Producer], worker: Runtime, redis: Redis, own_database_url: str
) -> None:
    producer = producers(database_url=own_database_url)
    first = producer.send(level_up(1, 5))
    drain_all(worker, "PLAYER")
    decided = first.result()
    same = producer.send(level_up(1, 5, command_id=first.command_id))
    other = producer.send(level_up(2, 5, command_id=first.command_id))
    drain_all(worker, "PLAYER")
    outcome = other.result()
    assert (outcome.status, outcome.error, outcome.user_id) == ("rejected", "conflict", 2)
    assert outcome.message == "command_id was used before, for another command of PLAYER:1"
    assert same.result() == decided.model_copy(update={"duplicate": True})
    assert first.result() == decided == producer.handle(first.command_id).result()
    redis.delete(KEYS.reply(first.command_id.bytes))
    assert producer.handle(first.command_id).result() == decided


# Limits and bad input


def test_full_lane_refuses_the_rest_of_the_lane_and_no_other(
    producers: Callable[..., Producer], worker: Runtime, own_engine: Engine
) -> None:
    producer = producers(lane_limit=3)
    commands = [level_up(user) for _ in range(5) for user in (1, 2)][:9]
    handles = producer.send_many(commands, reply=True)
    assert [type(h.error) for h in handles] == [type(None)] * 6 + [LaneFull] * 3
    assert str(handles[6].error) == "lane PLAYER:1: 3 commands wait already (LEVELQ_LANE_LIMIT)"
    with pytest.raises(LaneFull):
        handles[6].result()
    with pytest.raises(LaneFull):
        producer.send(level_up(1))
    assert producer.send(level_up(3)).error is None
    assert waiting(worker) == 7
    drain_all(worker, "PLAYER")
    assert experience(own_engine) == {1: 30, 2: 30, 3: 10}
    assert producer.send(level_up(1)).error is None


def test_full_partition_refuses_and_others_do_not(producers: Callable[..., Producer], worker: Runtime) -> None:
    producer = producers(partition_limit=4)
    handles = producer.send_many([level_up(user) for user in range(1, 7)])
    assert [type(h.error) for h in handles] == [type(None)] * 4 + [PartitionFull] * 2
    assert str(handles[4].error) == "partition PLAYER:1:0: 4 commands wait already (LEVELQ_PARTITION_LIMIT)"
    assert producer.send(LevelUp(user_id=1, specialization="COACH")).error is None
    assert waiting(worker) == 4
    drain_all(worker, "PLAYER")
    assert producer.send(level_up(9)).error is None


def test_later_commands_of_a_refused_lane_are_refused_across_round_trips(
    producers: Callable[..., Producer], worker: Runtime
) -> None:
    """Commands behind a refused one must not be queued by the next round trip."""
    producer = producers(lane_limit=10)
    commands = [level_up(1) for _ in range(11)] + [level_up(2 + n % 4000) for n in range(WINDOW)] + [level_up(1)]
    handles = producer.send_many(commands)
    assert [n for n, handle in enumerate(handles) if handle.error] == [10, len(commands) - 1]
    assert waiting(worker) == len(commands) - 2


INVALID: list[tuple[Callable[[], Command], str]] = [
    (lambda: LevelUp(user_id=1, specialization="WIZARD"), "specialization: expected one of PLAYER, COACH, INTERNSHIP"),
    (lambda: SetLevel(user_id=1, specialization="PLAYER", new_level=0), "new_level: expected 1 to 8 for PLAYER, got 0"),
    (
        lambda: SetLevel(user_id=1, specialization="INTERNSHIP", new_level=4),
        "new_level: expected 1 to 3 for INTERNSHIP",
    ),
    (lambda: level_up(theory_hours=3), "theory_hours: PLAYER does not track hours, expected 0, got 3"),
    (lambda: level_up(reason="r" * 60), "command: expected at most 128 bytes, got 129"),
]


@pytest.mark.parametrize(("build", "message"), INVALID)
@pytest.mark.parametrize("index", [0, 1, 2])
def test_one_invalid_command_and_nothing_is_sent(
    producers: Callable[..., Producer], redis: Redis, build: Callable[[], Command], message: str, index: int
) -> None:
    commands: list[Command] = [level_up(), SyncLevels(user_id=1, specialization="PLAYER")]
    commands.insert(index, build())
    with pytest.raises(InvalidCommand) as raised:
        producers(payload_limit=128).send_many(commands)
    assert str(raised.value).startswith(message)
    assert redis.keys() == []


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        *(("xp_gained", wrong) for wrong in (-1, float("nan"), 5.0, "5", True, 2**31)),
        *(("user_id", wrong) for wrong in (0, "one", 2**63)),
        ("specialization", "no spaces"),
        *(("reason", wrong) for wrong in ("a\0b", "r" * 501)),
    ],
)
def test_command_that_cannot_be_built_names_the_field(
    producer: Producer, redis: Redis, field: str, wrong: object
) -> None:
    given: dict[str, Any] = {"user_id": 1, "specialization": "PLAYER", "xp_gained": 1} | {field: wrong}
    with pytest.raises(InvalidCommand) as raised:
        producer.level_up(**given)
    assert str(raised.value).startswith(f"{field}: ")
    assert "\n" not in str(raised.value)
    assert redis.keys() == []


def test_object_that_is_no_command_is_refused(producer: Producer, redis: Redis) -> None:
    with pytest.raises(InvalidCommand, match=r"command: expected LevelUp, .*, Adjust or Reset, got {'user_id': 1}"):
        producer.send({"user_id": 1})  # type: ignore[arg-type]
    assert redis.keys() == []


def test_lane_key_of_another_type_refuses_that_lane_only(producer: Producer, redis: Redis) -> None:
    redis.set(KEYS.lane(PLAYER, 1), "no list")
    handles = producer.send_many([level_up(1), level_up(2)])
    assert isinstance(handles[0].error, QueueUnavailable)
    assert handles[1].error is None


def test_nothing_sent_returns_no_handles(producer: Producer) -> None:
    assert producer.send_many([]) == []


# Redis that cannot be reached


@pytest.mark.parametrize("password", [":secret@{host}/0", "{host}/0?password=secret"])
def test_unreachable_redis_is_named_and_its_password_hidden(password: str) -> None:
    host = f"127.0.0.1:{free_port()}"
    with Producer.from_url("redis://" + password.format(host=host)) as producer:
        with pytest.raises(QueueUnavailable) as raised:
            producer.send(level_up())
        assert not isinstance(raised.value, SendUnknown)
        message = str(raised.value)
        assert message.startswith("LEVELQ_REDIS_URL redis://") and host in message
        assert "secret" not in message and "\n" not in message
        handles = producer.send_many([level_up(), level_up(2)])
        assert [type(h.error) for h in handles] == [QueueUnavailable] * 2
        with pytest.raises(QueueUnavailable):
            producer.handle(new_command_id()).result(timeout=0.1)


def test_wrong_password_is_reported_without_the_password(servers: Servers, redis: Redis) -> None:
    redis.acl_setuser("levelq", enabled=True, passwords=["+right"], keys=["*"], commands=["+@all"])
    try:
        url = servers.valkey.url.replace("unix://", "unix://levelq:{}@")
        with Producer.from_url(url.format("right")) as producer:
            producer.send(level_up())
        with Producer.from_url(url.format("wrong")) as producer, pytest.raises(QueueUnavailable) as raised:
            producer.send(level_up())
        assert str(raised.value).startswith("LEVELQ_REDIS_URL unix://levelq:***@/")
        assert "WRONGPASS" in str(raised.value) or "invalid username-password" in str(raised.value)
        assert "wrong@" not in str(raised.value)
    finally:
        redis.acl_deluser("levelq")


@pytest.fixture
def proxy(servers: Servers, redis: Redis) -> Iterator[Proxy]:
    redis.script_load(load("push").text)  # so that the first push is the only one
    with Proxy(servers.valkey.url.removeprefix("unix://")) as proxy:
        yield proxy


def cut_after(queued: int, proxy: Proxy, worker: Runtime, send: Callable[[Any], Any], commands: Any) -> Any:
    """What `send` returns or raises if its connection is cut once this number of commands is queued."""
    proxy.trap(Fault.DROP_REPLY, load("push").sha.encode())
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(send, commands)
        until(lambda: waiting(worker) == queued, what="the push")
        proxy.reset()
        return sending.result()


def test_connection_cut_in_the_middle_is_unknown_and_sending_again_is_safe(
    proxy: Proxy, producers: Callable[..., Producer], worker: Runtime, own_engine: Engine
) -> None:
    command = level_up(xp=1000)
    producer = producers(url=f"redis://127.0.0.1:{proxy.port}/0")
    with pytest.raises(SendUnknown, match=r"it may be queued: sending it again with the same id is safe") as raised:
        cut_after(1, proxy, worker, producer.send, command)
    assert isinstance(raised.value, QueueUnavailable) and isinstance(raised.value, OutcomeUnknown)
    assert waiting(worker) == 1  # it was queued, and not repeated
    handle = producer.send(command)
    drain_all(worker, "PLAYER")
    assert (handle.result().status, handle.result().duplicate) == ("applied", True)
    assert experience(own_engine) == {1: 1000}


def test_cut_leaves_the_sent_unknown_and_the_rest_unavailable(
    proxy: Proxy, producers: Callable[..., Producer], worker: Runtime
) -> None:
    producer = producers(url=f"redis://127.0.0.1:{proxy.port}/0")
    commands = [level_up(1 + n % 50) for n in range(WINDOW + 10)]
    handles = cut_after(WINDOW, proxy, worker, producer.send_many, commands)
    assert {type(handle.error) for handle in handles[:WINDOW]} == {SendUnknown}
    assert {type(handle.error) for handle in handles[WINDOW:]} == {QueueUnavailable}
    assert waiting(worker) == WINDOW


def test_server_that_closes_at_once_queued_nothing() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        ThreadPoolExecutor(1) as pool,
        Producer.from_url(f"redis://127.0.0.1:{server.getsockname()[1]}/0") as producer,
    ):
        pool.submit(lambda: server.accept()[0].close())  # noqa: PLW0108 - accepted in the thread
        with pytest.raises(QueueUnavailable):
            producer.send(level_up())
