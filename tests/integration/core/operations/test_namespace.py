"""Deployments that share one Redis: each namespace is bound to one database, and only its own commands reach it."""

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from redis import Redis
from rq import Queue, SimpleWorker
from rq.serializers import JSONSerializer
from sqlalchemy import Engine

from levelq.embedded import Servers
from levelq_core import LevelUp, Settings, WrongDatabase
from levelq_core.errors import ConfigurationError
from levelq_core.lanes.client import Lanes
from levelq_core.lanes.namespace_binding import DatabaseIdentity, bind, bound_to
from levelq_core.operations.identity import ensure_identity, identity_of
from levelq_core.operations.prune import prune
from levelq_core.operations.verify import verify
from levelq_producer import Producer
from levelq_worker.draining.context import Runtime, install
from levelq_worker.draining.drain import Drain
from levelq_worker.relay.thread import Relay
from levelq_worker.rq_adapter.worker import LaneWorker
from levelq_worker.support.binding import Binding
from levelq_worker.support.stop import Stop
from levelq_worker.sweeper import Sweeper
from tests.support.db_check import execute, query
from tests.support.fixtures.clusters import ValkeyCluster
from tests.support.fixtures.command_line import Levelq, LevelqWith
from tests.support.fixtures.databases import Databases
from tests.support.fixtures.keys import KEYS
from tests.support.fixtures.valkeys import Valkeys
from tests.support.system import PLAYER, System, up

COMMANDS = 400
LevelqOf = Callable[[System], Levelq]


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"redis_seconds": 0.5, "claim_seconds": 1.0, "sweep_seconds": 0.1})


@pytest.fixture
def production(system: System) -> System:
    return system


@pytest.fixture
def levelq_of(levelq_with: LevelqWith) -> LevelqOf:
    return lambda system: levelq_with(system.settings)


def level_ups(count: int = COMMANDS) -> list[LevelUp]:
    return [up(1 + n % 50) for n in range(count)]


def send(to: System, count: int = COMMANDS) -> None:
    with to.another_producer(database_url=None) as producer:
        assert not any(handle.error for handle in producer.send_many(level_ups(count)))


def take_over(staging: System) -> None:
    """Bind the namespace to staging's database, as `levelq namespace rebind` does."""
    bound = staging.lanes.bound()
    assert bound is not None
    staging.lanes.bind(ensure_identity(staging.engine).encode(), bound)


def work(system: System) -> None:
    queue = system.settings.keys.queue("PLAYER")
    LaneWorker([queue], settings=system.settings).work(burst=True, logging_level="WARNING")


def namespaces(redis: Redis) -> set[bytes]:
    """What the keys begin with."""
    keys: Any = redis.keys("*")
    return {key.partition(b":")[0] for key in keys}


def refused(call: Callable[[], object]) -> WrongDatabase:
    """The error of a call, which names both databases and the way out in one line."""
    with pytest.raises(WrongDatabase) as caught:
        call()
    error = caught.value
    assert "\n" not in str(error)
    assert "levelq namespace rebind" in str(error)
    assert error.bound_to in str(error) and error.this_database in str(error)
    assert error.bound_to != error.this_database
    return error


def test_worker_of_another_database_refuses_and_the_right_worker_applies_everything(
    production: System, staging: System
) -> None:
    work(production)  # the first worker binds
    send(production)
    error = refused(lambda: work(staging))
    assert (error.namespace, isinstance(error, ConfigurationError)) == ("levelq", True)
    assert (staging.applied(), production.status().waiting) == (0, COMMANDS)
    work(production)
    assert (staging.applied(), production.applied(), production.status().waiting) == (0, COMMANDS, 0)


def test_deployments_with_namespaces_of_their_own_apply_only_their_own(
    production: System, staging: System, redis: Redis
) -> None:
    apart = staging.changed(namespace="staging")
    send(production, 30)
    send(apart, 20)
    work(apart)
    assert (production.applied(), apart.applied(), production.status().waiting) == (0, 20, 30)
    work(production)
    assert (production.applied(), apart.applied()) == (30, 20)
    assert namespaces(redis) <= {b"levelq", b"staging", b"rq"}


