"""Durability on request: what each level survives, what is reported when it is not reached, and what is refused.

The tests of the first part are the cells of the table in docs/explanation/guarantees.md.
"""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from uuid import UUID

import pytest
from rq import Queue
from rq.serializers import JSONSerializer
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from levelq.cli.app import run
from levelq.embedded import Servers
from levelq.server_account import temporary_folder
from levelq_core import ConfigurationError, LevelUp, Settings
from levelq_core.database.engine import engine_for
from levelq_core.database.migrations import upgrade
from levelq_core.lanes.client import Lanes
from levelq_core.lanes.shard_layout import Layout
from levelq_core.lanes.wakeups import Waker
from levelq_producer import AsyncProducer, LaneFull, NotDurable, Outbox, Producer, QueueUnavailable, SendUnknown
from levelq_producer.durability import LEVELS
from levelq_worker.relay.outbox_rows import OutboxRows
from levelq_worker.relay.partition import PartitionRelay
from tests.support.coupler import drain_all, ledger, runtime
from tests.support.fixtures.keys import KEYS, PLAYER
from tests.support.fixtures.proxy import Fault, Proxy
from tests.support.fixtures.valkeys import Node, Valkeys
from tests.support.fixtures.waiting import until
from tests.support.outbox import level_up, numbers_in
from tests.support.producing import blocked

PATIENT: dict[str, Any] = {"redis_seconds": 9, "durable_seconds": 8}  # reached on the busiest machine
HASTY: dict[str, Any] = {"durable_seconds": 0.1}  # for what is never reached
Producers = Callable[..., Producer]


def lane(node: Node, user_id: int = 1) -> list[int]:
    return numbers_in(node.client, user_id)


@contextmanager
def own_valkeys() -> Iterator[Valkeys]:
    with temporary_folder("levelq-tests-") as folder, ExitStack() as stack:
        yield Valkeys(folder, stack)


@pytest.fixture
def valkeys() -> Iterator[Valkeys]:
    with own_valkeys() as made:
        yield made


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Node, Node]]:
    with own_valkeys() as made:
        primary = made.start()
        (replica,) = made.replicas_of(primary)
        yield primary, replica


@pytest.fixture
def primary(pair: tuple[Node, Node]) -> Node:
    """A primary that flushes always: empty, and to be left as it is."""
    pair[0].client.flushall()
    return pair[0]


@pytest.fixture
def replica(pair: tuple[Node, Node]) -> Node:
    return pair[1]


@pytest.fixture
def producers() -> Iterator[Producers]:
    """Make producers on a server, or on a URL."""
    with ExitStack() as stack:

        def make(to: Node | str, **given: Any) -> Producer:
            url = to.url if isinstance(to, Node) else to
            return stack.enter_context(Producer.from_url(url, **given))

        yield make


# What each level survives


def end(node: Node, how: str, flushed: int) -> None:
    """End a server in one of three ways and start it again. `flushed`: what its disk had when the power went."""
    node.stop() if how == "clean" else node.kill()
    if how == "power cut":
        with node.log_file.open("rb+") as log:
            log.truncate(flushed)
    node.restart()


@pytest.mark.parametrize("how", ["clean", "SIGKILL", "power cut"])
def test_restart_keeps_what_was_sent_as_fsync_or_replicated(valkeys: Valkeys, producers: Producers, how: str) -> None:
    primary = valkeys.start()
    valkeys.replicas_of(primary)
    producer = producers(primary, **PATIENT)
    producer.send(level_up(1), durability="fsync")
    producer.send(level_up(2), durability="replicated")
    flushed = primary.log_file.stat().st_size
    producer.send(level_up(3))
    end(primary, how, flushed)
    assert lane(primary) == ([1, 2] if how == "power cut" else [1, 2, 3])


@pytest.mark.parametrize("how", ["clean", "power cut"])
def test_restart_keeps_what_was_sent_as_memory_once_it_is_on_disk(
    valkeys: Valkeys, producers: Producers, how: str
) -> None:
    node = valkeys.start("--appendfsync", "everysec")
    producer = producers(node)
    producer.send(level_up(1), durability="memory")
    flushed = node.log_file.stat().st_size
    producer.send(level_up(2), durability="memory")
    end(node, how, flushed)
    assert lane(node) == ([1] if how == "power cut" else [1, 2])


