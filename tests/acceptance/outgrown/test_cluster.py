"""A burst on a real cluster of three: servers killed and restarted, shards changed, slots moved; all decided once."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from levelq.embedded import Servers
from levelq_core import Settings
from levelq_core.keys import Partition
from tests.acceptance.outgrown.running import Running
from tests.support.fixtures.clusters import ValkeyCluster
from tests.support.fixtures.keys import KEYS
from tests.support.fixtures.waiting import until


@pytest.fixture
def settings(own_database_url: str, servers: Servers, redis: object) -> Settings:
    times = {"claim_seconds": 2.0, "sweep_seconds": 0.3, "redis_seconds": 0.5}
    return Settings.load(database_url=own_database_url, rq_url=servers.valkey.url, redis_url="redis://later", **times)


def test_servers_killed_shards_changed_and_slots_moved_in_a_burst_cost_nothing(
    settings: Settings, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        cluster = ValkeyCluster(tmp_path, stack)
        settings = settings.model_copy(update={"redis_url": cluster.url, "shards": 4})
        running = stack.enter_context(Running(tmp_path, settings))
        running.start_workers("--processes", "2")
        running.start_traffic()
        for partition, shards in ((Partition("PLAYER"), 6), (Partition("COACH"), 2)):
            kill_and_restart(cluster, partition, running)
            assert running.levelq("shards", "PLAYER", str(shards)) == 0, running.logs()
            move(cluster, Partition("COACH", 1, 1))
            running.goes_on()
        report = running.at_rest()
        assert report.violations == 0, report.examples[:5]
        assert running.decided() > 1_000


def kill_and_restart(cluster: ValkeyCluster, partition: Partition, running: Running) -> None:
    lost = cluster.holder(KEYS.of(partition, "ready"))
    lost.kill()
    running.goes_on(200)  # of the outbox, into lanes on the other servers; producers wait until they can send in order
    lost.start()
    until(cluster.whole, what="the cluster")
    running.goes_on()


def move(cluster: ValkeyCluster, partition: Partition) -> None:
    key = KEYS.of(partition, "ready")
    holder = cluster.holder(key)
    cluster.move(key, next(node for node in cluster.nodes if node is not holder))
