"""Lanes on a real cluster of three Valkeys: each partition on the server of its slot, and the loss of a server."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from uuid import uuid4

import pytest
from redis import Redis
from redis.exceptions import RedisError
from sqlalchemy import Engine

from levelq.cli.app import run as levelq
from levelq.embedded import Servers
from levelq_core import LevelUp, Settings
from levelq_core.errors import ConfigurationError, LevelqError, QueueUnavailable, SendUnknown
from levelq_core.keys import Partition
from levelq_core.lanes.client import Lanes
from levelq_core.lanes.partition_directory import partitions
from levelq_core.lanes.shard_layout import Layout
from levelq_core.operations.readings.status import status as look
from levelq_core.operations.readings.trends import read_trends, trends
from levelq_core.operations.readings.workers import workers
from levelq_core.operations.verify import Options, verify
from levelq_core.redis_client.pool import connect
from levelq_core.redis_client.topology import servers_of
from levelq_producer import AsyncProducer, Producer
from levelq_worker.draining.context import Runtime
from levelq_worker.draining.drain import Drain
from levelq_worker.relay.resharding import begin
from levelq_worker.relay.thread import Relay
from levelq_worker.reporter import Reporter
from levelq_worker.support.preflight import preflight
from levelq_worker.sweeper import Sweeper
from tests.support.coupler import runtime
from tests.support.fixtures.clusters import LoopbackValkey, ValkeyCluster
from tests.support.fixtures.keys import KEYS
from tests.support.fixtures.waiting import until
from tests.support.isolation import experience, level_up

SHARDS = 8
PLAYERS = [Partition("PLAYER", 1, shard) for shard in range(SHARDS)]


def on(cluster: ValkeyCluster, servers: Servers, database_url: str) -> Settings:
    return Settings.load(
        redis_url=cluster.url,
        rq_url=servers.valkey.url,
        database_url=database_url,
        shards=SHARDS,
        claim_seconds=2,
        redis_seconds=1.5,  # a busy machine may take half a second
    )


@pytest.fixture
def settings(cluster: ValkeyCluster, servers: Servers, own_database_url: str) -> Settings:
    return on(cluster, servers, own_database_url)


@pytest.fixture
def own(tmp_path: Path) -> Iterator[ValkeyCluster]:
    """A cluster that a test may break."""
    with ExitStack() as stack:
        yield ValkeyCluster(tmp_path, stack)


@pytest.fixture
def own_settings(own: ValkeyCluster, servers: Servers, redis: Redis, own_database_url: str) -> Settings:
    return on(own, servers, own_database_url)


def drained(worker: Runtime) -> bool:
    names = list(worker.settings.tracks)
    for partition in partitions(worker.lanes, names):
        Drain(worker, partition).run()
    found = [worker.lanes.status(partition) for partition in partitions(worker.lanes, names)]
    return not any(status.ready or status.claimed for status in found)


def drain_all(worker: Runtime) -> None:
    until(lambda: drained(worker), what="the lanes to be empty")


def test_commands_are_spread_over_the_servers_and_return_their_outcomes(
    cluster: ValkeyCluster, settings: Settings, worker: Runtime, own_engine: Engine
) -> None:
    with Producer(settings) as producer:
        handles = producer.send_many([level_up(user, xp) for xp in (10, 20) for user in range(1, 201)], reply=True)
        assert not any(handle.error for handle in handles)
        counts = [sum(len(node.client.keys("levelq:{PLAYER:*lane:*")) > 0 for node in cluster.nodes)]
        assert counts == [3]
        drain_all(worker)
        assert {handle.result().status for handle in handles} == {"applied"}
    assert experience(own_engine) == dict.fromkeys(range(1, 201), 30)
    report = verify(own_engine, worker.lanes.redis, settings, Options(at_rest=True))
    assert report.violations == 0
    assert cluster.keys("levelq:{*lane:*") == []


async def test_commands_of_asyncio_return_their_outcomes(
    settings: Settings, worker: Runtime, own_engine: Engine
) -> None:
    async with AsyncProducer(settings) as producer:
        handles = await producer.send_many([level_up(user) for user in range(1, 101)], reply=True)
        drain_all(worker)
        assert {(await handle.result()).status for handle in handles} == {"applied"}
    assert experience(own_engine) == dict.fromkeys(range(1, 101), 10)


def test_verify_reads_the_lanes_of_every_server(settings: Settings, worker: Runtime, own_engine: Engine) -> None:
    with Producer(settings) as producer:
        producer.send_many([level_up(user) for user in range(1, 61)])
    found = verify(own_engine, worker.lanes.redis, settings, Options(at_rest=True))
    assert found.violations == 60  # each lane holds something


def test_moved_slot_is_followed(
    cluster: ValkeyCluster, settings: Settings, worker: Runtime, own_engine: Engine
) -> None:
    """The producer, a claim under way, its acknowledgement, the registry and a reply: each is answered MOVED once."""
    with Producer(settings) as producer:
        producer.send_many([level_up(user) for user in range(1, 101)])
        partition = PLAYERS[3]
        key = KEYS.of(partition, "ready")
        old = cluster.holder(key)
        to = next(node for node in cluster.nodes if node is not old)
        claim = worker.lanes.claim(partition, "drain", "token", 1_000)
        held = [(user, 0, b"") for user, _ in claim.lanes]
        assert held
        cluster.move(key, to)
        try:
            assert worker.lanes.ack(partition, "token", held) == [0] * len(held)
            assert not any(handle.error for handle in producer.send_many([level_up(user) for user in range(1, 101)]))
            there = cluster.holder(KEYS.registry)
            cluster.move(KEYS.registry, next(node for node in cluster.nodes if node is not there))
            drain_all(worker)
        finally:
            cluster.move(key, old)
    assert experience(own_engine) == dict.fromkeys(range(1, 101), 20)


async def test_moved_slot_is_followed_by_asyncio(cluster: ValkeyCluster, settings: Settings) -> None:
    async with AsyncProducer(settings) as producer:
        await producer.send_many([level_up(user) for user in range(1, 101)])
        key = KEYS.of(PLAYERS[5], "ready")
        old = cluster.holder(key)
        cluster.move(key, next(node for node in cluster.nodes if node is not old))
        try:
            handles = await producer.send_many([level_up(user) for user in range(1, 101)])
        finally:
            cluster.move(key, old)
        assert not any(handle.error for handle in handles)


def test_lost_server_stops_only_its_own_lanes_and_returns_with_its_data(
    own: ValkeyCluster, own_settings: Settings, own_engine: Engine
) -> None:
    with Producer(own_settings) as producer, runtime(own_settings) as worker:
        users = range(1, 201)
        assert not any(handle.error for handle in producer.send_many([level_up(user) for user in users]))
        lost = own.holder(KEYS.of(PLAYERS[0], "ready"))
        gone = {p for p in PLAYERS if own.holder(KEYS.of(p, "ready")) is lost}
        assert gone != set(PLAYERS)
        lost.kill()
        commands = [level_up(user) for user in users]
        errors = [error_of(producer, command) for command in commands]
        for command, error in zip(commands, errors, strict=True):
            there = Partition.of("PLAYER", command.user_id, SHARDS) not in gone
            assert error is None if there else isinstance(error, QueueUnavailable), error
        for partition in set(PLAYERS) - gone:
            until(lambda partition=partition: drained_one(worker, partition), what=f"{partition}")  # type: ignore[misc]
        alive = {user for user in users if Partition.of("PLAYER", user, SHARDS) not in gone}
        assert experience(own_engine) == dict.fromkeys(alive, 20)
        lost.start()
        until(own.whole, what="the cluster")
        again = [command for command, error in zip(commands, errors, strict=True) if error]
        until(lambda: not any(handle.error for handle in producer.send_many(again)), what="the lost server")
        drain_all(worker)
        assert experience(own_engine) == dict.fromkeys(users, 20)


def error_of(producer: Producer, command: LevelUp) -> LevelqError | None:
    try:
        producer.send(command, reply=False)
    except LevelqError as error:
        return error
    return None


def drained_one(worker: Runtime, partition: Partition) -> bool:
    Drain(worker, partition).run()
    return worker.lanes.status(partition).ready == 0


def test_send_to_a_silent_server_is_unknown_after_its_timeout_and_delays_no_other(
    own: ValkeyCluster, own_settings: Settings
) -> None:
    with Producer(own_settings) as producer, ThreadPoolExecutor(1) as pool:
        producer.send_many([level_up(user) for user in range(1, 50)])
        holders = [own.holder(KEYS.of(Partition.of("PLAYER", user, SHARDS), "ready")) for user in range(1, 50)]
        other = next(user for user, holder in enumerate(holders, 1) if holder is not holders[0])
        with holders[0].frozen():
            silent = pool.submit(error_of, producer, level_up(1))
            assert error_of(producer, level_up(other)) is None
            assert not silent.done()
            assert isinstance(silent.result(), SendUnknown)


def test_sweeps_and_relays_go_on_without_the_registry(
    own: ValkeyCluster, own_settings: Settings, own_engine: Engine
) -> None:
    with runtime(own_settings) as worker, Producer(own_settings) as producer:
        sweeper, relay = Sweeper(own_settings, ["PLAYER"]), Relay(own_settings, ["PLAYER"])
        sweeper.sweep()
        assert relay.poll() == 0
        lost = own.holder(KEYS.registry)
        partition = next(p for p in PLAYERS if own.holder(KEYS.of(p, "ready")) is not lost)
        user = next(user for user in range(1, 1000) if Partition.of("PLAYER", user, SHARDS) == partition)
        producer.send(level_up(1))
        lost.kill()
        producer.send(level_up(user), reply=False)
        until(lambda: _sweeps(sweeper), what="a sweep without the registry")
        until(lambda: drained_one(worker, partition), what=f"{partition}")
        assert experience(own_engine)[user] == 10
        relay.release()


def _sweeps(sweeper: Sweeper) -> bool:
    try:
        sweeper.sweep()
    except LevelqError:
        return False
    except Exception as error:  # of the partitions that are away
        return "refused" in str(error) or "cluster" in str(error).lower()
    return True


def test_cluster_that_is_away_makes_every_handle_unavailable(own: ValkeyCluster, own_settings: Settings) -> None:
    for node in own.nodes:
        node.kill()
    with Producer(own_settings) as producer:
        handles = producer.send_many([level_up(user) for user in range(1, 30)])
        assert {type(handle.error) for handle in handles} == {QueueUnavailable}
        assert "redis+cluster://" in str(handles[0].error)


def test_new_client_works_while_any_one_server_is_away(own: ValkeyCluster) -> None:
    """redis-py's own client for clusters does not: see docs/decisions.md."""
    for node in own.nodes:
        node.kill()
        with connect(own.url, 1) as client:
            assert len(servers_of(client)) == len(own.nodes)
        node.start()
        until(own.whole, what="the cluster")


