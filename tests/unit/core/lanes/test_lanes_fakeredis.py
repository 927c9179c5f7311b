"""The lane scripts on fakeredis: the shared suite, in milliseconds."""

from collections.abc import Iterator
from functools import partial

import pytest

from tests.conformance.lanes import Bench, Benches, LanesConformance
from tests.support.fake_redis import fake_redis


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Benches]:
    with fake_redis(monkeypatch) as client:
        yield partial(Bench, client)


class TestLanesOnFakeredis(LanesConformance):
    """See tests/conformance."""
