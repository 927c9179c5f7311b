"""Cancel waiting commands: in lanes, whether due, parked or claimed, and in the outbox.

Each page of commands is read, rejected in the ledger, committed, and removed from its lanes by identity, without a
claim. The ledger decides which commit was first, so this never waits for a drain that holds a lane: that drain finds
its commands decided. What a crash leaves in a lane, the next drain removes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from levelq_core.coupler import cancelling
from levelq_core.coupler.apply import batch_transaction
from levelq_core.coupler.lane_batch import LaneBatch
from levelq_core.database.outbox_sql import QUARANTINE_ROW
from levelq_core.database.schema import OUTBOX, schema_of
from levelq_core.database.sqlstate import ErrorClass, classify, sqlstate_of
from levelq_core.domain import codec
from levelq_core.domain.codec import STAMP_DIGITS, NewerVersion
from levelq_core.domain.outcome import outcome
from levelq_core.domain.record import Lane, Record
from levelq_core.keys import Partition
from levelq_core.lanes import outcome_streams as replies
from levelq_core.lanes.lane_editor import LaneEditor
from levelq_core.lanes.protocol import Claim
from levelq_core.lanes.wakeups import Waker
from levelq_core.operations import audit
from levelq_core.operations.connections import limit_act
from levelq_core.operations.identity import require_bound
from levelq_core.operations.wording import count as counted
from levelq_core.settings import Settings
from levelq_worker.draining.batch import Batch
from levelq_worker.draining.transaction import QuarantinedEntry, quarantine

from .waiting_lanes import IN_SCOPE, Page, Scope, Waiting, count, is_newer, outbox_scope, pages

ATTEMPTS = 8  # of one page; each more needs another drain that decided some of it at the same time
PAGE = 1_000  # rows of the outbox in one transaction

# The next rows of the outbox in a scope, in order.
_ROWS = text(f"""
    SELECT id, command_id, user_id, specialization, payload FROM {OUTBOX}
    WHERE id > :after AND id <= :last AND {IN_SCOPE} ORDER BY id LIMIT {PAGE}
