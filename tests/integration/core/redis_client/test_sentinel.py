"""Lanes behind real Sentinels: producers and workers find the new primary after a failover."""

from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import RedisError, ResponseError
from sqlalchemy import Engine

from levelq_core import Settings
from levelq_core.errors import QueueUnavailable
from levelq_core.redis_client.pool import connect
from levelq_producer import AsyncProducer, Producer
from levelq_worker.draining.context import Runtime
from levelq_worker.draining.drain import Drain
from levelq_worker.support.preflight import preflight
from tests.support.fixtures.clusters import LoopbackValkey, Sentinels
from tests.support.fixtures.keys import KEYS
from tests.support.fixtures.waiting import until
from tests.support.isolation import PLAYER, experience, level_up


@pytest.fixture
def sentinels(tmp_path: Path) -> Iterator[Sentinels]:
    with ExitStack() as stack:
        yield Sentinels(tmp_path, stack)


@pytest.fixture
def settings(sentinels: Sentinels, own_database_url: str) -> Settings:
    return Settings.load(redis_url=sentinels.url, database_url=own_database_url, redis_seconds=0.5, claim_seconds=2)


def replicated(primary: LoopbackValkey) -> bool:
    """Whether the replica has all that the primary has."""
    primary.client.set("mark", 1)  # WAIT is for the last write of its own connection
    return int(primary.client.execute_command("WAIT", 1, 100)) == 1


async def test_failover_is_followed(
    sentinels: Sentinels, settings: Settings, worker: Runtime, own_engine: Engine
) -> None:
    preflight(settings)
    with Producer(settings) as producer:
        async with AsyncProducer(settings) as other:
            assert producer.send(level_up(1)).error is None
            assert (await other.send(level_up(2))).error is None
            Drain(worker, PLAYER).run()
            producer.send(level_up(1))
            until(lambda: replicated(sentinels.primary), what="the replica")
            sentinels.primary.kill()
            with pytest.raises(QueueUnavailable):
                producer.send(level_up(3))
            until(lambda: sends(producer), 30, "the new primary")
            assert await sends_at_last(other)
    until(lambda: drains(worker), what="the worker to find it, too")
    found = experience(own_engine)
    assert (found[1], found[2]) == (20, 20)


def sends(producer: Producer) -> bool:
    try:
        producer.send(level_up(4), reply=False)
    except QueueUnavailable:
        return False
    return True


async def sends_at_last(producer: AsyncProducer) -> bool:
    """A connection from before may be found dead only when it is used."""
    for _ in range(5):
        with suppress(QueueUnavailable):
            return (await producer.send(level_up(2))).error is None
    return False


def drains(worker: Runtime) -> bool:
    try:
        Drain(worker, PLAYER).run()
        status = worker.lanes.status(PLAYER)
    except RedisError:
        return False
    return status.ready == status.claimed == 0


def test_primary_that_becomes_a_replica_is_left(sentinels: Sentinels, settings: Settings) -> None:
    """An older connection answers READONLY; none of those calls counts as done."""
    with Producer(settings) as producer:
        producer.send(level_up(1), reply=False)
        old, new = sentinels.primary, sentinels.replica
        until(lambda: replicated(old), what="the replica")
        until(lambda: failing_over(sentinels), what="a Sentinel that knows what it can promote")
        until(lambda: role(new) == "master" and role(old) == "slave", 30, "the failover")
        until(lambda: sends(producer), 10, "the new primary")
        assert int(new.client.llen(KEYS.lane(PLAYER, 4))) == 1


def failing_over(sentinels: Sentinels) -> bool:
    try:
        sentinels.sentinel.client.execute_command("SENTINEL", "FAILOVER", sentinels.name)
    except ResponseError:  # it looks at the replica once in ten seconds
        return False
    return True


def role(node: LoopbackValkey) -> str:
    try:
        info: Any = node.client.info("replication")
    except RedisError:
        return ""
    return str(info["role"])


def test_name_that_no_sentinel_knows_is_reported(sentinels: Sentinels) -> None:
    other = sentinels.url.replace(f"/{sentinels.name}", "/other")
    with connect(other, 0.5) as client, pytest.raises(RedisError, match="knows a primary 'other'"):
        client.ping()


def test_password_and_database_reach_the_primary(sentinels: Sentinels) -> None:
    sentinels.primary.client.config_set("requirepass", "s3cret")
    url = sentinels.url.replace("://", "://:s3cret@") + "/3"
    with connect(url, 0.5) as client:
        client.set("key", "value")
    with Redis(port=sentinels.primary.port, password="s3cret", db=3) as found:
        assert found.get("key") == b"value"
