"""fakeredis as a server of lanes: it takes scripts only without their #! line, and its Lua has no redis.sha1hex."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from hashlib import sha1
from typing import Any

import fakeredis
import pytest

from levelq_core.lanes import script_files
from levelq_core.lanes.script_files import Script


@contextmanager
def fake_lanes(edit: Callable[[str], str] = str) -> Iterator[fakeredis.FakeRedis]:
    """A client of a server of its own; while this block runs, all scripts are loaded for it. `edit`: of their text."""
    load = script_files.load

    @cache
    def load_for_fakeredis(name: str, **_: Any) -> Script:
        text = edit(load(name).text.partition("\n")[2])
        return Script(text, sha1(text.encode()).hexdigest())

    server: Any = fakeredis.FakeServer()
    with pytest.MonkeyPatch.context() as patch, fakeredis.FakeRedis(server=server) as client:
        patch.setattr(script_files, "load", load_for_fakeredis)
        client.eval("return 1", 0)  # makes the server's one Lua runtime
        server._lua_runtime.globals()[b"redis"][b"sha1hex"] = lambda raw: sha1(raw).hexdigest().encode()
        yield client
