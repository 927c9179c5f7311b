"""What a run reads several times a second: what waits in the lanes, and what was decided."""

from __future__ import annotations

import time
from array import array
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from redis.exceptions import RedisError
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from levelq_core.lanes.partition_directory import partitions

from .environment import Environment

_CLOCK_READINGS = 9  # the quickest answer shows best how two clocks differ

_SNAPSHOT = "SELECT pg_snapshot_xmin(s)::text::bigint, pg_snapshot_xmax(s)::text::bigint FROM pg_current_snapshot() s"

# The batches of these users' commands since a row of the ledger: the time of the commit, if kept, and the ids of the
# commands that were rejected, applied without a level-up, and applied with one.
_BATCHES = """
    SELECT xid, max(id), source = 'queue', {committed},
           string_agg(uuid_send(command_id), '') FILTER (WHERE status <> 'applied'),
           string_agg(uuid_send(command_id), '') FILTER (WHERE status = 'applied' AND risen IS NOT TRUE),
           string_agg(uuid_send(command_id), '') FILTER (WHERE status = 'applied' AND risen)
    FROM levelq_ledger, LATERAL (SELECT to_level > from_level AS risen) l
    WHERE id > %s AND user_id BETWEEN %s AND %s GROUP BY xid, source
"""
_COMMITTED = "extract(epoch FROM pg_xact_commit_timestamp((xid %% 4294967296)::text::xid))::float8"


class Sample(NamedTuple):
    """One look. `at` is a Unix time; `decided` and `level_ups` count from the start; `batch`: the largest new batch."""

    at: float
    waiting: int = 0
    claimed: int = 0
    oldest_seconds: float = 0.0
    decided: int = 0
    level_ups: int = 0
    batch: int = 0


class LedgerTail:
    """Reads each batch of the ledger once, and misses none. A batch commits as a whole, so it is seen entire.

    Ids are drawn before a commit, so a lower one may become visible after a higher one. Rows up to a look's highest id
    need no second look once every transaction that ran at that look has ended: what appears later drew its id later.
    """

    def __init__(self, floor: int = 0) -> None:
        self.floor = floor  # rows up to this id have been read
        self._next_floor = floor
        self._top = floor
        self._seen: dict[int, int] = {}  # highest id by transaction
        self._tops: deque[tuple[int, int]] = deque()  # per look: the next transaction to begin then, the highest id

    def begin(self, xmin: int, xmax: int) -> None:
        """Before a look reads rows: the oldest transaction that runs, and the next to begin."""
        self._tops.append((xmax, self._top))
        self._next_floor = self.floor
        while self._tops and xmin >= self._tops[0][0]:
            self._next_floor = self._tops.popleft()[1]

    def take(self, batches: Sequence[Any]) -> list[Any]:
        """Those that no look has read before. Each is led by its transaction and its highest id."""
        new = [batch for batch in batches if batch[0] not in self._seen]
        self._seen |= {batch[0]: batch[1] for batch in new}
        self._top = max([self._top, *(batch[1] for batch in new)])
        if self._next_floor > self.floor:
            self.floor = self._next_floor
            self._seen = {xid: top for xid, top in self._seen.items() if top > self.floor}
        return new


class Sampler:
    """Takes samples and keeps them. While a server does not answer, the next look makes up for what was missed."""

    def __init__(self, environment: Environment, users: range, due: Callable[[bytes], float | None]) -> None:
        """`due`: the Unix time at which a command was meant to be sent; None if it is not one of this run."""
        self.samples: list[Sample] = []
        self.committed: dict[bytes, float] = {}  # Unix times of the run's commands by id, in the order they were seen
        self.waits = array("d")  # in the same order: the seconds from when each was due to its commit
        self.applied = self.level_ups = 0
        self._environment = environment
        self._lanes = environment.lanes
        self._users = users
        self._due = due
        with environment.engine.connect() as connection:
            tracked = connection.exec_driver_sql("SHOW track_commit_timestamp").scalar_one()
            top = connection.exec_driver_sql("SELECT coalesce(max(id), 0) FROM levelq_ledger").scalar_one()
            self.clock_ahead = _clock_ahead(connection)  # seconds that PostgreSQL's clock is ahead of this host's
        self.exact = tracked == "on"  # else a commit counts when it was seen
        self._statement = _BATCHES.format(committed=_COMMITTED if self.exact else "NULL::float8")
        self._tail = LedgerTail(int(top))  # what was there before is not of this run

    @property
    def last(self) -> Sample:
        """The newest sample."""
        return self.samples[-1]

    def look(self) -> Sample:
        """Take a sample."""
        batch = self._read_ledger()
        last = self.samples[-1] if self.samples else Sample(0.0)
        sample = last._replace(
            at=time.time(), decided=len(self.waits), level_ups=self.level_ups, batch=batch or last.batch
        )
        try:
            names = self._environment.settings.tracks
            found = [self._lanes.status(partition) for partition in partitions(self._lanes, names)]
            sample = sample._replace(
                waiting=sum(status.waiting for status in found),
                claimed=sum(status.claimed for status in found),
                oldest_seconds=max((status.oldest_seconds for status in found if status.waiting), default=0.0),
            )
        except RedisError:
            pass  # the lanes are shown as they were
        self.samples.append(sample)
        return sample

    def sample_at(self, at: float) -> Sample:
        """The last sample that is not later than a time, or an empty one."""
        number = bisect_right(self.samples, at, key=lambda sample: sample.at)
        return self.samples[number - 1] if number else Sample(at)

    def rate(self, at: float, seconds: float = 1.0) -> float:
        """Commands decided per second, over the given seconds before a time."""
        return (self.sample_at(at).decided - self.sample_at(at - seconds).decided) / seconds

    def _read_ledger(self) -> int:
        """Take in new batches; the size of the largest of the queue's."""
        try:
            with self._environment.engine.connect() as connection:
                connection.execution_options(isolation_level="AUTOCOMMIT")
                self._tail.begin(*connection.exec_driver_sql(_SNAPSHOT).one())
                bounds = (self._tail.floor, self._users[0], self._users[-1])
                rows = connection.exec_driver_sql(self._statement, bounds).all()
        except DBAPIError:
            return 0
        now, largest = time.time(), 0
        for _, _, queued, committed, *ids in self._tail.take(rows):
            before = len(self.waits)
            for number, found in enumerate(ids):  # rejected, applied, risen
                for start in range(0, len(found or b""), 16):
                    command_id = found[start : start + 16]
                    if (due := self._due(command_id)) is not None:
                        at = now if committed is None else committed - self.clock_ahead
                        self.committed[command_id] = at
                        self.waits.append(at - due)
                        self.applied += number > 0
                        self.level_ups += number > 1
            largest = max(largest, (len(self.waits) - before) * queued)
        return largest


def _clock_ahead(connection: Connection) -> float:
    """How many seconds PostgreSQL's clock is ahead of this host's; 0 if the difference is less than an answer takes."""
    best = (float("inf"), 0.0)
    for _ in range(_CLOCK_READINGS):
        asked = time.time()
        theirs = connection.exec_driver_sql("SELECT extract(epoch FROM clock_timestamp())::float8").scalar_one()
        answered = time.time()
        best = min(best, (answered - asked, theirs - (asked + answered) / 2))
    took, ahead = best
    return ahead if abs(ahead) > took else 0.0
