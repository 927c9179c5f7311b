"""One partition as its page shows it: counts, the longest and oldest lanes, what is parked or paused, and why."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import NamedTuple

from redis.exceptions import RedisError
from sqlalchemy import Engine

from levelq_core.errors import ConfigurationError
from levelq_core.keys import Partition
from levelq_core.lanes.client import Lanes
from levelq_core.lanes.parked import read
from levelq_core.lanes.pauses import PARKED_REASON
from levelq_core.lanes.shard_layout import Layout
from levelq_core.operations.connections import database_of, lanes_of
from levelq_core.operations.parked_advice import is_locked
from levelq_core.operations.wording import count, one_line
from levelq_core.settings import Settings

from . import problems
from .hot_spots import DeepLane, deep_lanes
from .pauses import ActivePause, active_pauses
from .records import ParkedLane, Reading, Time
from .status import PartitionStatus, partition_status

MOST_PARKED = 50
MOST_DEEP = 20
MOST_PAUSES = 50


class PartitionReport(Reading):
    """What a partition holds. Lists are bounded, whatever it holds: the totals are in `status` and `pauses_total`.

    `drains`: how many work on it now. `shards`: the partitions of its specialization; `change`: what a change of their
    number waits for. `longest`, `oldest`: see HotSpots. `parked_lanes`: the oldest first, without those of paused
    users, which are among the `pauses`. `holder`: which session of other code holds rows, if a lane is parked for that.
    `problems`: which server did not answer.
    """

    at: Time
    status: PartitionStatus
    drains: int
    shards: tuple[str, ...]
    change: str | None
    longest: tuple[DeepLane, ...]
    oldest: tuple[DeepLane, ...]
    parked_lanes: tuple[ParkedLane, ...]
    pauses: tuple[ActivePause, ...]
    pauses_total: int
    holder: str | None
    problems: tuple[str, ...]


class _Held(NamedTuple):
    holder: str | None = None
    problem: str | None = None


def partition_report(settings: Settings, partition: Partition, *, engine: Engine | None = None) -> PartitionReport:
    """Read one partition: a few milliseconds of Redis, however many lanes it has. Changes nothing.

    `engine`: to ask who holds rows. Raises ConfigurationError if Redis does not answer.
    """
    with lanes_of(settings) as lanes:
        seen = lanes.status(partition)
        found = read(lanes.redis, lanes.keys, partition).lanes
        deep = deep_lanes(lanes.redis, lanes.keys, [partition], most=MOST_DEEP)
        pauses = active_pauses(lanes, [partition])
        shards, change = _layout(lanes, partition)
    parked = [lane for lane in found if not lane.reason.startswith(PARKED_REASON)][:MOST_PARKED]
    held = _Held()
    if engine is not None and any(is_locked(lane.reason) for lane in parked):
        held = _held(settings, engine)
    return PartitionReport(
        at=datetime.now(UTC),
        status=partition_status(partition, seen),
        drains=seen.drains,
        shards=shards,
        change=change,
        longest=deep.longest,
        oldest=deep.oldest,
        parked_lanes=tuple(ParkedLane.of(partition, lane, held.holder) for lane in parked),
        pauses=tuple(pauses[:MOST_PAUSES]),
        pauses_total=len(pauses),
        holder=held.holder,
        problems=() if held.problem is None else (held.problem,),
    )


def _layout(lanes: Lanes, partition: Partition) -> tuple[tuple[str, ...], str | None]:
    """The partitions of its specialization, and what a change of their number waits for."""
    name = partition.specialization
    try:
        layout: Layout = lanes.layouts([name])[name]
    except (RedisError, ConfigurationError):  # status says so
        return (str(partition),), None
    change = None
    if layout.next_shards:
        change = f"changes to {count(layout.next_shards, 'shard')}: the old ones are being closed"
    elif layout.previous_shards:
        change = (
            f"changed to {count(layout.shards, 'shard')}: workers empty the {layout.previous_shards} old ones first"
        )
    return tuple(str(each) for each in sorted(layout.all_partitions(name))), change


def _held(settings: Settings, engine: Engine) -> _Held:
    try:
        with database_of(settings, engine) as used, used.connect() as connection:
            return _Held(problems.held_by(problems.row_holder(connection, settings)))
    except ConfigurationError as error:
        return _Held(problem=one_line(str(error)))
