"""What workers write down while they wait for something, and who reads it."""

import time

from redis import Redis

from levelq_core import Settings
from levelq_core.lanes.worker_alerts import MOST_CHARACTERS, MOST_WORKERS, WorkerAlerts, read
from levelq_worker.support.outage import Outage, alerts_of
from levelq_worker.support.stop import Stop
from tests.support.fixtures.command_line import NOWHERE
from tests.support.fixtures.keys import KEYS
from tests.support.fixtures.waiting import until


def post(redis: Redis, worker: str, what: str = "x", seconds: float = 60) -> WorkerAlerts:
    alerts = WorkerAlerts(redis, KEYS, worker, seconds)
    alerts.post(what)
    return alerts


def test_alert_is_as_old_as_its_first_post_and_goes_when_withdrawn(redis: Redis) -> None:
    alerts = post(redis, "a:1", "first")
    until(lambda: read(redis, KEYS)[0].seconds > 0.02)
    alerts.post("second" * MOST_CHARACTERS)
    (alert,) = read(redis, KEYS)
    assert alert.worker == "a:1" and alert.seconds > 0.02 and len(alert.what) == MOST_CHARACTERS
    alerts.withdraw()
    assert read(redis, KEYS) == []
    again = time.monotonic()
    alerts.post("again")
    assert read(redis, KEYS)[0].seconds <= time.monotonic() - again + 0.002  # Redis's time in ms, rounded


def test_alert_that_is_not_renewed_is_not_read(redis: Redis) -> None:
    post(redis, "dead", seconds=0.05)
    post(redis, "alive")
    until(lambda: [alert.worker for alert in read(redis, KEYS)] == ["alive"])
    assert 0 < redis.pttl(KEYS.notices) <= 60_000


def test_dead_workers_leave_a_bounded_number_of_alerts(redis: Redis) -> None:
    for n in range(MOST_WORKERS + 1):
        post(redis, f"host:{n}")
    assert redis.hlen(KEYS.notices) == 1


def test_alert_that_redis_refuses_is_dropped() -> None:
    with Redis.from_url(f"redis://{NOWHERE}") as nowhere:
        post(nowhere, "a:1").withdraw()


def test_worker_leaves_its_alert_as_long_as_it_waits(redis: Redis, settings: Settings) -> None:
    stop = Stop()
    stop.set()  # this test does not wait
    outage = Outage(stop, notices=alerts_of(redis, settings))
    outage.failed("PostgreSQL: starting up")
    outage.failed("PostgreSQL: read-only")
    assert [alert.what for alert in read(redis, KEYS)] == ["PostgreSQL: read-only"]
    outage.passed()
    assert read(redis, KEYS) == []
    outage.failed("PostgreSQL: away")
    outage.end()
    assert read(redis, KEYS) == []