def test_of_databases_that_bind_at_once_one_wins(production: System) -> None:
    contenders = [DatabaseIdentity(uuid4(), "1", n, f"d{n}", "h:5432") for n in range(8)]
    refusals: list[WrongDatabase] = []
    ready = threading.Barrier(len(contenders))

    def contend(mine: DatabaseIdentity) -> None:
        with Redis.from_url(production.settings.redis_url) as client:
            lanes = Lanes(client, production.settings)
            ready.wait()
            try:
                bind(lanes, mine)
            except WrongDatabase as error:
                refusals.append(error)

    with ThreadPoolExecutor(len(contenders)) as threads:
        list(threads.map(contend, contenders))
    winner = bound_to(production.lanes)
    assert winner in contenders
    assert len(refusals) == len(contenders) - 1
    assert {error.bound_to for error in refusals} == {str(winner)}


def test_full_redis_still_takes_the_binding_that_lets_a_worker_drain_it(production: System, redis: Redis) -> None:
    send(production, 10)
    redis.config_set("maxmemory", 1)
    try:
        worker = production.worker
        Drain(worker, PLAYER).run()
    finally:
        redis.config_set("maxmemory", 0)
    assert production.applied() == 10
    assert redis.exists(KEYS.database)


# Which database it is


def identity_at(url: str, engines: Callable[..., Engine]) -> DatabaseIdentity:
    with engines(url).connect() as connection:
        return identity_of(connection)


def test_identity_is_kept_in_the_database_and_read_by_an_ordinary_role(
    production: System, own_engine: Engine, servers: Servers, engines: Callable[..., Engine]
) -> None:
    assert production.settings.database_url is not None
    ours = identity_at(production.settings.database_url, engines)
    assert ours.system is not None
    assert (ours.name, identity_at(production.settings.database_url, engines)) == (own_engine.url.database, ours)
    role = f"ordinary_{uuid4().hex[:8]}"
    with psycopg.connect(servers.postgres.url, autocommit=True) as admin:
        admin.execute(f"CREATE ROLE {role} LOGIN".encode())
    with psycopg.connect(production.settings.database_url, autocommit=True) as admin:
        admin.execute(f"GRANT SELECT ON levelq_identity TO {role}".encode())
        try:
            as_role = production.settings.database_url.replace("postgres@", f"{role}@")
            assert role in as_role
            assert identity_at(as_role, engines) == ours
            admin.execute("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC")
            blind = identity_at(as_role, engines)
            assert blind.system is None
            assert blind.same_as(ours)
        finally:
            admin.execute("GRANT EXECUTE ON FUNCTION pg_control_system() TO PUBLIC")
            admin.execute(f"DROP OWNED BY {role}".encode())
            admin.execute(f"DROP ROLE {role}".encode())


def test_replica_is_the_same_database_and_a_restored_copy_is_another() -> None:
    primary = DatabaseIdentity(uuid4(), "7300000000000000001", 16_384, "app", "a:5432")
    replica = DatabaseIdentity(primary.identity, primary.system, primary.oid, "renamed", "b:6432")
    restored = DatabaseIdentity(primary.identity, "7300000000000000002", 16_384, "app", "a:5432")
    copied = DatabaseIdentity(primary.identity, primary.system, 16_385, "app_copy", "a:5432")
    emptied = DatabaseIdentity(uuid4(), primary.system, primary.oid, "app", "a:5432")
    assert primary.same_as(replica)
    assert str(primary).rpartition("(")[2] == str(replica).rpartition("(")[2]
    for other in (restored, copied, emptied):
        assert not primary.same_as(other) and not other.same_as(primary)
        assert str(other).rpartition("(")[2] != str(primary).rpartition("(")[2]
    assert DatabaseIdentity.decode(primary.encode(), "k") == primary


