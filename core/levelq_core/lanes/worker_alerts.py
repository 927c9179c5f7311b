"""WorkerAlerts: what keeps workers from working, left in Redis for `levelq status`.

Redis mostly is there when PostgreSQL is not. What is wrong with Redis itself, status sees for itself.
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any, NamedTuple

from redis import Redis
from redis.exceptions import RedisError, ResponseError

from levelq_core.keys import Keys
from levelq_core.redis_client.topology import server_of
from levelq_core.redis_client.wrong_type import is_wrong_type
from levelq_core.untrusted_text import MOST_SHOWN, printable

MOST_WORKERS = 200  # a worker that is killed and started again leaves a field for each of its lives
MOST_CHARACTERS = 500  # of one notice


class WorkerAlert(NamedTuple):
    """Who is kept from working, for how long by now, and by what."""

    worker: str
    seconds: float
    what: str


class WorkerAlerts:
    """The notice of one worker, or of a thread of it, named behind a space. Its loss changes nothing.

    So what Redis refuses is let be.
    """

    def __init__(self, redis: Redis, keys: Keys, worker: str, seconds: float) -> None:
        self._redis = redis
        self._key = keys.notices
        self._worker = worker
        self._seconds = seconds
        self._since = 0

    def post(self, what: str) -> None:
        """Leave a notice, or renew it: unless renewed it counts for nothing after `seconds`."""
        with suppress(RedisError):
            now = _now_ms(self._redis, self._key)
            self._since = self._since or now
            until = now + int(1000 * self._seconds)
            crowded = int(self._redis.hlen(self._key)) >= MOST_WORKERS
            with server_of(self._redis, self._key).pipeline() as pipeline:
                if crowded:
                    pipeline.delete(self._key)  # the living renew theirs
                pipeline.hset(self._key, self._worker, json.dumps([self._since, until, what[:MOST_CHARACTERS]]))
                pipeline.pexpire(self._key, until - now)
                pipeline.execute()

    def withdraw(self) -> None:
        """It has passed."""
        self._since = 0
        with suppress(RedisError):
            self._redis.hdel(self._key, self._worker)


def read(redis: Redis, keys: Keys) -> list[WorkerAlert]:
    """The notices that count and can be read (see key_faults.py), the oldest first. Raises RedisError."""
    now = _now_ms(redis, keys.notices)
    found: list[WorkerAlert] = []
    try:
        fields: Any = redis.hgetall(keys.notices)
    except ResponseError as error:
        if not is_wrong_type(error):
            raise
        fields = {}
    for worker, value in fields.items():
        alert = read_alert(value)
        if alert is not None and alert[1] > now:
            since, _, what = alert
            name = printable(worker.partition(b" ")[0], MOST_SHOWN)
            found.append(WorkerAlert(name, (now - since) / 1000, printable(what, MOST_CHARACTERS)))
    return sorted(found, key=lambda notice: -notice.seconds)


def read_alert(raw: bytes) -> tuple[float, float, str] | None:
    """A worker's alert: since when and until when (ms), and why; None if it is none."""
    try:
        since, until, what = json.loads(raw)
    except (ValueError, TypeError, RecursionError):
        return None
    numbers = all(isinstance(time, int) and abs(time) < 2**53 for time in (since, until))
    return (since, until, what) if numbers and isinstance(what, str) else None


def _now_ms(redis: Redis, key: str) -> int:
    seconds, microseconds = server_of(redis, key).time()
    return int(seconds) * 1000 + int(microseconds) // 1000