def test_loss_of_the_host_keeps_what_a_promoted_replica_had_confirmed(valkeys: Valkeys, producers: Producers) -> None:
    primary = valkeys.start()
    older, newer = valkeys.replicas_of(primary, 2)
    assert older.link is not None and newer.link is not None
    producer = producers(primary, **PATIENT)
    producer.send(level_up(1), durability="replicated")
    until(lambda: lane(older) == [1], what="the other replica")
    older.link.lose("replies")
    producer.send(level_up(2), durability="replicated")
    newer.link.lose("replies")
    producer.send(level_up(3), durability="fsync")
    producer.send(level_up(4), durability="memory")
    primary.kill()
    for replica in (older, newer):
        replica.promote()
    assert (lane(older), lane(newer)) == ([1], [1, 2])


def test_flushall_removes_every_level_but_not_what_the_outbox_has(
    primary: Node, replica: Node, producers: Producers, settings: Settings, own_engine: Engine
) -> None:
    producer = producers(primary, **PATIENT)
    rows = OutboxRows(own_engine)
    relay = PartitionRelay(
        PLAYER, Layout(), Lanes(primary.client, settings), rows, Waker(primary.client, primary.client, KEYS), settings
    )
    commit_to_outbox(own_engine, settings, level_up(1))
    assert relay.poll() == 1
    for number, level in enumerate(LEVELS, 2):
        producer.send(level_up(number), durability=level)
    assert lane(primary) == [1, 2, 3, 4]
    primary.client.flushall()
    until(lambda: lane(replica) == [], what="the replica")
    relay.poll()
    assert lane(primary) == [1]


def commit_to_outbox(engine: Engine, settings: Settings, *commands: LevelUp) -> None:
    with Session(engine) as session:
        Outbox(session, settings=settings).send_many(commands)
        session.commit()


def test_death_of_postgresql_loses_nothing_at_any_level(primary: Node, producers: Producers) -> None:
    with temporary_folder("levelq-tests-") as folder, Servers(folder) as servers:
        settings = Settings.load(redis_url=primary.url, database_url=servers.postgres.url, **PATIENT)
        engine = engine_for(settings)
        upgrade(engine)
        commit_to_outbox(engine, settings, level_up(4))
        producer = producers(primary, **PATIENT)
        for number, level in enumerate(LEVELS, 1):
            producer.send(level_up(number), durability=level)
        engine.dispose()
        servers.postgres.kill()
        servers.postgres.start()
        with runtime(settings) as worker:
            relay = PartitionRelay(PLAYER, Layout(), worker.lanes, OutboxRows(engine), worker.waker, settings)
            assert relay.poll() == 1
            drain_all(worker, "PLAYER")
        assert [row["command_id"].int for row in ledger(engine)] == [1, 2, 3, 4]
        engine.dispose()


# What follows a push


def asked(node: Node) -> set[str]:
    """The commands a server was given since its statistics were reset."""
    stats = node.client.info("commandstats")
    return {name.removeprefix("cmdstat_") for name in stats} & {"waitaof", "wait", "config|get", "evalsha"}


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        ("memory", {"evalsha"}),
        ("fsync", {"evalsha", "waitaof", "config|get"}),
        ("replicated", {"evalsha", "waitaof", "wait", "config|get"}),
    ],
)
def test_level_sends_the_commands_it_needs_and_no_others(
    primary: Node, producers: Producers, level: Any, expected: Any
) -> None:
    producer = producers(primary, **PATIENT)
    producer.send(level_up(1), durability=level)
    primary.client.config_resetstat()
    producer.send(level_up(2), durability=level)
    assert asked(primary) == expected
    calls = primary.client.info("commandstats")
    assert all(calls[f"cmdstat_{name}"]["calls"] == 1 for name in expected)  # the probe is made once


def test_setting_is_the_default_and_a_send_may_choose(primary: Node, replica: Node, producers: Producers) -> None:
    producer = producers(primary, durability="replicated", **HASTY)
    with replica.frozen():
        with pytest.raises(NotDurable):
            producer.send(level_up(1))
        assert producer.send(level_up(2), durability="memory").error is None
        assert producer.level_up(1, "PLAYER", 5, durability="fsync").error is None
        assert producer.set_level(1, "PLAYER", 2, durability="fsync").error is None
        assert producer.sync(1, "PLAYER", durability="fsync").error is None
        for refused in (producer.level_up, producer.set_level):
            with pytest.raises(NotDurable):
                refused(1, "PLAYER", 1)


def test_unknown_level_is_refused_before_anything_is_sent(primary: Node, producers: Producers) -> None:
    with pytest.raises(ConfigurationError, match=r"^durability: expected one of memory, fsync, replicated, got 'disk'"):
        producers(primary).send(level_up(1), durability="disk")  # type: ignore[arg-type]
    assert lane(primary) == []


