"""The lane scripts on fakeredis: the shared suite, in milliseconds."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest

from tests.conformance.lanes import Bench, Benches, LanesConformance
from tests.support.fake_lanes import fake_lanes


@pytest.fixture
def bench() -> Iterator[Benches]:
    with fake_lanes() as redis:
        yield partial(Bench, redis)


class TestLanesOnFakeredis(LanesConformance):
    """See tests/conformance."""