def test_durability_is_checked_on_every_server(cluster: ValkeyCluster, settings: Settings) -> None:
    with Producer(settings) as producer:
        handles = producer.send_many([level_up(user) for user in range(1, 50)], durability="fsync")
        assert not any(handle.error for handle in handles)
        cluster.nodes[1].client.config_set("appendfsync", "everysec")
        try:
            handles = producer.send_many([level_up(user) for user in range(1, 50)], durability="fsync")
            assert any(handle.error for handle in handles)
        finally:
            cluster.nodes[1].client.config_set("appendfsync", "always")


# Bad input


def refusal(**settings: str) -> str:
    with pytest.raises(ConfigurationError) as refused:
        preflight(Settings.load(**settings))
    (line,) = str(refused.value).splitlines()
    return line


def test_cluster_url_to_a_server_without_cluster_support_is_refused(
    tmp_path: Path, own_database_url: str, redis: Redis
) -> None:
    with LoopbackValkey(tmp_path / "alone") as alone:
        url = f"redis+cluster://127.0.0.1:{alone.port}"
        rq = f"redis://127.0.0.1:{alone.port}/1"
        line = refusal(redis_url=url, rq_url=rq, database_url=own_database_url)
        assert "LEVELQ_REDIS_URL" in line and "without cluster support" in line and str(alone.port) in line
        with Producer.from_url(url, rq_url=rq) as producer, pytest.raises(ConfigurationError) as refused:
            producer.level_up(1, "PLAYER", 5)
        assert "without cluster support" in str(refused.value)
        alone.close()


