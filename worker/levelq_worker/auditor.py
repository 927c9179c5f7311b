"""The auditor: one worker at a time compares progress and license, and repairs them by LEVELQ_DRIFT_POLICY.

Every worker has one; a lease in Redis decides which of them works. A lock of the database would not do: one of the
session is lost behind a pooler in transaction mode, one of the transaction would keep a snapshot open for the whole
audit. A repair is an ordinary command behind all others of its lane, and compares the pair again under its locks.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any
from uuid import uuid4

from redis.exceptions import RedisError
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from levelq_core.database.engine import engine_for
from levelq_core.database.schema import Schema, schema_of
from levelq_core.domain.codec import decode, encode, record_of
from levelq_core.domain.commands import SyncLevels
from levelq_core.domain.record import lane_of
from levelq_core.errors import WrongDatabase
from levelq_core.keys import Partition
from levelq_core.lanes.client import Lanes
from levelq_core.lanes.drift_report import MOST_EXAMPLES, AuditLease, AuditRun, DriftedPair, DriftReport
from levelq_core.lanes.protocol import LaneEntries, PushAnswer
from levelq_core.lanes.user_lane import newest_entries
from levelq_core.lanes.wakeups import Waker
from levelq_core.log_events import log_event
from levelq_core.operations.drift.ranges import SIZE, START, PairRanges, Position, Range
from levelq_core.operations.drift.repairs import repairs
from levelq_core.redis_client.pool import connect
from levelq_core.settings import Settings

from .support.binding import Binding
from .support.outage import describe
from .support.stop import Stop

POLL_SECONDS = 10.0  # between two looks whether an audit is due: soon enough after another auditor's death
REST = 49  # times as long as a range took: so an audit takes a fiftieth of the time, whatever the database's speed
MOST_REST_SECONDS = 20.0  # well within the lease
LONG_SECONDS = 0.1  # of a range; the next one is half as large
LEAST = 100  # pairs in a range
WINDOW = 1_000  # commands in one push

_LIMIT = text("SELECT set_config('statement_timeout', :ms, true)")


class Auditor(threading.Thread):
    """Audits every LEVELQ_DRIFT_SECONDS, where no other worker does. `binding`: the worker's."""

    def __init__(self, settings: Settings, binding: Binding | None = None) -> None:
        super().__init__(name="levelq-auditor", daemon=True)
        self._settings = settings
        self._stopped = threading.Event()
        self._redis = connect(settings.redis_url, settings.redis_seconds)
        self._rq = connect(settings.queue_url, settings.redis_seconds)
        self._lanes = Lanes(self._redis, settings)
        self._waker = Waker(self._redis, self._rq, settings.keys)
        self._engine = engine_for(settings, name="levelq auditor", limited=True)
        self._binding = binding or Binding(Stop(), settings.sweep_seconds)
        self._token = uuid4().hex
        self._size = SIZE

    def start(self) -> None:
        """Begin, unless audits are switched off."""
        if self._settings.drift_seconds:
            super().start()

    def run(self) -> None:
        """Audit when it is due, until stopped; a failure is logged once."""
        failing = False
        while not self._stopped.wait(min(POLL_SECONDS, self._settings.drift_seconds)):
            try:
                self.audit()
                failing = False
            except WrongDatabase:  # the worker stops and prints why
                return
            except RedisError:  # drains and relays report it
                continue
            except Exception as error:  # whatever it is: the next attempt goes on where this one stopped
                if not failing and not self._stopped.is_set():
                    expected = isinstance(error, SQLAlchemyError)
                    shown = None if expected else error
                    what = "audit of the levels: %(error)s"
                    log_event(logging.WARNING, "audit_failed", what, error=describe(error), exc_info=shown)
                failing = True

    def audit(self) -> DriftReport | None:
        """Audit if it is due and no other worker does; None if it is not, or was stopped.

        Raises WrongDatabase, RedisError, DBAPIError, ConfigurationError.
        """
        settings = self._settings
        lease = AuditLease(self._redis, settings.keys, self._token)
        run = lease.take(int(1000 * settings.drift_seconds), settings.drift_policy)
        if run is None:
            return None
        try:
            self._binding.verify(self._lanes, self._engine)
            return self._audit(lease, run)
        finally:
            self._engine.dispose()  # between audits it needs no connection
            with suppress(RedisError):
                lease.release()

    def _audit(self, lease: AuditLease, run: AuditRun) -> DriftReport | None:
        with self._engine.connect() as connection:
            schema = schema_of(connection)
        ranges = PairRanges(schema)
        position = _position(run.position)
        report = run.report._replace(policy=self._settings.drift_policy)
        while True:
            begun = time.monotonic()
            size, self._size = self._size, LEAST  # for the next attempt, if this range takes too long
            found, report = self._audit_range(ranges, schema, position, size, report)
            seconds = time.monotonic() - begun
            self._size = max(LEAST, size // 2) if seconds > LONG_SECONDS else min(SIZE, 2 * size)
            if found.next is None:
                report = lease.finish(report)
                _log(report)
                return report
            position = found.next
            if not lease.renew(AuditRun(report, list(position))):
                return None
            if self._stopped.wait(min(MOST_REST_SECONDS, REST * seconds)):
                return None

    def _audit_range(
        self, ranges: PairRanges, schema: Schema, position: Position, size: int, report: DriftReport
    ) -> tuple[Range, DriftReport]:
        """Compare one range, and send the commands that repair it; the report with what was found."""
        policy = self._settings.drift_policy
        with self._engine.connect() as connection:
            connection.execute(_LIMIT, {"ms": str(self._settings.statement_ms)})
            found = ranges.read(connection, position, size)
            decided = repairs(
                connection,
                found.differing,
                schema,
                self._settings.tracks,
                None if policy == "report" else policy,
                reason=f"levelq: repaired drift, policy {policy}",
            )
        known = [(pair, repair) for pair, repair in zip(found.differing, decided, strict=True) if not repair.is_unknown]
        commands = [] if policy == "report" else [repair.command for _, repair in known if repair.command is not None]
        refused = self._send(commands)
        left = [
            DriftedPair(*pair, repair.obstacle)
            for pair, repair in known
            if policy == "report" or repair.command is None or repair.command.command_id in refused
        ]
        return found, report._replace(
            compared=report.compared + found.pairs,
            out_of_step=report.out_of_step + len(known),
            repaired=report.repaired + len(commands) - len(refused),
            unrepairable=report.unrepairable + sum(repair.command is None for _, repair in known),
            unknown=report.unknown + len(decided) - len(known),
            examples=(*report.examples, *left)[:MOST_EXAMPLES],
        )

    def _send(self, commands: Sequence[SyncLevels]) -> set[Any]:
        """Append the commands to their lanes; the ids of those that were not taken. Raises RedisError."""
        refused = set()
        for begin in range(0, len(commands), WINDOW):
            window = commands[begin : begin + WINDOW]
            layouts = self._lanes.ensure_layouts({command.specialization for command in window}).require()
            batches: dict[Partition, list[SyncLevels]] = {}
            for command in window:
                layout = layouts[command.specialization]
                batches.setdefault(layout.partition(command.specialization, command.user_id), []).append(command)
            batches = {key: left for key, some in batches.items() if (left := self._not_waiting(key, some))}
            answers = self._lanes.push([(partition, _entries(some)) for partition, some in batches.items()])
            for (partition, some), answer in zip(batches.items(), answers, strict=True):
                if not isinstance(answer, PushAnswer):
                    raise answer
                taken = [count for count, _ in answer.lanes] or [0] * len(some)  # none, if the partition was closed
                refused |= {command.command_id for command, count in zip(some, taken, strict=True) if not count}
                if answer.wake:
                    self._waker.wake(partition)
        return refused

    def _not_waiting(self, partition: Partition, commands: Sequence[SyncLevels]) -> list[SyncLevels]:
        """Those whose lane does not end with the same repair: of an earlier audit, if it was not drained since."""
        users = [command.user_id for command in commands]
        entries = newest_entries(self._redis, self._settings.keys, partition, users)
        return [command for command, entry in zip(commands, entries, strict=True) if not _is_same(entry, command)]

    def stop(self) -> None:
        """Ask it to end, wait for the range under way, and close its connections."""
        self._stopped.set()
        if self.is_alive():
            self.join(2 * self._settings.redis_seconds)
        self._redis.close()
        self._rq.close()


def _entries(commands: Sequence[SyncLevels]) -> list[LaneEntries]:
    return [(command.user_id, [encode(command)]) for command in commands]


def _is_same(entry: Any, command: SyncLevels) -> bool:
    """Whether this is an entry of a lane that does what the command does."""
    with suppress(ValueError, TypeError):
        found, wanted = decode(entry, lane_of(command).salt), record_of(command)
        return (found.kind, found.level) == (wanted.kind, wanted.level)
    return False


def _position(found: Sequence[Any]) -> Position:
    """Where an audit goes on; at the beginning if that cannot be read."""
    if len(found) == 2 and type(found[0]) is int and -(2**63) <= found[0] < 2**63 and isinstance(found[1], str | None):
        return Position(*found)
    return START


def _log(report: DriftReport) -> None:
    if report.out_of_step:
        counts = {"out_of_step": report.out_of_step, "compared": report.compared, "repaired": report.repaired}
        what = "audit of the levels: %(out_of_step)d of %(compared)d pairs out of step, commands sent for %(repaired)d"
        log_event(logging.WARNING, "levels_out_of_step", f"{what}; `levelq status` says more", **counts)
