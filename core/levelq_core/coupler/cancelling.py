"""Cancel commands: write them into the ledger as rejected, with the error `cancelled`.

No row and no lane is locked. Each decision is a ledger row with the command's unique id: if a drain decides the same
command at the same time, the first to commit wins, and the other one finds that decision. So a lane can be cancelled
while other code holds its rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from levelq_core.database.cursors import Cursor
from levelq_core.database.pgbinary import uuids
from levelq_core.domain.record import Lane, Record
from levelq_core.domain.rules import Decision

from . import ledger
from .lane_batch import BatchInfo, LaneBatch
from .ledger import PriorDecision
from .statements import OUTBOX_DELETE

SOURCE = "cancel"  # the ledger column `source` of these rows
CANCELLED = Decision("cancelled", "taken back before it was decided")


def cancel(cursor: Cursor[Any], lane_batches: Sequence[LaneBatch], info: BatchInfo, *, encoding: str) -> int:
    """Reject the commands that are not decided yet, for good; returns how many.

    `encoding`: the database's. Fills in each batch's `decisions`, and deletes the outbox rows of all these commands.
    The caller has begun the transaction and commits it. Raises psycopg's errors; sqlstate.classify calls one RETRY if
    another transaction decided a command at the same time.
    """
    prior = ledger.find(cursor, lane_batches)
    new: list[tuple[Lane, Record, Decision]] = []
    for batch in lane_batches:
        for record in batch.records:
            earlier = prior.get(record.command_id)
            if earlier is not None:
                batch.decisions.append(ledger.answer(earlier, record))
                continue
            prior[record.command_id] = PriorDecision(batch.lane, record.digest, CANCELLED)
            batch.decisions.append(CANCELLED)
            new.append((batch.lane, record, CANCELLED))
    ledger.write(cursor, new, info, encoding=encoding)
    cursor.execute(OUTBOX_DELETE, (uuids(list(prior)),))
    return len(new)
