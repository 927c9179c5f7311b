"""The lane scripts on a real Valkey: the shared suite, with the #! lines fakeredis does not know."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from redis import Redis

from tests.conformance.kit import identity, payload
from tests.conformance.lanes import Bench, Benches, LanesConformance


@pytest.fixture
def bench(redis: Redis) -> Benches:
    return partial(Bench, redis)


class TestLanesOnValkey(LanesConformance):
    """See tests/conformance."""


class TestLanesBesideAnotherNamespace(LanesConformance):
    """The same while another namespace has commands of the same users on the same Redis: it stays as it was."""

    @pytest.fixture
    def bench(self, redis: Redis) -> Iterator[Benches]:
        neighbour = Bench(redis)
        neighbour.fill(u1=3, u2=2, u3=1)
        neighbour.claim("neighbour", commands=3)
        redis.delete(neighbour.key("wake"))  # it expires by itself
        before = neighbour.everything()
        yield partial(Bench, redis, namespace="other")
        assert neighbour.everything() == before
        neighbour.check()
        keys: Any = redis.keys("*")
        assert {key.partition(b":")[0] for key in keys} <= {b"levelq", b"other"}


def test_acknowledgement_without_parked_lanes_costs_one_exists(redis: Redis) -> None:
    b = Bench(redis, batch_lanes=500)
    b.push_to(*((user, (payload(user),)) for user in range(1, 301)))
    claim = b.claim()
    decided = [(user, 0, identity(entries[0])) for user, entries in claim.lanes]
    redis.config_resetstat()
    assert b.lanes.ack(b.partition, "token", decided) == [1] * 300
    calls = {name: stats["calls"] for name, stats in redis.info("commandstats").items()}
    assert calls["cmdstat_exists"] == 1
    assert calls["cmdstat_hdel"] == 1  # of the tokens
    assert not {"cmdstat_hget", "cmdstat_hset"} & set(calls)


def test_claim_without_pauses_costs_one_exists_for_them(redis: Redis) -> None:
    b = Bench(redis, batch_lanes=500)
    b.push_to(*((user, (payload(user),)) for user in range(1, 301)))
    redis.config_resetstat()
    assert len(b.claim().lanes) == 300
    calls = {name: stats["calls"] for name, stats in redis.info("commandstats").items()}
    assert calls["cmdstat_exists"] == 2  # paused, parked
    assert not {"cmdstat_hget", "cmdstat_hgetall"} & set(calls)


@pytest.mark.parametrize("lasts_ms", [None, 10**9])
def test_lease_that_no_relay_made_is_taken_over(redis: Redis, lasts_ms: int | None) -> None:
    b = Bench(redis)
    redis.set(b.key("relay"), "planted", px=lasts_ms)
    assert b.lanes.lease(b.partition, "take").is_holder
    assert not b.lanes.lease(b.partition, "take", b"another").is_holder