def test_url_of_one_server_to_a_cluster_is_refused(
    cluster: ValkeyCluster, servers: Servers, own_database_url: str
) -> None:
    url = f"redis://127.0.0.1:{cluster.nodes[0].port}/0"
    line = refusal(redis_url=url, rq_url=servers.valkey.url, database_url=own_database_url)
    assert "LEVELQ_REDIS_URL" in line and "redis+cluster://" in line
    layouts = cluster.holder(KEYS.shards)  # this one it can read there; most of the lanes are elsewhere
    layouts.client.hset(KEYS.shards, "PLAYER", f"1:{SHARDS}")
    url = f"redis://127.0.0.1:{layouts.port}/0"
    with Producer.from_url(url, rq_url=servers.valkey.url, shards=SHARDS) as producer:
        errors = [error_of(producer, level_up(n)) for n in range(1, 40)]
    messages = [str(error) for error in errors if error]
    assert messages and all("redis+cluster://" in line for line in messages)
    other = next(node for node in cluster.nodes if node is not layouts)
    with Producer.from_url(f"redis://127.0.0.1:{other.port}/0", rq_url=servers.valkey.url) as producer:
        assert "redis+cluster://" in str(error_of(producer, level_up(1)))


def test_rq_url_to_a_cluster_is_refused(cluster: ValkeyCluster, own_database_url: str) -> None:
    line = refusal(
        redis_url=cluster.url, rq_url=f"redis://127.0.0.1:{cluster.nodes[0].port}/0", database_url=own_database_url
    )
    assert "LEVELQ_RQ_URL" in line and "one server of a cluster" in line


