"""Taking commands back: the ledger says `cancelled` before anything else could be decided.

No row and no lane is locked. Every decision on a command is a row of the ledger under its unique id, so of a drain and
of this the first to commit decides, and the other one answers with that decision. A lane whose rows other code holds
can therefore be cancelled, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from . import ledger
from .cursors import Cursor
from .ledger import Known
from .pgbinary import uuids
from .rules import Decision
from .statements import OUTBOX_DELETE
from .work import Fresh, Stamp, Work

SOURCE = "cancel"  # what the ledger says of where these rows come from
CANCELLED = Decision("cancelled", "taken back before it was decided")


def cancel(cursor: Cursor[Any], works: Sequence[Work], stamp: Stamp, *, encoding: str) -> int:
    """Reject the commands that were not decided before, for good; how many these are.

    `encoding`: the database's. Fills in each work's `decisions`, and deletes the outbox rows of all these commands. The
    caller has begun the transaction and commits it. Raises psycopg's errors; sqlstate.classify calls one RETRY if
    another transaction decided a command at the same time.
    """
    known = ledger.find(cursor, works)
    fresh: Fresh = []
    for work in works:
        for record in work.records:
            earlier = known.get(record.command_id)
            if earlier is not None:
                work.decisions.append(ledger.answer(earlier, record))
                continue
            known[record.command_id] = Known(work.lane, record.digest, CANCELLED)
            work.decisions.append(CANCELLED)
            fresh.append((work, record, CANCELLED))
    ledger.write(cursor, ((work.lane, record, decision) for work, record, decision in fresh), stamp, encoding=encoding)
    cursor.execute(OUTBOX_DELETE, (uuids(list(known)),))
    return len(fresh)
