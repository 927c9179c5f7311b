"""Workers as processes in a namespace that is bound to another deployment's database."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from redis import Redis
from sqlalchemy import Engine

from levelq_core import Settings
from levelq_core.lanes.namespace_binding import bind, bound_to
from levelq_core.operations.identity import ensure_identity
from levelq_producer import Producer
from tests.support.fixtures.databases import Databases
from tests.support.fixtures.keys import KEYS
from tests.support.fixtures.processes import Started, children
from tests.support.fixtures.waiting import until
from tests.support.system import PLAYER, System, ended, run_rq_worker, up

Start = Callable[..., Started]


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Production, with short claims and sweeps."""
    return settings.model_copy(update={"claim_seconds": 1.0, "sweep_seconds": 0.1, "redis_seconds": 0.5})


@pytest.fixture
def bound(system: System) -> System:
    """Production, whose namespace is bound."""
    bind(system.lanes, ensure_identity(system.engine))
    return system


@pytest.fixture
def staging(settings: Settings, redis: Redis, databases: Databases, engines: Callable[..., Engine]) -> Iterator[System]:
    """The deployment that was given production's Redis."""
    name = databases.take("own")
    theirs = settings.model_copy(update={"database_url": databases.url(name)})
    yield System(theirs, redis, engines(theirs.database_url))
    databases.give_back("own", name)


def send(settings: Settings, count: int) -> None:
    with Producer(settings.model_copy(update={"database_url": None})) as producer:
        assert not any(handle.error for handle in producer.send_many([up(n) for n in range(1, count + 1)]))


def burst(start: Start, **environment: str) -> tuple[int, str]:
    return ended(start("worker", "--burst", **environment))


def test_levelq_worker_of_another_database_refuses_in_one_line(start: Start, bound: System, staging: System) -> None:
    send(bound.settings, 20)
    code, output = burst(start, LEVELQ_DATABASE_URL=str(staging.settings.database_url))
    assert (code, output.count("\n")) == (2, 1)
    assert output.startswith("levelq: LEVELQ_NAMESPACE levelq is bound to the database ")
    assert str(bound_to(bound.lanes)) in output
    assert "`levelq namespace rebind`" in output
    assert staging.applied() == 0
    assert burst(start)[0] == 0
    assert bound.applied() == 20


def test_rqs_own_command_with_another_database_applies_nothing(bound: System, staging: System) -> None:
    send(bound.settings, 20)
    done = run_rq_worker(staging.settings)
    assert done.returncode == 1
    assert "WrongDatabase: LEVELQ_NAMESPACE levelq is bound to the database " in done.stderr.splitlines()[-1]
    assert staging.applied() == 0
    assert bound.status(PLAYER).waiting == 20


def test_running_workers_stop_with_one_line_each_after_a_rebind(start: Start, bound: System, staging: System) -> None:
    worker = start("worker", "--processes", "2")
    until(lambda: len(children(worker)) == 2, what="two children")
    send(bound.settings, 1)
    until(lambda: bound.applied() == 1, what="a command to be applied")
    before = bound.lanes.bound()
    assert before is not None
    theirs = ensure_identity(staging.engine).encode()
    assert bound.lanes.bind(theirs, before) == theirs
    code, output = ended(worker)
    assert code == 2
    lines = output.splitlines()
    assert lines and all(line.startswith("levelq: LEVELQ_NAMESPACE levelq is bound to ") for line in lines)
    assert len(lines) <= 2
    send(staging.settings, 10)
    assert burst(start, LEVELQ_DATABASE_URL=str(staging.settings.database_url))[0] == 0
    assert (bound.applied(), staging.applied()) == (1, 10)


@pytest.mark.usefixtures("bound")
def test_worker_binds_again_after_redis_lost_everything(start: Start, redis: Redis) -> None:
    worker = start("worker")
    until(lambda: redis.exists("rq:workers"), what="the worker")
    before = redis.get(KEYS.database)
    redis.delete(KEYS.database)
    until(lambda: redis.get(KEYS.database) == before, what="the binding")
    worker.terminate()
    assert ended(worker)[0] == 0


def test_worker_of_a_namespace_serves_its_own_queues(start: Start, system: System) -> None:
    other = system.settings.model_copy(update={"namespace": "other"})
    send(other, 20)
    assert burst(start, LEVELQ_NAMESPACE="other")[0] == 0
    assert system.applied() == 20
    start("worker", LEVELQ_NAMESPACE="other")
    until(lambda: system.redis.exists("rq:workers:other.PLAYER"), what="the worker")
    with Producer(other) as producer:
        assert producer.level_up(1, "PLAYER", 1).result(timeout=20).status == "applied"
    assert system.redis.keys("levelq*") == []
