"""Which connections `levelq status` names as the possible writers of malformed entries, on a cluster."""

from __future__ import annotations

from contextlib import closing, suppress

from redis import Redis
from redis.exceptions import ResponseError

from levelq_core.operations.readings.hot_spots import list_writers
from levelq_core.redis_client.pool import connect
from levelq_core.redis_client.topology import address_of, servers_of
from tests.support.fixtures.clusters import ValkeyCluster


def test_writer_to_a_cluster_is_named_with_the_server_on_which_its_connection_is(cluster: ValkeyCluster) -> None:
    with closing(connect(cluster.url, 5)) as redis:
        first, second = servers_of(redis)[:2]
        assert address_of(first) != address_of(second)
        host, _, port = address_of(second).rpartition(":")
        with closing(Redis(host, int(port))) as other:
            with suppress(ResponseError):  # MOVED, if another server holds the slot: still its last command
                other.rpush("elsewhere", "x")
            (writer,) = list_writers(redis)
            assert (writer.server, writer.command) == (address_of(second), "rpush")
            assert f"client {writer.id} of {address_of(second)} from " in writer.in_words()
            assert second.client_kill_filter(_id=str(writer.id)) == 1
            assert list_writers(redis) == ()
