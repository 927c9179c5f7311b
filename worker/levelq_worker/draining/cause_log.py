"""The log of causes that last, such as why lanes are parked: each is logged once while it lasts."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from levelq_core.coupler.lane_batch import Parked
from levelq_core.keys import Partition
from levelq_core.lanes.parked import cause_of
from levelq_core.log_events import log_event
from levelq_core.operations.wording import count, users_named

LASTS_SECONDS = 150.0  # a cause that was not met for this long has ended: lanes are parked for a minute at most
MOST_CAUSES = 1_000  # remembered; beyond that, the one met longest ago counts as new

Cause = tuple[object, object]


class CauseLog:
    """Remembers the causes that this process met, each by what it concerns (mostly a partition) and by a mark."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._met_at: dict[Cause, float] = {}  # the one met last is last

    def log_parked(self, partition: Partition, lanes: Sequence[Parked]) -> None:
        """Log why these lanes are parked, with the first users of each cause."""
        by_cause: dict[str, list[Parked]] = {}
        for lane in lanes:
            by_cause.setdefault(cause_of(lane.reason), []).append(lane)
        for cause, same in by_cause.items():
            users = users_named([lane.work.lane.user_id for lane in same])
            what = f"%(partition)s: {count(len(same), 'lane')} parked: %(error)s; %(users)s"
            fields = {"partition": partition, "lanes": len(same), "error": same[0].reason, "users": users}
            self.log(logging.WARNING, (partition, cause), "lanes_parked", what, **fields)

    def log(self, level: int, cause: Cause, event: str, message: str, **fields: object) -> None:
        """Log an event, as log_event does, unless its cause was met before and lasts."""
        now = self._clock()
        before = self._met_at.pop(cause, None)
        self._met_at[cause] = now
        if len(self._met_at) > MOST_CAUSES:
            del self._met_at[next(iter(self._met_at))]
        if before is None or now - before > LASTS_SECONDS:
            log_event(level, event, message, **fields)
