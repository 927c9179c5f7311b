"""What still waits, for `levelq drain --wait`: commands in lanes and outbox, and lanes that drains hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import Engine, text

from levelq_core.database.table_names import OUTBOX
from levelq_core.lanes.client import Lanes
from levelq_core.lanes.partition_directory import partitions
from levelq_core.lanes.wakeups import Waker


class Backlog(NamedTuple):
    """Commands in lanes, lanes that drains hold, and rows of the outbox (0 without a database)."""

    commands: int
    claimed: int
    rows: int


def wake_drains(lanes: Lanes, waker: Waker, specializations: Sequence[str]) -> int:
    """Sweep these specializations, and wake a drain where something is due; how many. Raises RedisError."""
    woken = 0
    for partition in partitions(lanes, specializations):
        wake, _ = lanes.sweep(partition)
        if wake:
            waker.wake(partition)
            woken += 1
    return woken


def backlog(lanes: Lanes, engine: Engine | None, specializations: Sequence[str]) -> Backlog:
    """Count it. The outbox is read first, because its commands go to the lanes. Raises RedisError, DBAPIError."""
    rows = 0
    if engine is not None:
        with engine.connect() as connection:
            rows = connection.execute(_ROWS, {"names": list(specializations)}).scalar_one()
    found = [lanes.status(partition) for partition in partitions(lanes, specializations)]
    return Backlog(sum(each.waiting for each in found), sum(each.claimed for each in found), rows)


# A row is deleted when its command is decided, so one that the relay has pushed counts here and in its lane.
_ROWS = text(f"SELECT count(*) FROM {OUTBOX} WHERE specialization = ANY(CAST(:names AS text[]))")