def test_copy_of_the_database_on_the_same_server_is_refused(
    production: System, servers: Servers, databases: Databases, engines: Callable[..., Engine]
) -> None:
    work(production)
    assert production.settings.database_url is not None
    copy = f"copy_{uuid4().hex[:8]}"
    with psycopg.connect(servers.postgres.url, autocommit=True) as admin:
        original = identity_at(production.settings.database_url, engines).name
        admin.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s", (original,))
        admin.execute(f"CREATE DATABASE {copy} TEMPLATE {original}".encode())
        try:
            error = refused(lambda: work(production.changed(database_url=databases.url(copy))))
            assert error.this_database.startswith(f"{copy} on ")
        finally:
            admin.execute(f"DROP DATABASE {copy} WITH (FORCE)".encode())


def test_emptied_identity_table_gets_a_new_identity(production: System, own_engine: Engine) -> None:
    before = ensure_identity(own_engine)
    execute(own_engine, "DELETE FROM levelq_identity")
    after = ensure_identity(own_engine)
    assert after.identity != before.identity
    assert ensure_identity(own_engine) == after


@pytest.mark.parametrize("raw", [b"", b"x", b"[]", b"{}", b'{"identity": 1, "system": null, "oid": 1}'])
def test_unreadable_binding_is_named_with_what_replaces_it(production: System, redis: Redis, raw: bytes) -> None:
    redis.set(KEYS.database, raw)
    with pytest.raises(ConfigurationError, match=r"^levelq:database: expected .*`levelq namespace rebind`"):
        bound_to(production.lanes)


# Everything that brings lanes and tables together


@pytest.fixture
def bound(production: System) -> System:
    """Production, whose namespace is bound."""
    work(production)
    return production


def test_drain_of_an_ordinary_rq_worker_refuses(bound: System, staging: System, redis: Redis) -> None:
    send(bound, 10)
    worker = install(Runtime(staging.settings))
    try:
        queue = Queue(KEYS.queue("PLAYER"), connection=redis, serializer=JSONSerializer)
        jobs = queue.job_ids
        assert len(jobs) == 1
        SimpleWorker([queue], connection=redis, serializer=JSONSerializer).work(burst=True)
        refused(Drain(worker, PLAYER).run)
    finally:
        worker.close()
    assert queue.failed_job_registry.get_job_ids() == jobs
    assert (staging.applied(), bound.status().waiting) == (0, 10)


@pytest.mark.parametrize(
    "queue", ["other.PLAYER", "PLAYER", "levelq.", "levelq.player", "levelq.PLAYER:1:0", "default"]
)
def test_lane_worker_refuses_a_queue_that_is_none_of_its_namespace(production: System, queue: str) -> None:
    """It would take another deployment's wake-ups, and drain its own namespace at them."""
    with pytest.raises(ConfigurationError) as caught:
        LaneWorker([KEYS.queue("PLAYER"), queue], settings=production.settings)
    assert str(caught.value).startswith(f"queue {queue}: expected levelq.SPECIALIZATION, like levelq.PLAYER")
    assert "LEVELQ_NAMESPACE" in str(caught.value)


def test_relay_of_another_database_pushes_nothing(bound: System, staging: System) -> None:
    staging.commit(up(1))
    stop = Stop()
    relay = Relay(staging.settings, ["PLAYER"], Binding(stop, staging.settings.sweep_seconds))
    assert relay.poll() == 0
    assert stop.is_set()
    relay.release()
    assert staging.rows("SELECT pushed_at FROM levelq_outbox") == [(None,)]
    assert bound.status().waiting == 0


def test_verify_refuses_another_database(bound: System, staging: System, redis: Redis) -> None:
    refused(lambda: verify(staging.engine, redis, staging.settings))
    assert verify(bound.engine, redis, bound.settings).violations == 0


