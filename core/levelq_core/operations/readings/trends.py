"""How throughput, lag, backlog and batch size changed over the last hour or day: what charts show."""

from __future__ import annotations

from typing import Literal

from levelq_core.settings import Settings

from .records import Reading, Time

Window = Literal["1h", "24h"]


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
    ConfigurationError if the settings cannot be read, the window is another, or Redis does not answer.
    """
    raise NotImplementedError
