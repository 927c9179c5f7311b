"""Notices: what keeps workers from working, left in Redis for `levelq status`.

Redis mostly is there when PostgreSQL is not. What is wrong with Redis itself, status sees for itself.
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any, NamedTuple

from redis import Redis
from redis.exceptions import RedisError

from .cluster import server_of
from .partitions import Keys

MOST_WORKERS = 200  # a worker that is killed and started again leaves a field for each of its lives
MOST_CHARACTERS = 500  # of one notice


class Notice(NamedTuple):
    """Who is kept from working, for how long by now, and by what."""

    worker: str
    seconds: float
    what: str


class Notices:
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


def read(redis: Redis, keys: Keys) -> list[Notice]:
    """The notices that count, the oldest first. Raises RedisError."""
    now = _now_ms(redis, keys.notices)
    found: list[Notice] = []
    fields: Any = redis.hgetall(keys.notices)
    for worker, value in fields.items():
        since, until, what = json.loads(value)
        if until > now:
            found.append(Notice(worker.decode().partition(" ")[0], (now - since) / 1000, what))
    return sorted(found, key=lambda notice: -notice.seconds)


def _now_ms(redis: Redis, key: str) -> int:
    seconds, microseconds = server_of(redis, key).time()
    return int(seconds) * 1000 + int(microseconds) // 1000
