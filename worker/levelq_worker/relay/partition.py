"""One partition's relay: what it knows of its marks, and one round over the outbox.

Read `PartitionRelay.poll`: lease, gate, what is doubtful, what is new.
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
from levelq_core.lanes.shard_layout import UNSHARDED, Layout
from levelq_core.lanes.wakeups import Waker
from levelq_core.settings import Settings

from .outbox_rows import Marked, OutboxRows, Row
from .restore import LeaseLost, OutboxRestore

log = logging.getLogger("levelq")

WINDOW = 2_000  # rows marked and pushed in one step: some 40 ms
WINDOWS = 5  # in one round, before another partition has its turn
REDOS = 5  # steps of pushing again in one round
FULL_FIRST_SECONDS, FULL_MOST_SECONDS = 0.5, 30.0  # before a lane that was full is tried again, doubling
_STAMP = b"0" * STAMP_DIGITS
_WHOLE = 0  # no user has this id: in `_Parked` it stands for the whole partition


class _Parked:
    """Lanes that refused a push, and when to try them again."""

    def __init__(self) -> None:
        self._lanes: dict[int, tuple[float, float]] = {}

    def add(self, user_id: int) -> bool:
        """Park a lane for longer than the last time; True if it was not parked before."""
        known = self._lanes.get(user_id)
        delay = FULL_FIRST_SECONDS if known is None else min(FULL_MOST_SECONDS, 2 * known[1])
        self._lanes[user_id] = time.monotonic() + delay, delay
        return known is None

    def forget(self, user_id: int) -> None:
        """The lane took all that was pushed."""
        self._lanes.pop(user_id, None)

    def now(self) -> set[int]:
        """The lanes to leave alone for now."""
        now = time.monotonic()
        return {user_id for user_id, (until, _) in self._lanes.items() if until > now}


class PartitionRelay:
    """Relays one partition while it holds the lease. Not safe to share between threads."""

    def __init__(
        self,
        partition: Partition,
        lanes: Lanes,
        rows: OutboxRows,
        waker: Waker,
        settings: Settings,
        layout: Layout = UNSHARDED,
    ) -> None:
        self._partition = partition
        self._layout = layout
        self._lanes = lanes
        self._rows = rows
        self._waker = waker
        self._settings = settings
        self._filling = OutboxRestore(lanes, rows, waker)
        self._lease = b""
        self._sure = True  # that no push of ours is still under way
        self._trusted: dict[str, float] = {}  # our marks whose push was accepted, until their rows are overdue
        self._parked = _Parked()

    @property
    def leads(self) -> bool:
        """Whether it had the lease when it last looked."""
        return bool(self._lease)

    def poll(self) -> int:
        """One round; returns how many commands were pushed.

        Raises RedisError and DBAPIError; the caller then says `doubt`.
        """
        lease = self._lanes.lease(self._partition, "take" if self._sure else "replace", self._lease)
        self._sure = True
        self._lease = lease.value if lease.ours else b""
        if not lease.ours or lease.anew or not lease.filled:
            self._trusted.clear()
        if not lease.ours:
            return 0
        try:
            if not lease.filled and not self._filling.fill_and_report(self._partition, lease):
                return 0
            self._trusted = {xid: until for xid, until in self._trusted.items() if until > time.monotonic()}
            doubtful = self._mine(self._rows.doubtful(self._partition.specialization, self._trusted))
            return self._push_again(doubtful) + self._push_new(doubtful)
        except LeaseLost:
            self.doubt()
            return 0

    def elsewhere(self) -> bool:
        """Whether rows wait that only another worker may push, which has the lease. Raises DBAPIError."""
        waiting = self._rows.waiting(self._partition.specialization, ())
        return not self._lease and any(self._mine({user_id: 1}) for _, user_id in waiting)

    def doubt(self) -> None:
        """From now on nothing that was marked so far is taken for pushed: the beginning of a new epoch."""
        self._trusted.clear()
        self._sure = False

    def release(self) -> None:
        """Let another worker relay at once."""
        if self._lease:
            self._lanes.lease(self._partition, "release", self._lease)
            self._lease = b""
        self._trusted.clear()

    def _mine(self, lanes: dict[int, int]) -> dict[int, int]:
        name = self._partition.specialization
        return {user: n for user, n in lanes.items() if self._layout.partition(name, user) == self._partition}

    def _push_again(self, doubtful: dict[int, int]) -> int:
        """Push all marked rows of doubtful lanes anew, where nothing is left in the lane. The others wait."""
        pushed = 0
        for users in islice(self._steps(doubtful), REDOS):
            marked = self._rows.mark_again(self._partition.specialization, users)
            if marked is not None:
                pushed += self._push(marked, idle_only=True)
        return pushed

    def _steps(self, doubtful: dict[int, int]) -> Iterator[list[int]]:
        """Empty lanes among these, as many at a time as have some WINDOW rows."""
        users: list[int] = []
        rows = 0
        parked = self._parked.now()
        for user_id in self._lanes.empty(self._partition, [user for user in doubtful if user not in parked]):
            users.append(user_id)
            rows += doubtful[user_id]
            if rows >= WINDOW:
                yield users
                users, rows = [], 0
        if users:
            yield users

    def _push_new(self, doubtful: dict[int, int]) -> int:
        """Push rows for the first time, in order, but none of a lane in doubt."""
        pushed = 0
        for _ in range(WINDOWS):
            parked = self._parked.now()
            if _WHOLE in parked:
                break
            aside = parked | doubtful.keys()
            waiting = self._rows.waiting(self._partition.specialization, aside)
            ids = list(islice((id_ for id_, user_id in waiting if self._mine({user_id: 1})), WINDOW))
            marked = self._rows.mark(self._partition.specialization, ids, self._trusted) if ids else None
            if marked is not None:
                pushed += self._push(marked, idle_only=False)
            if len(ids) < WINDOW:
                break
        return pushed

    def _push(self, marked: Marked, *, idle_only: bool) -> int:
        """Push marked rows; trust the mark once every row of it is either accepted or unmarked."""
        lanes: dict[int, list[Row]] = {}
        for row in self._sound(marked.rows):
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
        self._trusted[marked.xid] = time.monotonic() + marked.overdue_seconds
        return len(marked.rows) - len(refused)

    def _note(self, user_id: int, why: str) -> None:
        """Park what is full; say so once."""
        if why in ("lane", "type", "partition"):
            if self._parked.add(_WHOLE if why == "partition" else user_id):
                place = self._partition if why == "partition" else self._settings.keys.lane(self._partition, user_id)
                log.warning("outbox: %s %s; its rows wait", place, "holds no list" if why == "type" else "is full")
        elif not why:
            self._parked.forget(user_id)
            self._parked.forget(_WHOLE)

    def _sound(self, rows: Sequence[Row]) -> Iterator[Row]:
        """The rows that a drain would take for commands; others would come back from the lane for ever."""
        for row in rows:
            try:
                if len(row.payload) > self._settings.payload_limit:
                    raise codec.MalformedEntry(f"over the payload limit of {self._settings.payload_limit} bytes")
                codec.decode(_STAMP + row.payload, Lane(self._partition.specialization, row.user_id).salt)
            except codec.NewerVersion:
                pass  # a newer worker may take it from its lane
            except codec.MalformedEntry as error:
                log.error("outbox: row %d quarantined: %s", row.id, error)
                self._rows.quarantine(row, str(error))
                continue
            yield row