def test_commands_of_an_operator_refuse_another_database(
    bound: System, staging: System, redis: Redis, levelq_of: LevelqOf
) -> None:
    refused(lambda: prune(staging.engine, redis, timedelta(days=30), settings=staging.settings))
    staging.commit(up(1))
    others = ("pause", "PLAYER"), ("resume",), ("drain",), ("verify",)
    for arguments in (("rebuild", "PLAYER"), ("prune", "--older-than", "30d"), *others):
        code, told, error = levelq_of(staging)(*arguments)
        assert (code, told, error.count("\n")) == (2, "", 1)
        assert error.startswith("levelq: LEVELQ_NAMESPACE levelq is bound to the database ")
    assert bound.status().waiting == 0


def test_producer_refuses_to_answer_from_another_deployments_ledger(bound: System, staging: System) -> None:
    with Producer(staging.settings) as producer:
        refused(lambda: producer.send(level_ups(1)[0], reply=False).result(timeout=1))
    with Producer(bound.settings) as producer:
        handle = producer.send(level_ups(1)[0], reply=False)
        work(bound)
        assert handle.result().status == "applied"


def test_status_and_doctor_tell_which_database_and_that_it_is_the_wrong_one(
    bound: System, staging: System, levelq_of: LevelqOf
) -> None:
    database = str(bound_to(bound.lanes))
    found = json.loads(levelq_of(bound)("status", "--json")[1])
    assert (found["namespace"], found["database"]) == ("levelq", database)
    assert not [problem for problem in found["problems"] if "NAMESPACE" in problem]
    assert f"bound to {database}" in levelq_of(bound)("status")[1].replace("\n", " ")

    found = json.loads(levelq_of(staging)("status", "--json")[1])
    assert [p for p in found["problems"] if p.startswith("LEVELQ_NAMESPACE levelq is bound to the database ")]
    code, told, _ = levelq_of(staging)("doctor")
    assert code == 1
    assert any(line.split()[:2] == ["FAIL", "namespace"] for line in told.splitlines())
    told = levelq_of(bound)("doctor")[1]
    assert "namespace levelq, catalog" in told
    assert not any(line.split()[1:2] == ["namespace"] for line in told.splitlines())


@pytest.mark.parametrize(
    "arguments", [("send", "level-up", "1", "PLAYER", "--xp", "1", "--no-wait"), ("shards", "PLAYER", "2", "--no-wait")]
)
def test_command_line_with_another_database_changes_nothing_in_the_lanes(
    bound: System, staging: System, redis: Redis, arguments: tuple[str, ...], levelq_of: LevelqOf
) -> None:
    before = redis.hgetall(KEYS.shards)
    code, told, error = levelq_of(staging)(*arguments)
    assert (code, told, error.count("\n")) == (2, "", 1)
    assert "is bound to the database" in error
    assert (bound.status().waiting, redis.hgetall(KEYS.shards)) == (0, before)
    assert levelq_of(bound)(*arguments)[0] == 0


