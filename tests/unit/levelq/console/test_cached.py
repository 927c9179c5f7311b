"""A reading is made once for all who ask at a time, also one that fails."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest

from levelq.console.cached import Cached


def test_failure_is_shared_by_all_who_wait_for_it() -> None:
    readings, goes_on = [], Event()

    def read() -> int:
        readings.append(1)
        assert goes_on.wait(30)
        raise ConnectionError("no answer")

    cached = Cached(read, 10.0)
    with ThreadPoolExecutor(8) as viewers:
        asked = [viewers.submit(cached.get) for _ in range(8)]
        goes_on.set()
        assert {type(one.exception(30)) for one in asked} == {ConnectionError}
    assert len(readings) == 1
    cached.forget()
    with pytest.raises(ConnectionError):
        cached.get()
    assert len(readings) == 2
