"""How far a reading looks where there may be more than it can look at."""

from __future__ import annotations

from typing import NamedTuple

from levelq_core.lanes.parked import MOST_LANES
from levelq_core.lanes.pauses import MOST_PAUSES
from levelq_core.lanes.scan import LOOKED_AT
from levelq_core.operations.key_faults import MOST_MEMBERS

from .standstill import AGAIN_SECONDS


class Bounds(NamedTuple):
    """How far a reading looks: the most that it reads of each.

    `parked`, `pauses` and `due` (lanes) are of each partition, `members` of each other key, `newest` the rows of a
    large table (None: all). `again_seconds`: after which a partition that seems to stand still is read again.
    """

    parked: int = MOST_LANES
    pauses: int = MOST_PAUSES
    due: int = LOOKED_AT
    members: int = MOST_MEMBERS
    newest: int | None = None
    again_seconds: float = AGAIN_SECONDS


ONCE = Bounds()
FOLLOWING = Bounds(parked=200, pauses=100, due=200, members=100, newest=1_000, again_seconds=0.1)  # every two seconds
