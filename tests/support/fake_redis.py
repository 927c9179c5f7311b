"""fakeredis with what levelq's scripts need: it knows no #! line, no INFO and no redis.sha1hex."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from hashlib import sha1
from typing import Any

import fakeredis
import pytest

from levelq_core.lanes import script_files
from levelq_core.lanes.script_files import Script


@contextmanager
def fake_redis(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A client of a new server. While the test runs, scripts are loaded as fakeredis can read them."""
    load = script_files.load

    @cache
    def readable(name: str) -> Script:
        text = load(name).text.partition("\n")[2].replace("redis.call('INFO', 'server')", "'run_id:fa4e'")
        return Script(text, sha1(text.encode()).hexdigest())

    monkeypatch.setattr(script_files, "load", readable)
    server: Any = fakeredis.FakeServer()
    with fakeredis.FakeRedis(server=server) as client:
        client.eval("return 1", 0)  # makes the server's one Lua runtime
        server._lua_runtime.globals()[b"redis"][b"sha1hex"] = lambda raw: sha1(raw).hexdigest().encode()
        yield client
