"""The lane scripts on a real Valkey: the shared suite, with the #! lines fakeredis does not know."""

from __future__ import annotations

from functools import partial

import pytest
from redis import Redis

from tests.conformance.lanes import Bench, Benches, LanesConformance


@pytest.fixture
def bench(redis: Redis) -> Benches:
    return partial(Bench, redis, shebang=True)


class TestLanesOnValkey(LanesConformance):
    """See tests/conformance."""
