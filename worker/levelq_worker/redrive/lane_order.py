"""What in a lane is newer than a command, which would come out of order if it were sent once more."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text

from levelq_core.database.table_names import LEDGER, OUTBOX
from levelq_core.domain.commands import retry_id
from levelq_core.domain.record import Lane
from levelq_core.lanes import scan
from levelq_core.lanes.client import Lanes
from levelq_core.lanes.shard_layout import Layout

MANY = 10_000  # entries of some lanes, after which no more are read if all these lanes hold other commands
_WAITING = "other commands wait in its lane or in the outbox"


@dataclass
class LaneOrder:
    """One lane: its newest applied command, its retries, and what waits.

    `applied_id` and `applied_at` are of the newest applied command that is no retry of a rejected one, `newest_at` of
    the newest of all. `retried_id`: the ledger id of the newest rejected command whose retry waits or was applied.
    `waiting_ids`: the retries that wait in the lane. `waiting`: whether anything else waits.
    """

    applied_id: int = 0
    newest_at: datetime | None = None
    retried_id: int = 0
    waiting: bool = False
    waiting_ids: set[UUID] = field(default_factory=set)

    def newer_than(self, ledger_id: int) -> str | None:
        """Why a rejected command with this ledger id would overtake; None if it would not.

        Retries of older rejected commands are in order before it, so they do not count.
        """
        if self.waiting:
            return _WAITING
        if self.applied_id > ledger_id:
            return "a newer command of its lane was applied"
        return "a newer rejected command of its lane was retried" if self.retried_id > ledger_id else None

    def newer_since(self, moment: datetime, own: UUID) -> str | None:
        """The same for an entry that was quarantined then; `own` is its command's id."""
        if self.waiting or self.waiting_ids - {own}:
            return _WAITING
        applied = self.newest_at is not None and self.newest_at >= moment
        return "a command of its lane was applied since, or in the same batch" if applied else None


def read(
    connection: Connection, lanes: Lanes, wanted: Collection[Lane], candidates: Mapping[UUID, int]
) -> dict[Lane, LaneOrder]:
    """Read the order of these lanes. `candidates`: the ids under which commands would be sent, with the ledger ids of
    the commands that they retry.

    Redis is read before the ledger: a command that leaves its lane in between is found there. Raises RedisError,
    ConfigurationError, DBAPIError.
    """
    found = {lane: LaneOrder() for lane in wanted}
    if not found:
        return found
    lists: dict[str, Any] = {
        "users": [lane.user_id for lane in found],
        "names": [lane.specialization for lane in found],
    }
    known = {retry_id(row.command_id): row.id for row in connection.execute(_RETRIED, lists)}
    known |= candidates
    _read_lanes(lanes, found, known)
    given = lists | {"retries": list(known)}
    for row in connection.execute(_NEWEST, given):
        order = found[Lane(row.name, row.user_id)]
        order.applied_id, order.newest_at = row.applied_id or 0, row.newest_at
        order.waiting |= row.in_outbox
    for row in connection.execute(_APPLIED_RETRIES, {"retries": list(known)}):
        order = found[Lane(row.specialization, row.user_id)]
        order.retried_id = max(order.retried_id, known[row.command_id])
    return found


def _read_lanes(lanes: Lanes, found: Mapping[Lane, LaneOrder], known: Mapping[UUID, int]) -> None:
    """Note what waits in the lanes."""
    layouts = lanes.read_layouts({lane.specialization for lane in found}).require()
    for partition, users in scan.grouped(_held(layouts, found)):
        orders = {user: found[Lane(partition.specialization, int(user))] for user in users}
        for n, entry in enumerate(scan.entries(lanes.redis, lanes.keys, partition, users)):
            order = orders[entry.user]
            if entry.command_id is not None and entry.command_id in known:
                order.retried_id = max(order.retried_id, known[entry.command_id])
                order.waiting_ids.add(entry.command_id)
            elif entry.command_id is not None:
                order.waiting = True
            if n > MANY and all(one.waiting for one in orders.values()):
                break


def _held(layouts: Mapping[str, Layout], found: Iterable[Lane]) -> Iterable[scan.Lane]:
    for lane in found:
        for partition in layouts[lane.specialization].holding(lane.specialization, lane.user_id):
            yield partition, b"%d" % lane.user_id


_LANES = "unnest(CAST(:users AS bigint[]), CAST(:names AS text[])) AS k(user_id, name)"

# The rejected commands of these lanes that were retried before. OFFSET 0: each lane is read by the user's index, where
# a join might read every rejection.
_RETRIED = text(f"""
    SELECT r.id, r.command_id FROM {_LANES} CROSS JOIN LATERAL (
        SELECT l.id, l.command_id FROM {LEDGER} l
        WHERE l.user_id = k.user_id AND l.specialization = k.name AND l.status = 'rejected' AND l.settled = 'retried'
        OFFSET 0
    ) AS r
""")

# Per lane: the newest applied command that is no known retry, when the newest of all was applied, and whether the
# outbox holds any.
_NEWEST = text(f"""
    SELECT k.user_id, k.name, (
        SELECT l.id FROM {LEDGER} l
        WHERE l.user_id = k.user_id AND l.specialization = k.name AND l.status = 'applied'
            AND l.command_id <> ALL(CAST(:retries AS uuid[]))
        ORDER BY l.id DESC LIMIT 1
    ) AS applied_id, (
        SELECT l.applied_at FROM {LEDGER} l
        WHERE l.user_id = k.user_id AND l.specialization = k.name AND l.status = 'applied' ORDER BY l.id DESC LIMIT 1
    ) AS newest_at, EXISTS (
        SELECT FROM {OUTBOX} o WHERE o.user_id = k.user_id AND o.specialization = k.name
    ) AS in_outbox
    FROM {_LANES}
""")

_APPLIED_RETRIES = text(f"""
    SELECT command_id, user_id, specialization FROM {LEDGER}
    WHERE command_id = ANY(CAST(:retries AS uuid[])) AND status = 'applied' AND user_id <> 0
""")