""")

_LAST_ROW = text(f"SELECT coalesce(max(id), 0) FROM {OUTBOX}")


@dataclass
class Cancelled:
    """What was done, in commands and entries.

    `decided`: decided before. `quarantined`: entries that were no commands. `newer`: left, because only a newer version
    can read them. `unreadable`: keys of lanes that are no lists, left as they are.
    """

    cancelled: int = 0
    decided: int = 0
    quarantined: int = 0
    newer: int = 0
    unreadable: set[str] = field(default_factory=set)

    def detail(self) -> dict[str, int]:
        """For the audit: numbers only, because a key names a user."""
        return asdict(self) | {"unreadable": len(self.unreadable)}

    def in_words(self) -> str:
        """What was done, on one line; what was left is said by `left_lines`."""
        parts = [f"{counted(self.cancelled, 'command')} cancelled"]
        if self.decided:
            parts.append(f"{self.decided:,} were decided before")
        if self.quarantined:
            parts.append(f"{self.quarantined:,} malformed quarantined")
        return ", ".join(parts)


class Canceller:
    """Cancels what a scope names. Raises RedisError, DBAPIError, WrongDatabase; what was committed before stays."""

    def __init__(self, engine: Engine, lanes: LaneEditor, waker: Waker, settings: Settings) -> None:
        self._engine = engine
        self._lanes = lanes
        self._waker = waker
        self._settings = settings
        self._done = Cancelled()
        self._line: audit.RunLine | None = None

    def look(self, scope: Scope) -> Waiting:
        """Count what waits. Changes nothing."""
        with self._engine.connect() as connection:
            self._require_bound(connection)
            return count(connection, self._lanes, self._settings, scope)

    def run(self, scope: Scope, audited: tuple[str, str] | None = None, *, actor: str | None = None) -> Cancelled:
        """Cancel what waits now; a command that is sent meanwhile may be cancelled or not.

        `audited`: the action and the target of the line in the audit; None writes no line. `actor`: who acts, unless
        it is the account of this process.
        """
        self._done, self._line = Cancelled(), audit.RunLine(*audited, actor=actor) if audited else None
        with self._engine.connect() as connection:
            self._require_bound(connection)
        self._cancel_outbox(scope)  # first: what the relay pushes meanwhile is found in the lanes
        touched: set[Partition] = set()
        for partition, read in pages(self._lanes, self._settings, scope, self._done.unreadable):
            self._cancel_pages(scope, partition, read)
            touched.add(partition)
        for partition in sorted(touched):
            wake, _ = self._lanes.sweep(partition)
            if wake:
                self._waker.wake(partition)
        return self._done

    def _require_bound(self, connection: Connection) -> None:
        schema_of(connection)
        require_bound(connection, self._lanes)

    def _cancel_pages(self, scope: Scope, partition: Partition, read: Sequence[Page]) -> None:
        """Reject the commands of these pages, commit, send the replies, and remove the commands from the lanes."""
        chosen = []
        for page in read:
            wanted = [entry for entry in page.entries if scope.concerns(entry)]
            readable = [entry for entry in wanted if not is_newer(entry)]
            self._done.newer += len(wanted) - len(readable)
            chosen.append((page.user, readable))
        batch = Batch(partition.specialization, Claim(chosen, wake=False, retired=False, broken=[]))
        if not batch.entries:
            return
        self._decide(sorted(batch.lane_batches, key=lambda work: work.lane), batch.quarantined, ())
        self._lanes.withdraw(partition, [(lane.user, b"".join(lane.identities)) for lane in batch.lanes])
        for page, lane in zip(read, batch.lanes, strict=True):
            page.removed = len(lane.identities)

    def _cancel_outbox(self, scope: Scope) -> None:
        """The same for rows of the outbox, pushed or not."""
        last = scope.last_row
        if last is None:
            with self._engine.connect() as connection:
                last = connection.execute(_LAST_ROW).scalar_one()
        values: dict[str, Any] = outbox_scope(scope) | {"after": 0, "last": last}
        while True:
            with self._engine.connect() as connection:
                rows = connection.execute(_ROWS, values).all()
            if rows:
                works, malformed = self._read_rows(rows)
                self._decide(works, (), malformed)
            if len(rows) < PAGE:
                return
            values["after"] = rows[-1].id

    def _read_rows(self, rows: Sequence[Any]) -> tuple[list[LaneBatch], list[tuple[int, str]]]:
        """The commands by lane, sorted; and the ids of rows that hold none, with the reason."""
        records: dict[Lane, list[Record]] = {}
        malformed: list[tuple[int, str]] = []
        for row in rows:
            lane = Lane(row.specialization, row.user_id)
            try:
                record = codec.decode(b"0" * STAMP_DIGITS + bytes(row.payload), lane.salt)
                records.setdefault(lane, []).append(record)
            except codec.MalformedEntry as error:
                malformed.append((row.id, str(error)))
            except NewerVersion:
                self._done.newer += 1
        return [LaneBatch(lane, found, range(len(found))) for lane, found in sorted(records.items())], malformed

    def _decide(
        self, works: Sequence[LaneBatch], quarantined: Sequence[QuarantinedEntry], rows: Sequence[tuple[int, str]]
    ) -> None:
        """Reject the commands in one transaction, then send the replies.

        The transaction is repeated if another one decided some of the commands at the same time.
        """
        for attempt in range(1, ATTEMPTS + 1):
            for work in works:
                work.decisions = []
            try:
                with self._engine.begin() as connection:
                    done = self._reject(connection, works, quarantined, rows)
                    if self._line is not None:
                        self._line.write(connection, done.detail())
                break
            except DBAPIError as error:
                repeat = classify(error) is ErrorClass.RETRY or sqlstate_of(error) in ("40P01", "55P03")
                if attempt == ATTEMPTS or not repeat:
                    raise
        self._done = done

        answers = [
            (outcome(work.lane, record, decision), replies.send_key(record.digest, record.pushed_ms))
            for work in works
            for record, decision in zip(work.records, work.decisions, strict=True)
            if record.reply
        ]
        replies.write(self._lanes.redis, self._lanes.keys, answers, self._settings.reply_seconds)

    def _reject(
        self,
        connection: Connection,
        works: Sequence[LaneBatch],
        quarantined: Sequence[QuarantinedEntry],
        rows: Sequence[tuple[int, str]],
    ) -> Cancelled:
        """Reject and quarantine on this connection; what is done so far, once that is committed."""
        settings, done = self._settings, self._done
        limit_act(connection, lock_ms=settings.lock_ms, statement_ms=settings.statement_ms)
        encoding = schema_of(connection).encoding
        with batch_transaction(connection, cancelling.SOURCE) as (cursor, stamp):
            quarantine(cursor, quarantined)
            cancelled = cancelling.cancel(cursor, works, stamp, encoding=encoding)
        for row, reason in rows:
            connection.execute(QUARANTINE_ROW, {"id": row, "reason": reason})
        return replace(
            done,
            cancelled=done.cancelled + cancelled,
            decided=done.decided + sum(len(work.decisions) for work in works) - cancelled,
            quarantined=done.quarantined + len(quarantined) + len(rows),
        )
