"""How throughput, lag, backlog and batch size changed over the last hour or day: what charts show."""

from __future__ import annotations

from collections.abc import Iterable
from math import ceil
from typing import Literal

from redis import Redis

from levelq_core.domain.lag_histogram import merged, quantile
from levelq_core.errors import InvalidArgument
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
    of the samples, of which one is taken every 20 s.
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
    """Read the trends of a namespace: "1h" has 180 points, of 20 s each; "24h" 144, of ten minutes. Changes nothing.

    If LEVELQ_SWEEP_SECONDS, between two reports of a worker, is longer than half a slot, a point covers several slots.
    `settings`: those of the environment unless given. It blocks: on an event loop, run it in a thread. Raises
    InvalidArgument for another window, and ConfigurationError if the settings cannot be read, or Redis does not answer.
    """
    settings = Settings.of(settings)
    if window not in _SERIES:
        expected = " or ".join(map(repr, _SERIES))
        raise InvalidArgument(f"window: expected {expected}, got {window!r}", field="window", value=window)
    with redis_of(settings) as redis:
        return read_trends(redis, settings, window)


def read_trends(redis: Redis, settings: Settings, window: Window, now_ms: int | None = None) -> Trends:
    """The same, on a client of the lanes' Redis, at a time in ms, now unless given. Raises RedisError."""
    series = _SERIES[window]
    found = trend_slots.read(redis, settings.keys, series, now_ms)
    step = ceil(2 * settings.sweep_seconds / series.slot_seconds)  # else slots between two reports would seem idle
    seconds = step * series.slot_seconds
    return Trends(
        window=window,
        slot_seconds=seconds,
        at=time_of(found.now_ms),
        points=tuple(
            _point(found.begins[first], _sum(found.slots[first : first + step]), seconds)
            for first in range(series.slots % step, series.slots, step)
        ),
    )


def _sum(slots: Iterable[Slot | None]) -> Slot | None:
    """What was done in several slots; None if it is not known of any."""
    known = [slot for slot in slots if slot is not None]
    if len(known) < 2:
        return known[0] if known else None
    return Slot(
        applied=sum(slot.applied for slot in known),
        rejected=sum(slot.rejected for slot in known),
        commands=sum(slot.commands for slot in known),
        batches=sum(slot.batches for slot in known),
        lags=merged(slot.lags for slot in known),
        waiting=max((slot.waiting for slot in known if slot.waiting is not None), default=None),
        parked=max((slot.parked for slot in known if slot.parked is not None), default=None),
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
