"""The relay of one partition: lease, restore, unconfirmed rows, new rows; see docs/explanation/lanes.md.

Read `PartitionRelay.poll`: it is one round over the outbox.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from itertools import islice

from levelq_core.domain import codec
from levelq_core.domain.codec import STAMP_DIGITS
from levelq_core.domain.record import Lane
from levelq_core.keys import Partition
from levelq_core.lanes.client import Lanes
from levelq_core.lanes.shard_layout import Layout
from levelq_core.lanes.wakeups import Waker
from levelq_core.log_events import log_event
from levelq_core.settings import Settings
from levelq_worker.support.backoff import Backoff

from .outbox_rows import Marked, OutboxRows, Row
from .restore import LeaseLost, OutboxRestore

WINDOW = 2_000  # rows marked and pushed in one step: some 40 ms
WINDOWS = 5  # new rows in one round, before another partition has its turn
REPEATED_WINDOWS = 5  # unconfirmed rows in one round
FULL_FIRST_SECONDS, FULL_MOST_SECONDS = 0.5, 30.0  # before a lane that was full is tried again
_STAMP = b"0" * STAMP_DIGITS
_WHOLE_PARTITION = 0  # no user has this id


class _RefusingLanes:
    """Lanes that refused a push, by user, and when to try them again."""

    def __init__(self) -> None:
        self._lanes: dict[int, tuple[Backoff, float]] = {}

    def add(self, user_id: int) -> bool:
        """Leave a lane alone, longer each time; whether it is the first time."""
        backoff = self._lanes[user_id][0] if user_id in self._lanes else Backoff(FULL_FIRST_SECONDS, FULL_MOST_SECONDS)
        self._lanes[user_id] = backoff, time.monotonic() + backoff.next_delay()
        return backoff.failures == 1

    def remove(self, user_id: int) -> None:
        """The lane took all that was pushed."""
        self._lanes.pop(user_id, None)

    def now(self) -> set[int]:
        """The lanes to leave alone now."""
        now = time.monotonic()
        return {user_id for user_id, (_, until) in self._lanes.items() if until > now}


class PartitionRelay:
    """Relays one partition while it holds the lease. Not safe to share between threads."""

    def __init__(
        self, partition: Partition, layout: Layout, lanes: Lanes, rows: OutboxRows, waker: Waker, settings: Settings
    ) -> None:
        self._partition = partition
        self._specialization = partition.specialization
        self._layout = layout
        self._lanes = lanes
        self._rows = rows
        self._waker = waker
        self._settings = settings
        self._restore = OutboxRestore(lanes, rows, waker)
        self._lease = b""
        self._no_push_in_flight = True
        self._confirmed_xids: dict[str, float] = {}  # marks whose push was accepted: when their rows are overdue
        self._refusing = _RefusingLanes()

    @property
    def has_lease(self) -> bool:
        """Whether it had the lease in its last round."""
        return bool(self._lease)

    def poll(self) -> int:
        """One round; returns how many commands were pushed.

        Raises RedisError and DBAPIError; the caller then calls `unconfirm_all`.
        """
        lease = self._lanes.lease(self._partition, "take" if self._no_push_in_flight else "replace", self._lease)
        self._no_push_in_flight = True
        self._lease = lease.value if lease.is_holder else b""
        if not lease.is_holder or lease.newly_acquired or not lease.restored:
            self._confirmed_xids.clear()
        if not lease.is_holder:
            return 0
        try:
            if not lease.restored and self._restore.restore(self._partition, lease) is None:
                return 0
            now = time.monotonic()
            self._confirmed_xids = {xid: until for xid, until in self._confirmed_xids.items() if until > now}
            lanes = self._rows.unconfirmed_lanes(self._specialization, self._confirmed_xids)
            unconfirmed = {user_id: rows for user_id, rows in lanes.items() if self._owns(user_id)}
            return self._push_again(unconfirmed) + self._push_new(unconfirmed)
        except LeaseLost:
            self.unconfirm_all()
            return 0

    def waits_for_other_relay(self) -> bool:
        """Whether rows wait that only another worker's relay, which has the lease, may push. Raises DBAPIError."""
        return not self._lease and any(self._owns(user) for _, user in self._rows.waiting(self._specialization, ()))

    def unconfirm_all(self) -> None:
        """After an error: any push may be lost or still in flight, so the next round also replaces the lease."""
        self._confirmed_xids.clear()
        self._no_push_in_flight = False

    def release(self) -> None:
        """Let another worker relay at once."""
        if self._lease:
            self._lanes.lease(self._partition, "release", self._lease)
            self._lease = b""
        self._confirmed_xids.clear()

    def _owns(self, user_id: int) -> bool:
        return self._layout.partition(self._specialization, user_id) == self._partition

    def _push_again(self, unconfirmed: dict[int, int]) -> int:
        """Push all marked rows of unconfirmed lanes that are empty and unclaimed; the other lanes wait."""
        pushed = 0
        for users in islice(self._empty_lanes(unconfirmed), REPEATED_WINDOWS):
            marked = self._rows.mark_again(self._specialization, users)
            if marked is not None:
                pushed += self._push(marked, idle_only=True)
        return pushed

    def _empty_lanes(self, unconfirmed: dict[int, int]) -> Iterator[list[int]]:
        """The empty ones of these lanes, in groups of about WINDOW rows."""
        refusing = self._refusing.now()
        users: list[int] = []
        rows = 0
        for user_id in self._lanes.empty(self._partition, [user for user in unconfirmed if user not in refusing]):
            users.append(user_id)
            rows += unconfirmed[user_id]
            if rows >= WINDOW:
                yield users
                users, rows = [], 0
        if users:
            yield users

    def _push_new(self, unconfirmed: dict[int, int]) -> int:
        """Push rows for the first time, in order, but none of an unconfirmed lane."""
        pushed = 0
        for _ in range(WINDOWS):
            refusing = self._refusing.now()
            if _WHOLE_PARTITION in refusing:
                break
            waiting = self._rows.waiting(self._specialization, refusing | unconfirmed.keys())
            ids = list(islice((id_ for id_, user_id in waiting if self._owns(user_id)), WINDOW))
            marked = self._rows.mark(self._specialization, ids, self._confirmed_xids) if ids else None
            if marked is not None:
                pushed += self._push(marked, idle_only=False)
            if len(ids) < WINDOW:
                break
        return pushed

    def _push(self, marked: Marked, *, idle_only: bool) -> int:
        """Push marked rows; their mark is confirmed once every row of it is either accepted or unmarked."""
        lanes: dict[int, list[Row]] = {}
        for row in self._readable(marked.rows):
            lanes.setdefault(row.user_id, []).append(row)
        entries = [(user_id, [row.payload for row in rows]) for user_id, rows in lanes.items()]
        answer = self._lanes.relay(self._partition, self._lease, entries, idle_only=idle_only)
        if answer.lost:
            raise LeaseLost
        if answer.wake:
            self._waker.wake(self._partition)
        refused: list[Row] = []
        for (user_id, rows), (accepted, why) in zip(lanes.items(), answer.lanes, strict=True):
            refused += rows[accepted:]
            self._note(user_id, why)
        if refused:
            self._rows.unmark(refused)
        self._confirmed_xids[marked.xid] = time.monotonic() + marked.overdue_seconds
        return len(marked.rows) - len(refused)

    def _note(self, user_id: int, why: str) -> None:
        """Leave a lane that refused a push alone for a while, and log that once."""
        if not why:
            self._refusing.remove(user_id)
            self._refusing.remove(_WHOLE_PARTITION)
        elif why == "partition":
            if self._refusing.add(_WHOLE_PARTITION):
                what = "outbox: %(partition)s is full; its rows wait"
                log_event(logging.WARNING, "partition_full", what, partition=self._partition)
        elif why in ("lane", "type") and self._refusing.add(user_id):
            problem = "holds no list" if why == "type" else "is full"
            what, key = "outbox: %(key)s %(problem)s; its rows wait", self._settings.keys.lane(self._partition, user_id)
            log_event(logging.WARNING, "lane_refuses_rows", what, key=key, problem=problem)

    def _readable(self, rows: Sequence[Row]) -> Iterator[Row]:
        """The rows that a drain can decode; the others go into the quarantine."""
        for row in rows:
            try:
                if len(row.payload) > self._settings.payload_limit:
                    raise codec.MalformedEntry(f"over the payload limit of {self._settings.payload_limit} bytes")
                codec.decode(_STAMP + row.payload, Lane(self._specialization, row.user_id).salt)
            except codec.NewerVersion:
                pass  # a newer worker may take it from its lane
            except codec.MalformedEntry as error:
                what = "outbox: row %(row)d quarantined: %(error)s"
                log_event(logging.ERROR, "row_quarantined", what, row=row.id, error=error)
                self._rows.quarantine(row, str(error))
                continue
            yield row
