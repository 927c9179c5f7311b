"""What all workers did in the last hour and day, in slots of time, for charts. Kept in Redis at a bounded size.

One hash has two series: slots of 20 s for an hour, and of ten minutes for a day. Its fields are `20:1764489600`
(seconds of the slot: when it begins, in Unix time), its values `applied=12 batches=2 commands=12 lag31=12 waiting=0`.
Each worker adds what it did since its last report by trend.lua. `lag31` is a bucket of lag_histogram.py. Nothing
depends on the trends: a worker that is killed, or an error of Redis, loses the seconds since the last report.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple, Self

from redis import Redis

from levelq_core.domain.lag_histogram import MOST_MS, bucket_of
from levelq_core.keys import Keys
from levelq_core.redis_client.topology import server_of, time_ms
from levelq_core.redis_client.wrong_type import unless_wrong_type

MOST_BYTES = 8_192  # of one slot, as in trend.lua


class Series(NamedTuple):
    """Slots of one length. `slots`: how many are kept besides the one under way."""

    slot_seconds: int
    slots: int

    def field(self, begins: int) -> str:
        """The name of a slot."""
        return f"{self.slot_seconds}:{begins}"


HOUR = Series(20, 180)
DAY = Series(600, 144)
SERIES = (HOUR, DAY)

_SLOT = re.compile(rb"\d{1,15}:\d{1,15}")
_FIGURES = re.compile(rb"[a-z]+\d{0,3}=\d{1,15}(?: [a-z]+\d{0,3}=\d{1,15})*+")
_FIGURE = re.compile(rb"([a-z]+)(\d*)=(\d+)")
_LARGEST_BUCKET = bucket_of(MOST_MS)


class Slot(NamedTuple):
    """What workers did. `waiting` (commands) and `parked` (lanes): the largest of the samples, None without one.

    `commands`: those that batches decided, with duplicates and quarantined ones. `lags`: a histogram, see Tally.
    """

    applied: int = 0
    rejected: int = 0
    commands: int = 0
    batches: int = 0
    lags: Mapping[int, int] = {}
    waiting: int | None = None
    parked: int | None = None

    def figures(self) -> list[str | int]:
        """Names and numbers in turn, as trend.lua adds them."""
        found: list[str | int] = []
        for name, number in self._asdict().items():
            if name == "lags":
                for bucket, commands in self.lags.items():
                    found += (f"lag{bucket}", commands)
            elif number is not None:
                found += (name, number)
        return found

    @classmethod
    def read(cls, raw: bytes) -> Self | None:
        """Read what trend.lua wrote; None for anything else, because any program may have written it.

        The figures of a newer worker that this version does not know are ignored.
        """
        if not is_readable(raw):
            return None
        numbers: dict[str, int] = {}
        lags: dict[int, int] = {}
        for name, bucket, number in _FIGURE.findall(raw):
            if bucket and name == b"lag" and int(bucket) <= _LARGEST_BUCKET:
                lags[int(bucket)] = int(number)
            elif not bucket and name in _NUMBERS:
                numbers[name.decode()] = int(number)
        return cls(lags=lags, **numbers)


class Read(NamedTuple):
    """The slots of a series, without the one under way, the oldest first; None for one in which no worker reported.

    `begins`: when each begins, in Unix time by the clock of Redis. `now_ms`: when they were read.
    """

    now_ms: int
    begins: range
    slots: list[Slot | None]


def read(redis: Redis, keys: Keys, series: Series, now_ms: int | None = None) -> Read:
    """The series at a time, now unless given. Raises RedisError."""
    now_ms = time_ms(server_of(redis, keys.trends)) if now_ms is None else now_ms
    length, slots = series
    under_way = now_ms // 1000 // length * length
    begins = range(under_way - slots * length, under_way, length)
    raw = unless_wrong_type([None] * slots, redis.hmget, keys.trends, list(map(series.field, begins)))
    return Read(now_ms, begins, [None if value is None else Slot.read(value) for value in raw])


_NUMBERS = {name.encode() for name in Slot._fields if name != "lags"}


def is_readable(raw: bytes) -> bool:
    """Whether trend.lua may have written this as the figures of a slot."""
    return len(raw) <= MOST_BYTES and _FIGURES.fullmatch(raw) is not None


def is_slot(name: bytes, value: bytes) -> bool:
    """Whether trend.lua may have written this field; `Slot.read` costs several times as much."""
    return _SLOT.fullmatch(name) is not None and is_readable(value)