# What is not reached in time


def test_late_replica_is_reported_and_the_command_takes_effect(
    primary: Node, replica: Node, producers: Producers, settings: Settings, own_engine: Engine
) -> None:
    producer = producers(primary, **HASTY)
    with replica.frozen(), pytest.raises(NotDurable) as raised:
        producer.send(level_up(1), durability="replicated")
    error = raised.value
    assert (error.wanted, error.numlocal, error.numreplicas, error.milliseconds) == ("replicated", 1, 0, 100)
    assert str(error) == (
        f"command {UUID(int=1)} is queued, but not as durably as asked (replicated): within 100 ms it reached "
        "1 of 1 disk and 0 replicas; sending it again with the same id is safe"
    )
    assert lane(primary) == [1]
    wakes = Queue("levelq.PLAYER", connection=primary.client, serializer=JSONSerializer)
    assert wakes.count == 1  # or it would wait for a sweep
    again = producers(primary, **PATIENT).send(level_up(1), durability="replicated")
    with runtime(settings.model_copy(update={"redis_url": primary.url})) as worker:
        drain_all(worker, "PLAYER")
    assert error.command_id is not None
    assert (producer.handle(error.command_id).result().to_level, again.result().duplicate) == (1, True)
    assert [row["xp"] for row in ledger(own_engine)] == [10]


def test_each_handle_of_many_has_the_error_and_its_outcome(
    primary: Node, replica: Node, producers: Producers, settings: Settings
) -> None:
    producer = producers(primary, lane_limit=2, **HASTY)
    with replica.frozen():
        handles = producer.send_many([level_up(n) for n in (1, 2, 3)], reply=True, durability="replicated")
    assert [type(handle.error) for handle in handles] == [NotDurable, NotDurable, LaneFull]
    assert [handle.error.command_id for handle in handles[:2]] == [UUID(int=1), UUID(int=2)]  # type: ignore[union-attr]
    with runtime(settings.model_copy(update={"redis_url": primary.url})) as worker:
        drain_all(worker, "PLAYER")
    assert [handle.result().status for handle in handles[:2]] == ["applied", "applied"]
    with pytest.raises(LaneFull):
        handles[2].result()


def test_disk_that_is_not_flushed_is_reported(valkeys: Valkeys, producers: Producers) -> None:
    """With this option a child that saves keeps even `always` from flushing."""
    node = valkeys.start("--no-appendfsync-on-rewrite", "yes", "--rdb-key-save-delay", "10000000")
    node.client.set("kept", 1)
    node.client.bgsave()
    with pytest.raises(NotDurable) as raised:
        producers(node, **HASTY).send(level_up(1), durability="fsync")
    assert (raised.value.wanted, raised.value.numlocal) == ("fsync", 0)
    assert "(fsync): within 100 ms it reached 0 of 1 disk; sending" in str(raised.value)
    node.client.execute_command("BGSAVE", "CANCEL")
    assert producers(node, **PATIENT).send(level_up(1), durability="fsync").error is None
    assert lane(node) == [1, 1]


def test_wait_is_for_the_push_and_not_for_an_earlier_write_of_its_connection(
    primary: Node, replica: Node, producers: Producers
) -> None:
    """The server has no scripts, so the push is sent a second time: the replies behind the first one are void."""
    producer = producers(primary, **HASTY)
    primary.client.script_flush()
    with replica.frozen():
        for number in (1, 2):
            with pytest.raises(NotDurable):
                producer.send(level_up(number), durability="replicated")
    assert lane(primary) == [1, 2]


def test_primary_demoted_during_the_wait_has_confirmed_nothing(valkeys: Valkeys, producers: Producers) -> None:
    primary = valkeys.start()
    (replica,) = valkeys.replicas_of(primary)
    producer = producers(primary, **PATIENT)
    sent: list[Exception | None] = []

    def send() -> None:
        sent.extend(handle.error for handle in producer.send_many([level_up(1)], durability="replicated"))

    with replica.frozen():
        thread = threading.Thread(target=send)
        thread.start()
        until(lambda: blocked(primary.client), what="the wait")
        primary.client.execute_command("REPLICAOF", "127.0.0.1", "1")
        thread.join()
    assert [type(error) for error in sent] == [SendUnknown]


