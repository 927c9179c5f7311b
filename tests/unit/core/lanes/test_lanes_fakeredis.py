"""The lane scripts on fakeredis: the shared suite, in milliseconds."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from hashlib import sha1
from typing import Any

import fakeredis
import pytest

from tests.conformance.lanes import Bench, Benches, LanesConformance


def _sha1hex(raw: bytes) -> bytes:
    return sha1(raw).hexdigest().encode()


@pytest.fixture
def redis() -> Iterator[fakeredis.FakeRedis]:
    server: Any = fakeredis.FakeServer()
    with fakeredis.FakeRedis(server=server) as client:
        client.eval("return 1", 0)  # makes the server's one Lua runtime, which lacks redis.sha1hex
        server._lua_runtime.globals()[b"redis"][b"sha1hex"] = _sha1hex
        yield client


@pytest.fixture
def bench(redis: fakeredis.FakeRedis) -> Benches:
    return partial(Bench, redis, shebang=False)  # fakeredis knows no #! line


class TestLanesOnFakeredis(LanesConformance):
    """See tests/conformance."""
