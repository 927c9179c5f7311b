"""What a load test sees: what waits in the lanes and, from the ledger, when each of its commands was committed."""

from __future__ import annotations

import time
from array import array
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

from redis.exceptions import RedisError
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from levelq_worker.support.partition_directory import partitions

from .arrivals import intended_in, tag_in
from .stage import Stage

CLOCK_QUESTIONS = 9  # the quickest of so many answers says best how two clocks differ

_SNAPSHOT = "SELECT pg_snapshot_xmin(s)::text::bigint, pg_snapshot_xmax(s)::text::bigint FROM pg_current_snapshot() s"

# The commands of these users that were decided since a row of the ledger, with the time of their commit, if kept.
_TAIL = """
    SELECT id, command_id, status = 'applied', to_level > from_level, {committed}
    FROM levelq_ledger WHERE id > %s AND user_id BETWEEN %s AND %s
"""
_COMMITTED = "extract(epoch FROM pg_xact_commit_timestamp((xid %% 4294967296)::text::xid))::float8"


class Sample(NamedTuple):
    """One look. `at` is a Unix time; `decided` counts this run's commands from its start."""

    at: float
    waiting: int
    claimed: int
    oldest_seconds: float
    decided: int


class Decided:
    """This run's commands that were committed: ids, and the Unix times at which they were meant and committed."""

    def __init__(self) -> None:
        self.ids: list[bytes] = []
        self.intended = array("d")
        self.committed = array("d")
        self.applied = 0
        self.level_ups = 0

    def __len__(self) -> int:
        return len(self.ids)

    def waits(self, first: int = 0) -> list[float]:
        """How long each took from the time it was meant to be sent, from the given one on."""
        pairs = zip(self.committed[first:], self.intended[first:], strict=True)
        return [committed - intended for committed, intended in pairs]


class Tail:
    """Reads each row of the ledger once, and misses none.

    Ids are drawn before a commit, so a lower one may become visible after a higher one. A look may go on behind
    the rows of an earlier look as soon as every transaction that was under way then has ended: what is seen only
    later has drawn its ids later, too.
    """

    def __init__(self) -> None:
        self.floor = 0
        self._next_floor = 0
        self._top = 0
        self._seen: set[int] = set()
        self._tops: deque[tuple[int, int]] = deque()  # (no transaction from here on was begun then, the highest id)

    def begin(self, xmin: int, xmax: int) -> None:
        """Before the rows of a look are read: the ids of the oldest transaction under way, and of the next to come."""
        self._tops.append((xmax, self._top))
        self._next_floor = self.floor
        while self._tops and xmin >= self._tops[0][0]:
            self._next_floor = self._tops.popleft()[1]

    def take(self, rows: Sequence[Any]) -> list[Any]:
        """The rows, each led by its id, that were not seen before."""
        new = [row for row in rows if row[0] not in self._seen]
        self._seen.update(row[0] for row in new)
        self._top = max([self._top, *(row[0] for row in new)])
        if self._next_floor > self.floor:
            self.floor = self._next_floor
            self._seen = {id_ for id_ in self._seen if id_ > self.floor}
        return new


class Watch:
    """Takes looks and keeps them. While a server is away nothing is seen; the next look sees what was missed."""

    def __init__(self, stage: Stage, users: range, tag: int) -> None:
        self.looks: list[Sample] = []
        self.decided = Decided()
        self._stage = stage
        self._lanes = stage.lanes
        self._users = users
        self._tag = tag
        self._tail = Tail()
        with stage.engine.connect() as connection:
            tracked = connection.exec_driver_sql("SHOW track_commit_timestamp").scalar_one() == "on"
            top = connection.exec_driver_sql("SELECT coalesce(max(id), 0) FROM levelq_ledger").scalar_one()
            self.behind = _clock_difference(connection)
        self.exact = tracked
        self._statement = _TAIL.format(committed=_COMMITTED if tracked else "NULL::float8")
        self._tail.floor = int(top)  # older rows, also of transactions under way, are none of ours

    def look(self) -> Sample:
        """Take a look."""
        self._read_ledger()
        try:
            found = [self._lanes.status(one) for one in partitions(self._lanes, self._stage.settings.tracks)]
        except RedisError:
            last = self.looks[-1] if self.looks else Sample(0.0, 0, 0, 0.0, 0)
            self.looks.append(last._replace(at=time.time(), decided=len(self.decided)))
            return self.looks[-1]
        waiting = [status for status in found if status.waiting]
        self.looks.append(
            Sample(
                time.time(),
                sum(status.waiting for status in found),
                sum(status.claimed for status in found),
                max((status.oldest_seconds for status in waiting), default=0.0),
                len(self.decided),
            )
        )
        return self.looks[-1]

    def _read_ledger(self) -> None:
        try:
            with self._stage.engine.connect() as connection:
                connection.execution_options(isolation_level="AUTOCOMMIT")
                self._tail.begin(*connection.exec_driver_sql(_SNAPSHOT).one())
                bounds = (self._tail.floor, self._users[0], self._users[-1])
                rows = connection.exec_driver_sql(self._statement, bounds).all()
        except DBAPIError:
            return
        now = time.time()
        for _, command_id, applied, risen, committed in self._tail.take(rows):
            if tag_in(command_id) == self._tag:
                found = self.decided
                found.ids.append(command_id.bytes)
                found.intended.append(intended_in(command_id))
                found.committed.append(now if committed is None else committed - self.behind)
                found.applied += applied
                found.level_ups += bool(risen)


def _clock_difference(connection: Connection) -> float:
    """How many seconds PostgreSQL's clock is ahead of ours; what is less than the answer takes is none."""
    best = (float("inf"), 0.0)
    for _ in range(CLOCK_QUESTIONS):
        asked = time.time()
        theirs = connection.exec_driver_sql("SELECT extract(epoch FROM clock_timestamp())::float8").scalar_one()
        answered = time.time()
        best = min(best, (answered - asked, theirs - (asked + answered) / 2))
    took, ahead = best
    return ahead if abs(ahead) > took else 0.0
