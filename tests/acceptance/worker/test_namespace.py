"""Workers as processes in a namespace that is bound to another deployment's database."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from redis import Redis
from sqlalchemy import Engine

from levelq_core import LevelUp, Settings
from levelq_core.keys import Partition
from levelq_core.lanes.client import Lanes
from levelq_core.lanes.namespace_binding import bind, bound_to
from levelq_core.operations.identity import ensure_identity
from levelq_producer import Producer
from tests.support.fixtures.databases import Databases
from tests.support.fixtures.keys import KEYS
from tests.support.fixtures.processes import Started, children
from tests.support.fixtures.waiting import until

Start = Callable[..., Started]


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Production, with short claims and sweeps."""
    return settings.model_copy(update={"claim_seconds": 1.0, "sweep_seconds": 0.1, "redis_seconds": 0.5})


@pytest.fixture
def staging(settings: Settings, databases: Databases) -> Iterator[Settings]:
    """The deployment that was given production's Redis."""
    name = databases.take("own")
    yield settings.model_copy(update={"database_url": databases.url(name)})
    databases.give_back("own", name)


@pytest.fixture
def bound(settings: Settings, redis: Redis, own_engine: Engine) -> Settings:
    """Production, whose namespace is bound."""
    bind(Lanes(redis, settings), ensure_identity(own_engine))
    return settings


def send(settings: Settings, count: int) -> None:
    with Producer(settings.model_copy(update={"database_url": None})) as producer:
        commands = [LevelUp(user_id=n, specialization="PLAYER", xp_gained=1) for n in range(1, count + 1)]
        assert not any(handle.error for handle in producer.send_many(commands))


def decided(engine: Engine) -> int:
    with engine.connect() as connection:
        return int(connection.exec_driver_sql("SELECT count(*) FROM levelq_ledger").scalar_one())


def ended(process: Started) -> tuple[int, str]:
    output, _ = process.communicate(timeout=20)
    return process.returncode, output


def test_levelq_worker_of_another_database_refuses_in_one_line(
    start: Start, bound: Settings, staging: Settings, engines: Callable[..., Engine], redis: Redis
) -> None:
    send(bound, 20)
    code, output = ended(start("worker", "--burst", LEVELQ_DATABASE_URL=str(staging.database_url)))
    assert (code, output.count("\n")) == (2, 1)
    assert output.startswith("levelq: LEVELQ_NAMESPACE levelq is bound to the database ")
    assert str(bound_to(Lanes(redis, bound))) in output
    assert "`levelq namespace rebind`" in output
    assert decided(engines(staging.database_url)) == 0
    assert ended(start("worker", "--burst"))[0] == 0
    assert decided(engines(bound.database_url)) == 20


def test_rqs_own_command_with_another_database_applies_nothing(
    bound: Settings, staging: Settings, engines: Callable[..., Engine], redis: Redis
) -> None:
    send(bound, 20)
    rq = Path(sys.executable).parent / "rq"
    options = ["-w", "levelq_worker.LaneWorker", "--url", bound.queue_url, "--burst", KEYS.queue("PLAYER")]
    done = subprocess.run(
        [str(rq), "worker", *options],
        env=os.environ | staging.environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "WrongDatabase: LEVELQ_NAMESPACE levelq is bound to the database " in done.stderr.splitlines()[-1]
    assert decided(engines(staging.database_url)) == 0
    assert Lanes(redis, bound).status(Partition("PLAYER")).waiting == 20


def test_running_workers_stop_with_one_line_each_after_a_rebind(
    start: Start, bound: Settings, staging: Settings, engines: Callable[..., Engine], redis: Redis
) -> None:
    worker = start("worker", "--processes", "2")
    until(lambda: len(children(worker)) == 2, what="two children")
    lanes = Lanes(redis, bound)
    send(bound, 1)
    until(lambda: decided(engines(bound.database_url)) == 1, what="a command to be applied")
    before = lanes.bound()
    assert before is not None
    mine = ensure_identity(engines(staging.database_url)).encode()
    assert lanes.bind(mine, before) == mine
    code, output = ended(worker)
    assert code == 2
    lines = output.splitlines()
    assert lines and all(line.startswith("levelq: LEVELQ_NAMESPACE levelq is bound to ") for line in lines)
    assert len(lines) <= 2
    send(staging, 10)
    assert ended(start("worker", "--burst", LEVELQ_DATABASE_URL=str(staging.database_url)))[0] == 0
    assert (decided(engines(bound.database_url)), decided(engines(staging.database_url))) == (1, 10)


def test_worker_binds_again_after_redis_lost_everything(start: Start, bound: Settings, redis: Redis) -> None:
    worker = start("worker")
    until(lambda: redis.exists("rq:workers"), what="the worker")
    before = redis.get(KEYS.database)
    redis.delete(KEYS.database)
    until(lambda: redis.get(KEYS.database) == before, what="the binding")
    worker.terminate()
    assert ended(worker)[0] == 0


def test_worker_of_a_namespace_serves_its_own_queues(
    start: Start, settings: Settings, engines: Callable[..., Engine], redis: Redis
) -> None:
    other = settings.model_copy(update={"namespace": "other"})
    send(other, 20)
    assert ended(start("worker", "--burst", LEVELQ_NAMESPACE="other"))[0] == 0
    assert decided(engines(settings.database_url)) == 20
    start("worker", LEVELQ_NAMESPACE="other")
    until(lambda: redis.exists("rq:workers:other.PLAYER"), what="the worker")
    with Producer(other) as producer:
        assert producer.level_up(1, "PLAYER", 1).result(timeout=20).status == "applied"
    assert redis.keys("levelq*") == []
