"""A burst on a real cluster of three, with a server killed and started again from its AOF: all is decided once."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from levelq_core import Settings
from levelq_core.partitions import Partition
from levelq_worker.embedded import Servers
from tests.acceptance.outgrown.running import Running
from tests.fixtures.clusters import ValkeyCluster
from tests.fixtures.waiting import until


@pytest.fixture
def settings(own_database_url: str, servers: Servers, redis: object) -> Settings:
    times = {"claim_seconds": 2.0, "sweep_seconds": 0.3, "redis_seconds": 0.5}
    return Settings.load(database_url=own_database_url, rq_url=servers.valkey.url, redis_url="redis://later", **times)


def test_a_server_killed_in_a_burst_costs_nothing_and_delays_its_own_lanes_only(
    settings: Settings, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        cluster = ValkeyCluster(tmp_path, stack)
        settings = settings.model_copy(update={"redis_url": cluster.url, "shards": 4})
        running = stack.enter_context(Running(tmp_path, settings))
        running.start_workers("--processes", "2")
        running.start_traffic()
        for partition in (Partition("PLAYER"), Partition("COACH")):
            lost = cluster.holder(partition.key("ready"))
            lost.kill()
            running.goes_on(200)  # of the outbox, into the others' lanes; producers wait until they can send in order
            lost.start()
            until(cluster.whole, what="the cluster")
            running.goes_on()
        report = running.at_rest()
        assert report.violations == 0, report.examples[:5]
        assert running.decided() > 1_000


def test_shards_of_a_cluster_are_changed_and_moved_in_a_burst(settings: Settings, tmp_path: Path) -> None:
    with ExitStack() as stack:
        cluster = ValkeyCluster(tmp_path, stack)
        settings = settings.model_copy(update={"redis_url": cluster.url})
        running = stack.enter_context(Running(tmp_path, settings))
        running.start_workers("--processes", "2")
        running.start_traffic()
        for shards in (6, 2):
            assert running.levelq("shards", "PLAYER", str(shards)) == 0, running.logs()
            key = Partition("COACH").key("ready")
            cluster.move(key, next(node for node in cluster.nodes if node is not cluster.holder(key)))
            running.goes_on()
        report = running.at_rest()
        assert report.violations == 0, report.examples[:5]
