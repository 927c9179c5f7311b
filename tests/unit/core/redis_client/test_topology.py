"""One interface for the servers behind a client, whichever they are."""

import pytest
from redis import Redis
from redis.crc import key_slot
from redis.exceptions import MovedError, TimeoutError

from levelq_core.errors import ConfigurationError
from levelq_core.redis_client.cluster import ClusterTopology, NotConnected
from levelq_core.redis_client.pool import connect
from levelq_core.redis_client.topology import hosts_of, server_of, servers_of, topology_of
from levelq_core.redis_client.urls import Address, RedisTarget

A, B = Address("a", 1), Address("b", 2)


@pytest.mark.parametrize("url", ["redis://h:1", "redis+sentinel://h:1/lanes"])
def test_single_server_holds_every_key_and_cannot_follow_a_move(url: str) -> None:
    with connect(url, 1) as redis:
        topology = topology_of(redis)
        assert not topology.several_servers
        assert servers_of(redis) == [server_of(redis, "levelq:any")] == [redis]
        topology.lost(redis, ConnectionError())
        with pytest.raises(ConfigurationError, match=r"redis\+cluster://"):
            topology.moved(MovedError("1 b:2"))


def test_hosts_are_those_of_the_url_without_a_query() -> None:
    with connect("redis://h:1", 1) as redis:
        assert hosts_of(redis) == ["h"]


def clients() -> ClusterTopology[Redis]:
    target = RedisTarget.read("redis+cluster://a:1,b:2")
    assert target is not None
    return ClusterTopology(target, Redis.from_url)


def test_moved_slot_is_noted_until_the_table_is_forgotten() -> None:
    topology = clients()
    slots = topology.learn([[0, 16_383, [b"a", 1]]], A)
    assert slots is not None and topology.holder(slots, "levelq:x") is topology.client(A)
    topology.moved(MovedError(f"{key_slot(b'levelq:x')} b:2"))
    assert topology.slots is not None and topology.holder(topology.slots, "levelq:x") is topology.client(B)
    topology.lost(topology.client(A), ConnectionError())
    assert topology.slots is None


def test_lost_server_and_the_source_of_the_table_are_asked_last() -> None:
    topology = clients()
    topology.learn([[0, 16_383, [b"", 1]]], A)
    topology.lost(topology.client(A), ConnectionError())
    assert topology.candidates() == [B, A]


def test_silent_server_is_not_tried_again_for_a_moment() -> None:
    topology = clients()
    slots = topology.learn([[0, 16_383, [b"a", 1]]], A)
    assert slots is not None
    topology.lost(topology.client(A), TimeoutError())
    with pytest.raises(NotConnected, match="a:1 did not answer a moment ago"):
        topology.holder(slots, "levelq:x")


def test_slot_without_a_server_is_not_connected() -> None:
    topology = clients()
    slots = topology.learn([[0, 0, [b"a", 1]]], A)
    assert slots is not None and topology.learn([], A) is None
    with pytest.raises(NotConnected, match="no server of the cluster holds the slot"):
        topology.holder(slots, "levelq:x")