def test_worker_without_redis_at_its_start_verifies_before_its_first_claim(
    production: System, staging: System, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        node = Valkeys(tmp_path, stack).start()
        settings = production.settings.model_copy(update={"redis_url": node.url, "slice_seconds": 0.1})
        there = System(settings, node.client, production.engine)
        bind(there.lanes, ensure_identity(there.engine))
        send(there, 10)
        node.kill()
        worker = Runtime(settings.model_copy(update={"database_url": staging.settings.database_url}))
        stack.callback(worker.close)
        Drain(worker, PLAYER).run()  # it waits, and gives up after a slice
        assert (worker.outage.bad, worker.binding.verified) == (True, False)
        node.restart()
        refused(Drain(worker, PLAYER).run)
        assert worker.stop.is_set()
        assert (staging.applied(), there.status().waiting) == (0, 10)


def test_cluster_keeps_the_binding(
    cluster: ValkeyCluster, servers: Servers, production: System, staging: System
) -> None:
    there = production.changed(redis_url=cluster.url, rq_url=servers.valkey.url, namespace="other")
    work(there)
    send(there, 50)
    refused(lambda: work(there.changed(database_url=staging.settings.database_url)))
    work(there)
    assert there.applied() == 50
    assert cluster.keys("other:database") == ["other:database"]
    assert cluster.keys("levelq*") == []


# While a worker lives


def test_sweep_puts_the_binding_back_after_redis_lost_it(production: System, redis: Redis) -> None:
    worker = production.worker
    worker.binding.verify(worker.lanes, worker.engine)
    before = redis.get(KEYS.database)
    sweeper = Sweeper(production.settings, ["PLAYER"], worker.binding)
    redis.flushall()
    sweeper.sweep()
    assert redis.get(KEYS.database) == before
    assert not worker.stop.is_set()


def test_sweep_of_a_worker_whose_namespace_another_database_took_stops_it(
    production: System, staging: System, redis: Redis
) -> None:
    worker = production.worker
    Drain(worker, PLAYER).run()
    redis.flushall()
    bind(staging.lanes, ensure_identity(staging.engine))
    refused(Sweeper(production.settings, ["PLAYER"], worker.binding).sweep)
    assert worker.stop.is_set()
    send(staging, 5)
    refused(lambda: worker.binding.verify(worker.lanes, worker.engine))
    refused(Drain(worker, PLAYER).run)
    assert production.applied() == 0


def test_drain_without_a_sweeper_stops_after_a_rebind(production: System, staging: System) -> None:
    """As in an ordinary RQ worker, or in a process that was stopped for a while: no sweep looked meanwhile."""
    worker = production.worker
    Drain(worker, PLAYER).run()
    take_over(staging)
    send(staging, 5)
    worker.stop.wait(production.settings.sweep_seconds)  # for so long a worker may go by its last check
    refused(Drain(worker, PLAYER).run)
    assert worker.stop.is_set()
    assert (production.applied(), staging.status().waiting) == (0, 5)


def test_relay_pushes_nothing_more_once_a_sweep_found_the_namespace_taken(production: System, staging: System) -> None:
    binding = Binding(Stop(), production.settings.sweep_seconds)
    relay = Relay(production.settings, ["PLAYER"], binding)
    try:
        relay.poll()
        take_over(staging)
        refused(lambda: binding.check(production.lanes))
        production.commit(up(1))
        assert (relay.poll_notified({"PLAYER"}), relay.poll()) == (0, 0)
    finally:
        relay.release()
    assert staging.status().waiting == 0


def test_worker_stops_when_its_url_leads_to_another_database_than_before(
    production: System, staging: System, servers: Servers
) -> None:
    """A restored copy takes the name of the first while workers run."""
    original, copy = (str(system.engine.url.database) for system in (production, staging))
    worker = Runtime(production.settings)
    try:
        Drain(worker, PLAYER).run()
        send(production, 5)
        with psycopg.connect(servers.postgres.url, autocommit=True) as admin:
            swap(admin, original, copy)
            try:
                refused(Drain(worker, PLAYER).run)
                assert (production.applied(), production.status().waiting) == (0, 5)
            finally:
                worker.close()
                swap(admin, original, copy)
    finally:
        worker.close()


def swap(admin: psycopg.Connection[Any], one: str, other: str) -> None:
    """Give two databases each other's names."""
    admin.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname IN (%s, %s)", (one, other)
    )
    for before, after in ((one, "neither"), (other, one), ("neither", other)):
        admin.execute(f"ALTER DATABASE {before} RENAME TO {after}".encode())


# Rebinding on purpose


