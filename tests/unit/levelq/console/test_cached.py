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


def test_change_does_not_wait_for_a_reading_under_way_and_is_seen_by_the_next() -> None:
    """The event loop tells it: a reading that hangs must not hold up every other page."""
    begun, goes_on = Event(), Event()
    values = iter([1, 2])

    def read() -> int:
        begun.set()
        assert goes_on.wait(30)
        return next(values)

    cached = Cached(read, 1_000.0)
    with ThreadPoolExecutor(2) as viewers:
        first = viewers.submit(cached.get)
        assert begun.wait(30)
        try:
            viewers.submit(cached.forget).result(5)
        finally:
            goes_on.set()
        assert first.result(30) == 1
    assert (cached.get(), cached.get()) == (2, 2)
