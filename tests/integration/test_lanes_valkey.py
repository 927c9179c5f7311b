"""The lane scripts on a real Valkey: the shared suite, with the #! lines fakeredis does not know."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from redis import Redis

from tests.conformance.lanes import Bench, Benches, LanesConformance


@pytest.fixture
def bench(redis: Redis) -> Benches:
    return partial(Bench, redis, shebang=True)


class TestLanesOnValkey(LanesConformance):
    """See tests/conformance."""


class TestLanesBesideAnotherNamespace(LanesConformance):
    """The same while another namespace has commands of the same users on the same Redis: it stays as it was."""

    @pytest.fixture
    def bench(self, redis: Redis) -> Iterator[Benches]:
        neighbour = Bench(redis, shebang=True)
        neighbour.fill(u1=3, u2=2, u3=1)
        neighbour.claim("neighbour", commands=3)
        before = neighbour.everything()
        yield partial(Bench, redis, shebang=True, namespace="other")
        assert neighbour.everything() == before
        neighbour.check()
        keys: Any = redis.keys("*")
        assert {key.partition(b":")[0] for key in keys} <= {b"levelq", b"other"}
