"""Outage and Backoff: wait longer each time, with jitter, and log each cause once."""

import logging

import pytest

from levelq_worker.support.backoff import HEALTHY_SECONDS, Backoff
from levelq_worker.support.outage import FIRST_SECONDS, MOST_SECONDS, Outage
from levelq_worker.support.stop import Stop

WEEKEND = 2000  # as many failures as a weekend without a server brings


class RecordedWaits(Stop):
    """A stop that records how long a caller wants to wait for it, and does not wait."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[float] = []

    def wait(self, seconds: float) -> bool:
        self.waits.append(seconds)
        return self.is_set()


def failed(times: int, *, most_seconds: float = MOST_SECONDS) -> list[float]:
    """The waits after this number of failures in a row."""
    stop = RecordedWaits()
    outage = Outage(stop, most_seconds=most_seconds)
    for _ in range(times):
        outage.failed("Redis: gone")
    return stop.waits


def test_each_delay_doubles_up_to_a_limit_and_a_success_starts_over() -> None:
    backoff = Backoff(0.5, 3.0)
    assert [backoff.next_delay() for _ in range(WEEKEND)] == [0.5, 1.0, 2.0] + [3.0] * (WEEKEND - 3)
    assert backoff.failures == WEEKEND
    backoff.reset()
    assert (backoff.failures, backoff.next_delay()) == (0, 0.5)


def test_an_attempt_that_lasted_long_counts_as_a_success() -> None:
    backoff = Backoff(0.5, 3.0)
    lasted = [0.0, HEALTHY_SECONDS, HEALTHY_SECONDS + 1.0, 0.0]
    assert [backoff.next_delay(seconds) for seconds in lasted] == [0.5, 1.0, 0.5, 1.0]


def test_each_wait_is_longer_up_to_a_limit_with_jitter() -> None:
    waits = failed(40)
    for n, wait in enumerate(waits):
        most = min(MOST_SECONDS, FIRST_SECONDS * 2**n)
        assert most / 2 <= wait <= most
    assert len(set(waits[-20:])) > 1


def test_the_longest_wait_can_be_bounded_further() -> None:
    assert max(failed(WEEKEND, most_seconds=0.25)) <= 0.25


def test_an_outage_is_logged_once_and_so_is_its_end(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "levelq")
    outage = Outage(RecordedWaits())
    outage.passed()
    for _ in range(3):
        outage.failed("PostgreSQL: refused")
    outage.passed()
    outage.passed()
    outage.failed("PostgreSQL: refused again")
    assert caplog.messages == [
        "waiting: PostgreSQL: refused",
        "working again after 3 failed attempts",
        "waiting: PostgreSQL: refused again",
    ]


def test_each_cause_is_logged_once_and_no_more_than_a_few(caplog: pytest.LogCaptureFixture) -> None:
    outage = Outage(RecordedWaits())
    causes = ["shutting down", "away", "starting up"]
    for cause in [*causes * 3, *(f"port {n}" for n in range(100))]:
        outage.failed(cause)
    assert caplog.messages == [f"waiting: {cause}" for cause in (*causes, "port 0", "port 1")]
    outage.passed()
    outage.failed("away")
    assert caplog.messages[-1] == "waiting: away"


def test_an_outage_lasts_until_a_success() -> None:
    stop = RecordedWaits()
    outage = Outage(stop)
    assert not outage.bad
    outage.failed("x")
    outage.failed("x")
    assert outage.bad
    outage.passed()
    assert not outage.bad
    outage.failed("x")
    assert stop.waits[-1] <= FIRST_SECONDS


def test_a_stop_request_ends_the_wait_at_once() -> None:
    stop = Stop()
    stop.set()
    outage = Outage(stop, most_seconds=10**6)
    for _ in range(30):
        outage.failed("x")  # would take days
    assert outage.bad


@pytest.mark.parametrize("unexpected", [False, True])
def test_only_an_unexpected_failure_is_logged_with_its_traceback(
    unexpected: bool, caplog: pytest.LogCaptureFixture
) -> None:
    try:
        raise RuntimeError("a bug")
    except RuntimeError:
        Outage(RecordedWaits()).failed("a bug", unexpected=unexpected)
    assert [bool(record.exc_info) for record in caplog.records] == [unexpected]