@pytest.mark.parametrize("fault", [Fault.DROP_REPLY, Fault.RESET_REPLY])
def test_connection_lost_during_the_wait_leaves_the_command_unknown(
    primary: Node, producers: Producers, fault: Fault
) -> None:
    with Proxy(primary.socket) as proxy:
        producer = producers(f"redis://127.0.0.1:{proxy.port}/0", redis_seconds=0.5)
        producer.send(level_up(1), durability="fsync")
        proxy.trap(fault, b"WAITAOF")
        with pytest.raises(SendUnknown):
            producer.send(level_up(2), durability="fsync")
        assert producer.send(level_up(2), durability="fsync").error is None
    assert lane(primary) == [1, 2, 2]


# What is refused


CANNOT: dict[str, tuple[tuple[str, ...], str]] = {
    "everysec": (("--appendfsync", "everysec"), "it takes appendfsync always, and it is everysec"),
    "no AOF": (("--appendonly", "no"), "with appendonly yes"),
    "an old Redis": (("--rename-command", "WAITAOF", ""), "it takes Redis 7.2 or later"),
    "a hidden configuration": (("--rename-command", "CONFIG", ""), "LEVELQ_APPENDFSYNC=always says that it is"),
}


@pytest.mark.parametrize("level", ["fsync", "replicated"])
@pytest.mark.parametrize("why", CANNOT)
def test_level_that_the_server_cannot_give_is_refused_before_anything_is_sent(
    valkeys: Valkeys, producers: Producers, why: str, level: Any
) -> None:
    options, expected = CANNOT[why]
    node = valkeys.start(*options)
    producer = producers(node)
    with pytest.raises(ConfigurationError) as raised:
        producer.send(level_up(1), durability=level)
    assert str(raised.value).startswith(f"LEVELQ_REDIS_URL {node.url}: nothing was queued: durability {level} is not")
    assert expected in str(raised.value)
    handles = producer.send_many([level_up(1), level_up(2)], durability=level)
    assert [type(handle.error) for handle in handles] == [ConfigurationError] * 2
    assert lane(node) == []
    assert producer.send(level_up(3), durability="memory").error is None


def test_without_a_replica_nothing_is_sent_until_there_is_one(valkeys: Valkeys, producers: Producers) -> None:
    node = valkeys.start()
    producer = producers(node, **HASTY)
    none = r"nothing was queued: durability replicated, and no replica is connected"
    with pytest.raises(QueueUnavailable, match=none):
        producer.send(level_up(1), durability="replicated")
    assert lane(node) == []
    (replica,) = valkeys.replicas_of(node)
    with replica.frozen(), pytest.raises(NotDurable):  # it is there, and late
        producer.send(level_up(2), durability="replicated")
    replica.kill()
    until(lambda: node.client.info("replication")["connected_slaves"] == 0, what="the replica's end")
    with pytest.raises(QueueUnavailable, match=none):
        producer.send(level_up(3), durability="replicated")
    assert lane(node) == [2]


def test_replica_gives_no_durability(replica: Node, producers: Producers) -> None:
    with pytest.raises(ConfigurationError, match=r"WAITAOF cannot be used with replica"):
        producers(replica).send(level_up(1), durability="fsync")


def test_configuration_that_may_not_be_read_must_be_set(primary: Node, producers: Producers) -> None:
    primary.client.acl_setuser("app", enabled=True, nopass=True, keys=["*"], commands=["+@all", "-config"])
    try:
        url = primary.url.replace("unix://", "unix://app:any@")
        with pytest.raises(ConfigurationError, match=r"its appendfsync cannot be read \(.*LEVELQ_APPENDFSYNC=always"):
            producers(url).send(level_up(1), durability="fsync")
        patient = producers(url, appendfsync="always", **PATIENT)
        assert patient.send(level_up(2), durability="replicated").error is None
    finally:
        primary.client.acl_deluser("app")
    assert lane(primary) == [2]


def test_configuration_that_can_be_read_outranks_the_setting(valkeys: Valkeys, producers: Producers) -> None:
    node = valkeys.start("--appendfsync", "everysec")
    with pytest.raises(ConfigurationError, match="and it is everysec"):
        producers(node, appendfsync="always").send(level_up(1), durability="fsync")


def test_server_that_comes_back_with_another_configuration_is_noticed(valkeys: Valkeys, producers: Producers) -> None:
    node = valkeys.start()
    producer = producers(node, **PATIENT)
    producer.send(level_up(1), durability="fsync")
    node.kill()
    node.restart("--appendfsync", "everysec")
    with pytest.raises(NotDurable, match=r"it reached 1 of 1 disk \(it takes appendfsync always, and it is everysec\)"):
        producer.send(level_up(2), durability="fsync")
    with pytest.raises(ConfigurationError, match="nothing was queued"):
        producer.send(level_up(3), durability="fsync")
    assert lane(node) == [1, 2]
    node.client.config_set("appendfsync", "always")
    assert producer.send(level_up(2), durability="fsync").error is None


