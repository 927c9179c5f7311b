"""How throughput, lag, backlog and batch size changed over the last hour or day: what charts show."""

from __future__ import annotations

from typing import Literal

from redis import Redis

from levelq_core.domain.lag_histogram import quantile
from levelq_core.errors import InvalidArgument
from levelq_core.keys import Keys
from levelq_core.lanes import trend_slots
from levelq_core.lanes.trend_slots import DAY, HOUR, Slot
from levelq_core.operations.connections import redis_of
from levelq_core.operations.wording import time_of
from levelq_core.settings import Settings

from .records import Reading, Time

Window = Literal["1h", "24h"]
_SERIES = {"1h": HOUR, "24h": DAY}


class TrendPoint(Reading):
    """What all workers did in one slot of time, which begins at `at`. None: it is not known, as no worker reported.

    `applied_per_second` and `rejected_per_second`: the means over the slot. A lag is the time from send to commit, of
    the commands decided in the slot, within 7 %; None if there are none. `batch_commands`: the mean of commands in a
    batch; None without a batch. `waiting` (commands) and `parked` (lanes, without those of paused users): the largest
    of the samples, of which one is taken each minute.
    """

    at: Time
    applied_per_second: float | None = None
    rejected_per_second: float | None = None
    lag_p50_seconds: float | None = None
    lag_p99_seconds: float | None = None
    waiting: int | None = None
    parked: int | None = None
    batch_commands: float | None = None


class Trends(Reading):
    """One point for each slot of `slot_seconds` in the window, the oldest first, without the slot under way.

    `at`: when it was read, by the clock of Redis.
    """

    window: Window
    slot_seconds: int
    at: Time
    points: tuple[TrendPoint, ...]


def trends(settings: Settings | None = None, window: Window = "1h") -> Trends:
    """Read the trends of a namespace: "1h" has 60 points, a minute each; "24h" 144, of ten minutes. Changes nothing.

    `settings`: those of the environment unless given. It blocks: on an event loop, run it in a thread. Raises
    InvalidArgument for another window, and ConfigurationError if the settings cannot be read, or Redis does not answer.
    """
    settings = Settings.of(settings)
    if window not in _SERIES:
        expected = " or ".join(map(repr, _SERIES))
        raise InvalidArgument(f"window: expected {expected}, got {window!r}", field="window", value=window)
    with redis_of(settings) as redis:
        return read_trends(redis, settings.keys, window)


def read_trends(redis: Redis, keys: Keys, window: Window, now_ms: int | None = None) -> Trends:
    """The same, on a client of the lanes' Redis, at a time in ms, now unless given. Raises RedisError."""
    series = _SERIES[window]
    found = trend_slots.read(redis, keys, series, now_ms)
    return Trends(
        window=window,
        slot_seconds=series.slot_seconds,
        at=time_of(found.now_ms),
        points=tuple(
            _point(begins, slot, series.slot_seconds) for begins, slot in zip(found.begins, found.slots, strict=True)
        ),
    )


def _point(begins: int, slot: Slot | None, seconds: int) -> TrendPoint:
    at = time_of(1000 * begins)
    if slot is None:
        return TrendPoint(at=at)
    return TrendPoint(
        at=at,
        applied_per_second=round(slot.applied / seconds, 3),
        rejected_per_second=round(slot.rejected / seconds, 3),
        lag_p50_seconds=quantile(slot.lags, 0.5),
        lag_p99_seconds=quantile(slot.lags, 0.99),
        waiting=slot.waiting,
        parked=slot.parked,
        batch_commands=round(slot.commands / slot.batches, 1) if slot.batches else None,
    )
