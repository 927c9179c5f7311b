"""The lane scripts on a real Valkey: the shared suite, with the #! lines fakeredis does not know."""

from __future__ import annotations

from functools import partial

import pytest
from redis import Redis

from tests.conformance.kit import identity, payload
from tests.conformance.lanes import Bench, Benches, LanesConformance


@pytest.fixture
def bench(redis: Redis) -> Benches:
    return partial(Bench, redis, shebang=True)


class TestLanesOnValkey(LanesConformance):
    """See tests/conformance."""


def test_acknowledgement_without_parked_lanes_costs_one_look(redis: Redis) -> None:
    b = Bench(redis, shebang=True, batch_lanes=500)
    b.push_to(*((user, (payload(user),)) for user in range(1, 301)))
    claim = b.claim()
    decided = [(user, 0, identity(entries[0])) for user, entries in claim.lanes]
    redis.config_resetstat()
    assert b.lanes.ack(b.partition, "token", decided) == [1] * 300
    calls = {name: stats["calls"] for name, stats in redis.info("commandstats").items()}
    assert calls["cmdstat_exists"] == 1
    assert calls["cmdstat_hdel"] == 1  # of the tokens
    assert not {"cmdstat_hget", "cmdstat_hset"} & set(calls)