@pytest.mark.parametrize(
    "given, expected",
    [
        ({"redis_url": "redis+cluster://a:1"}, "LEVELQ_RQ_URL: not set"),
        ({"redis_url": "redis+cluster://a:1", "rq_url": "redis+cluster://a:1"}, "LEVELQ_RQ_URL: expected one server"),
        ({"redis_url": "redis+cluster://a:1/3", "rq_url": "redis://b"}, "LEVELQ_REDIS_URL: expected no path"),
        ({"redis_url": "redis+cluster://", "rq_url": "redis://b"}, "LEVELQ_REDIS_URL: expected host:port"),
        ({"redis_url": "redis+cluster://a:1,b:x", "rq_url": "redis://b"}, "LEVELQ_REDIS_URL: expected host:port"),
        ({"redis_url": "redis+sentinel://a:1"}, "LEVELQ_REDIS_URL: expected /name"),
        ({"redis_url": "redis+sentinel://a:1/name/x"}, "LEVELQ_REDIS_URL: expected /name"),
        ({"shards": 0}, "LEVELQ_SHARDS"),
    ],
)
def test_settings_that_cannot_work_are_refused(given: dict[str, str], expected: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        Settings.load(**given)
    assert expected in str(refused.value)


def test_pipeline_over_several_servers_is_refused(cluster: ValkeyCluster) -> None:
    with connect(cluster.url, 1) as client, pytest.raises(NotImplementedError, match="at\\(key\\)"):
        client.pipeline()


def test_push_to_every_server_has_a_result_for_each_partition(cluster: ValkeyCluster, settings: Settings) -> None:
    with connect(cluster.url, 1) as client:
        lanes = Lanes(client, settings)
        answers = lanes.push([(partition, [(1, [uuid4().bytes * 4])]) for partition in PLAYERS])
        assert [getattr(answer, "lanes", answer) for answer in answers] == [[(1, "")]] * SHARDS
        assert all(lanes.empty(partition, [1, 2]) == [2] for partition in PLAYERS)


def test_sweep_goes_on_behind_a_server_that_is_away(own: ValkeyCluster, own_settings: Settings) -> None:
    with runtime(own_settings) as worker, Producer(own_settings) as producer:
        producer.send_many([level_up(user) for user in range(1, 200)])
        sweeper = Sweeper(own_settings, ["PLAYER"])
        sweeper.sweep()
        lost = own.holder(KEYS.of(PLAYERS[0], "ready"))
        later = next(p for p in PLAYERS if own.holder(KEYS.of(p, "ready")) is not lost)
        claim = worker.lanes.claim(later, "a worker that dies", "token", 10)
        assert claim.lanes
        lost.kill()
        until(lambda: swept(sweeper) and worker.lanes.status(later).claimed == 0, what="its claims to be returned")


def test_worker_on_a_cluster_reports_and_leaves(settings: Settings) -> None:
    with runtime(settings) as worker:
        reporter = Reporter(worker, ["PLAYER"])
        reporter.post()
        assert [found.pid for found in workers(settings).workers] == [os.getpid()]
        when_the_slot_is_over = round(1000 * trends(settings).at.timestamp()) + 20_000
        found = read_trends(worker.lanes.redis, settings, "1h", when_the_slot_is_over)
        assert any(point.waiting == 0 for point in found.points)
        reporter.stop()
        assert workers(settings).workers == ()


def swept(sweeper: Sweeper) -> bool:
    with pytest.raises(RedisError):
        sweeper.sweep()
    return True


def test_shards_are_not_changed_while_a_server_is_away(own: ValkeyCluster, own_settings: Settings) -> None:
    with Producer(own_settings) as producer, connect(own_settings.redis_url, 0.5) as client:
        producer.send_many([level_up(user) for user in range(1, 200)])
        lanes = Lanes(client, own_settings)
        lost = next(node for node in own.nodes if node is not own.holder(KEYS.shards))
        lost.kill()
        with pytest.raises(RedisError):
            begin(lanes, "PLAYER", 12)
        assert lanes.layouts(["PLAYER"])["PLAYER"] == Layout(1, SHARDS)


def test_queued_part_of_a_send_is_not_reported_unsent(
    cluster: ValkeyCluster, servers: Servers, settings: Settings
) -> None:
    """A URL of one server to a cluster: what of the lanes is there is queued, and only the rest is refused."""
    there = cluster.holder(KEYS.shards)
    there.client.hset(KEYS.shards, "PLAYER", f"1:{SHARDS}")
    with Producer.from_url(f"redis://127.0.0.1:{there.port}/0", rq_url=servers.valkey.url) as producer:
        handles = producer.send_many([level_up(user) for user in range(1, 101)])
    queued = {
        user
        for user in range(1, 101)
        if cluster.holder(KEYS.of(PLAYERS[shard_of(user)], "ready")) is there
        and there.client.llen(KEYS.lane(PLAYERS[shard_of(user)], user))
    }
    assert queued == {user for user, handle in zip(range(1, 101), handles, strict=True) if handle.error is None}
    assert 0 < len(queued) < 100


def shard_of(user: int) -> int:
    return Partition.of("PLAYER", user, SHARDS).shard


def test_status_shows_servers_that_answer_and_names_the_one_that_does_not(
    own: ValkeyCluster, own_settings: Settings
) -> None:
    with Producer(own_settings) as producer:
        producer.send_many([level_up(user) for user in range(1, 200)])
    whole = look(own_settings)
    assert len(whole.partitions) == 3 * SHARDS
    needed = {own.holder(key).port for key in (KEYS.shards, KEYS.registry)}
    lost = next(node for node in own.nodes if node.port not in needed)
    lost.kill()
    seen = look(own_settings)
    assert 0 < len(seen.partitions) < 3 * SHARDS
    assert any("their server is away" in problem and str(lost.port) in problem for problem in seen.problems)


def test_users_are_paused_cancelled_forgotten_and_retried_on_every_server(
    settings: Settings, worker: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    commands = [level_up(user_id) for user_id in range(1, 41)]
    with Producer(settings) as producer:
        handles = [producer.send(command) for command in commands]
        assert levelq(["pause", "PLAYER"]) == levelq(["pause", "--user", "7"]) == 0
        for partition in PLAYERS:
            Drain(worker, partition).run()
        assert sum(worker.lanes.status(partition).waiting for partition in PLAYERS) == 40
        assert [len(pause.partitions) for pause in look(settings).pauses] == [SHARDS, 1, 1, 1]
        assert levelq(["resume"]) == 0
        assert levelq(["forget", "7", "--yes"]) == 0
        assert look(settings).pauses == ()
        assert levelq(["purge", "PLAYER", "--yes"]) == 0
        assert {handle.result(2).error for handle in handles} == {"cancelled"}
    assert sum(worker.lanes.status(partition).waiting for partition in PLAYERS) == 0
    retried = [str(command.command_id) for command in commands if command.user_id != 7]
    for _ in ("sent", "found in their lanes"):
        assert levelq(["rejected", "retry", *retried, "--yes"]) == 0
        assert sum(worker.lanes.status(partition).waiting for partition in PLAYERS) == 39
