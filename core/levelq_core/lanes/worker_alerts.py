"""What keeps workers from working, left in Redis for `levelq status`.

Redis is mostly up when PostgreSQL is not. `levelq status` finds problems of Redis itself.
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import NamedTuple

from redis import Redis
from redis.exceptions import RedisError

from levelq_core.keys import Keys
from levelq_core.redis_client.topology import server_of, time_ms
from levelq_core.redis_client.wrong_type import unless_wrong_type
from levelq_core.untrusted_text import MOST_SHOWN, printable

MOST_WORKERS = 200  # a worker that is killed and restarted leaves one field each time
MOST_CHARACTERS = 500  # of one alert


class WorkerAlert(NamedTuple):
    """A worker that cannot work, for how long by now, and why."""

    worker: str
    seconds: float
    what: str


class WorkerAlerts:
    """The alert of one worker, or of one of its threads, named behind a space.

    A lost alert changes nothing, so errors of Redis are ignored.
    """

    def __init__(self, redis: Redis, keys: Keys, worker: str, seconds: float) -> None:
        self._redis = redis
        self._key = keys.notices
        self._worker = worker
        self._seconds = seconds
        self._since = 0

    def post(self, what: str) -> None:
        """Post the alert, or renew it: it expires after `seconds`."""
        with suppress(RedisError):
            now = time_ms(server_of(self._redis, self._key))
            self._since = self._since or now
            until = now + int(1000 * self._seconds)
            crowded = int(self._redis.hlen(self._key)) >= MOST_WORKERS
            with server_of(self._redis, self._key).pipeline() as pipeline:
                if crowded:
                    pipeline.delete(self._key)  # live workers renew theirs
                pipeline.hset(self._key, self._worker, json.dumps([self._since, until, what[:MOST_CHARACTERS]]))
                pipeline.pexpire(self._key, until - now)
                pipeline.execute()

    def withdraw(self) -> None:
        """Remove the alert."""
        self._since = 0
        with suppress(RedisError):
            self._redis.hdel(self._key, self._worker)


def read(redis: Redis, keys: Keys) -> list[WorkerAlert]:
    """The alerts that have not expired and can be read (see key_faults.py), the oldest first. Raises RedisError."""
    now = time_ms(server_of(redis, keys.notices))
    found: list[WorkerAlert] = []
    for worker, value in unless_wrong_type({}, redis.hgetall, keys.notices).items():
        alert = read_alert(value)
        if alert is not None and alert[1] > now:
            since, _, what = alert
            name = printable(worker.partition(b" ")[0], MOST_SHOWN)
            found.append(WorkerAlert(name, (now - since) / 1000, printable(what, MOST_CHARACTERS)))
    return sorted(found, key=lambda alert: -alert.seconds)


def read_alert(raw: bytes) -> tuple[float, float, str] | None:
    """Since when and until when (ms) a worker cannot work, and why; None if this is no alert."""
    try:
        since, until, what = json.loads(raw)
    except (ValueError, TypeError, RecursionError):
        return None
    numbers = all(isinstance(time, int) and abs(time) < 2**53 for time in (since, until))
    return (since, until, what) if numbers and isinstance(what, str) else None
