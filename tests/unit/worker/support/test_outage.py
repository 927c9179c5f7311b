"""Outage: wait longer each time, with jitter, and say each cause once."""

from __future__ import annotations

import logging

import pytest

from levelq_worker.support.outage import FIRST_SECONDS, MOST_SECONDS, Outage
from levelq_worker.support.stop import Stop


class Waits(Stop):
    """A stop that notes how long somebody wanted to wait for it, and does not."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[float] = []

    def wait(self, seconds: float) -> bool:
        self.asked.append(seconds)
        return self.is_set()


def test_each_wait_is_longer_up_to_a_limit_with_jitter() -> None:
    waits = Waits()
    weather = Outage(waits)
    for _ in range(40):
        weather.failed("Redis: gone")
    for n, asked in enumerate(waits.asked):
        most = min(MOST_SECONDS, FIRST_SECONDS * 2**n)
        assert most / 2 <= asked <= most
    assert len(set(waits.asked[-20:])) > 1


def test_the_longest_wait_can_be_bounded_further() -> None:
    waits = Waits()
    weather = Outage(waits, most_seconds=0.25)
    for _ in range(2000):  # as many failures as a weekend without a database brings
        weather.failed("x")
    assert max(waits.asked) <= 0.25


def test_it_is_said_once_and_so_is_its_end(caplog: pytest.LogCaptureFixture) -> None:
    weather = Outage(Waits())
    with caplog.at_level(logging.DEBUG, "levelq"):
        weather.passed()
        for _ in range(3):
            weather.failed("PostgreSQL: refused")
        weather.passed()
        weather.passed()
        weather.failed("PostgreSQL: refused again")
    assert [record.getMessage() for record in caplog.records] == [
        "waiting: PostgreSQL: refused",
        "working again after 3 failed attempts",
        "waiting: PostgreSQL: refused again",
    ]


def test_each_cause_is_said_once_and_no_more_than_a_few(caplog: pytest.LogCaptureFixture) -> None:
    weather = Outage(Waits())
    for _ in range(3):
        for cause in ("shutting down", "away", "starting up"):
            weather.failed(cause)
    for n in range(100):
        weather.failed(f"port {n}")
    assert caplog.messages == [
        f"waiting: {said}" for said in ("shutting down", "away", "starting up", "port 0", "port 1")
    ]
    weather.passed()
    weather.failed("away")
    assert caplog.messages[-1] == "waiting: away"


def test_it_is_bad_until_it_passed() -> None:
    waits = Waits()
    weather = Outage(waits)
    assert not weather.bad
    weather.failed("x")
    weather.failed("x")
    assert weather.bad
    weather.passed()
    assert not weather.bad
    weather.failed("x")
    assert waits.asked[-1] <= FIRST_SECONDS


def test_a_stop_request_ends_the_wait_at_once() -> None:
    stop = Stop()
    stop.set()
    weather = Outage(stop, most_seconds=10**6)
    for _ in range(30):
        weather.failed("x")  # would take days
    assert weather.bad


def test_only_the_unexpected_comes_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    for unexpected in (False, True):
        try:
            raise RuntimeError("a bug")
        except RuntimeError:
            Outage(Waits()).failed("a bug", unexpected=unexpected)
    assert [bool(record.exc_info) for record in caplog.records] == [False, True]