def test_rebind_shows_its_effect_asks_and_binds(
    bound: System, staging: System, redis: Redis, monkeypatch: pytest.MonkeyPatch, levelq_of: LevelqOf
) -> None:
    send(bound, 7)
    before = redis.get(KEYS.database)
    old = str(bound_to(bound.lanes))

    code, told, _ = levelq_of(staging)("namespace", "rebind", "--dry-run")
    assert code == 0
    assert f"is bound to {old}" in told and "7 waiting commands" in told
    code, _, error = levelq_of(staging)("namespace", "rebind")
    assert (code, error.count("\n"), "--yes" in error) == (2, 1, True)
    with monkeypatch.context() as terminal:
        terminal.setattr("sys.stdin.isatty", lambda: True, raising=False)
        terminal.setattr("typer.confirm", _declined)
        assert levelq_of(staging)("namespace", "rebind")[0] == 130
    assert redis.get(KEYS.database) == before

    code, told, _ = levelq_of(staging)("namespace", "rebind", "--yes")
    assert code == 0
    new = str(bound_to(staging.lanes))
    assert told.splitlines()[-1] == f"namespace levelq is bound to {new}"
    assert f"bound to {new}" in levelq_of(staging)("namespace", "show")[1]
    assert "already" in levelq_of(staging)("namespace", "rebind", "--yes")[1]
    refused(lambda: work(bound))
    work(staging)
    assert (bound.applied(), staging.applied()) == (0, 7)


def _declined(*_: object, abort: bool = False) -> bool:
    import typer  # noqa: PLC0415

    assert abort
    raise typer.Abort


def test_dry_run_of_rebind_adds_no_identity(bound: System, own_engine: Engine, levelq_of: LevelqOf) -> None:
    execute(own_engine, "DELETE FROM levelq_identity")
    code, _, error = levelq_of(bound)("namespace", "rebind", "--dry-run")
    assert (code, "levelq_identity: expected one row, found none" in error) == (2, True)
    assert query(own_engine, "SELECT count(*) FROM levelq_identity") == [(0,)]
    assert levelq_of(bound)("namespace", "rebind", "--yes")[0] == 0


def test_rebind_replaces_a_binding_that_cannot_be_read(production: System, redis: Redis, levelq_of: LevelqOf) -> None:
    assert "not bound yet" in levelq_of(production)("namespace", "show")[1]
    redis.set(KEYS.database, "x")
    code, told, _ = levelq_of(production)("namespace", "rebind", "--yes")
    assert (code, "something unreadable" in told) == (0, True)
    work(production)


# Nothing is forgotten


def test_whole_run_in_another_namespace_leaves_no_key_of_the_default_one(
    production: System, redis: Redis, levelq_of: LevelqOf
) -> None:
    other = production.changed(namespace="other")
    with Producer(other.settings) as producer:
        handle = producer.level_up(1, "PLAYER", 5)
        other.commit(up(2, 5))
        worker = Runtime(other.settings)
        relay = Relay(other.settings, list(other.settings.tracks), worker.binding)
        relay.poll()
        relay.release()
        worker.outage.failed("a notice")
        keys: list[Any] = [redis.keys("*")]
        work(other)
        assert handle.result().status == "applied"
        keys.append(redis.keys("*"))
        producer.send_many(level_ups(20), reply=True)
    for arguments in (
        ("status", "--json"),
        ("doctor",),
        ("rebuild", "PLAYER"),
        ("shards", "PLAYER", "4", "--no-wait"),
        ("shards",),
        ("namespace", "show"),
        ("history", "1"),
        ("prune", "--older-than", "1h"),
        ("send", "level-up", "3", "PLAYER", "--xp", "1", "--no-wait"),
    ):
        code, told, error = levelq_of(other)(*arguments)
        assert (code, error) in ((0, ""), (1, "")) if arguments[0] in ("doctor", "status") else code == 0, (
            arguments,
            told,
            error,
        )
        keys.append(redis.keys("*"))
    work(other)
    relay = Relay(other.settings, list(other.settings.tracks), worker.binding)
    relay.poll()
    relay.release()
    work(other)
    worker.close()
    code, told, error = levelq_of(other)("verify", "--at-rest")
    assert (code, error) == (0, ""), told
    keys.append(redis.keys("*"))
    assert other.applied() == 23
    names = {key.decode() for found in keys for key in found}
    assert "other:weather" in names and "other:shards" in names and "other:database" in names
    assert any(name.startswith("other:reply:") for name in names)
    assert "rq:queue:other.PLAYER" in names
    assert {name for name in names if not name.startswith(("other:", "rq:"))} == set()
    assert {name for name in names if "levelq" in name} == set()