# On asyncio


async def test_levels_work_on_asyncio(primary: Node, replica: Node) -> None:
    async with AsyncProducer.from_url(primary.url, **PATIENT) as producer:
        await producer.send(level_up(1), durability="replicated")
        await producer.level_up(2, "PLAYER", 1, durability="fsync")
        await producer.set_level(2, "PLAYER", 1, durability="fsync")
        await producer.sync(2, "PLAYER", durability="fsync")
    async with AsyncProducer.from_url(primary.url, durability="replicated", **HASTY) as producer:
        with replica.frozen():
            with pytest.raises(NotDurable) as raised:
                await producer.send(level_up(3))
            (handle,) = await producer.send_many([level_up(4)])
    assert (raised.value.numlocal, raised.value.numreplicas) == (1, 0)
    assert isinstance(handle.error, NotDurable)
    assert lane(primary) == [1, 3, 4]
    async with AsyncProducer.from_url(replica.url) as producer:
        with pytest.raises(ConfigurationError, match="WAITAOF cannot be used with replica"):
            await producer.send(level_up(5), durability="fsync")


async def test_sends_that_wait_for_a_replica_share_one_wait(primary: Node, replica: Node) -> None:
    async with AsyncProducer.from_url(primary.url, **PATIENT) as producer:
        await producer.send(level_up(1_000), durability="replicated")
        primary.client.config_resetstat()
        with replica.frozen():
            sends = [asyncio.create_task(producer.send(level_up(n), durability="replicated")) for n in range(1, 151)]
            await asyncio.to_thread(until, lambda: blocked(primary.client) == 1, what="the first to wait")
        handles = await asyncio.gather(*sends)
    assert [handle.error for handle in handles] == [None] * 150
    assert primary.client.info("commandstats")["cmdstat_wait"]["calls"] == 2  # the first send's, and that of all others


async def test_sends_of_several_levels_at_once_share_the_trips_of_their_level(primary: Node, replica: Node) -> None:
    levels: list[Any] = ["memory", "fsync", "replicated"]
    async with AsyncProducer.from_url(primary.url, **PATIENT) as producer:
        for level in levels:
            await producer.send(level_up(1_000), durability=level)
        primary.client.config_resetstat()
        await asyncio.gather(*(producer.send(level_up(n), durability=levels[n % 3]) for n in range(1, 91)))
    stats: Any = primary.client.info("commandstats")
    names = ("evalsha", "waitaof", "wait")
    assert [stats[f"cmdstat_{name}"]["calls"] for name in names] == [6, 4, 2]  # the first of each level goes alone
    assert sorted(lane(primary)) == [*range(1, 91), 1_000, 1_000, 1_000]


async def test_send_cancelled_during_its_wait_leaves_no_reply_to_others(primary: Node, replica: Node) -> None:
    async with AsyncProducer.from_url(primary.url, **PATIENT) as producer:
        # A new connection's probe waits, too, before anything is pushed: that wait is not meant here.
        await producer.send(level_up(1_000, user_id=3), durability="replicated")
        with replica.frozen():
            send = asyncio.create_task(producer.send(level_up(1), durability="replicated"))
            await asyncio.to_thread(until, lambda: blocked(primary.client), what="the wait")
            send.cancel()
            with pytest.raises(asyncio.CancelledError):
                await send
        handle = await producer.send(level_up(2, user_id=2), durability="replicated")
        assert handle.error is None
    assert (lane(primary, 1), lane(primary, 2)) == ([1], [2])


# From the shell


def send(monkeypatch: pytest.MonkeyPatch, node: Node, *options: str) -> int:
    monkeypatch.setenv("LEVELQ_REDIS_URL", node.url)
    return run(["send", "level-up", "1", "PLAYER", "--xp", "5", "--no-wait", *options])


def test_levelq_send_takes_a_durability(
    primary: Node, replica: Node, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert send(monkeypatch, primary, "--durability", "fsync") == 0
    monkeypatch.setenv("LEVELQ_DURABLE_SECONDS", "0.1")
    with replica.frozen():
        assert send(monkeypatch, primary, "--durability", "replicated") == 1
    printed = capsys.readouterr()
    assert printed.out.count("queued  ") == 2
    assert printed.err.startswith("not durable: command ") and printed.err.count("\n") == 1
    assert send(monkeypatch, replica, "--durability", "fsync") == 2
    assert "WAITAOF cannot be used with replica" in capsys.readouterr().err
    assert len(lane(primary)) == 2
