"""The coupler: the one transaction that moves progress and license together.

Read `couple` from top to bottom: lock, find earlier decisions, fold, write. The caller has begun the transaction and
commits it. One lane and a thousand run the same statements.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from levelq_core.database.cursors import Cursor
from levelq_core.database.fingerprint import is_current
from levelq_core.database.pgbinary import bigints, texts, tids, uuids
from levelq_core.domain import rules
from levelq_core.domain.record import RESET, Lane, new_tuple
from levelq_core.domain.rules import Decision
from levelq_core.failpoints import failpoint

from . import ledger
from .lane_batch import BatchInfo, Database, LaneBatch, NewDecision, RowsVanished, SchemaChanged, progress_of
from .ledger import PriorDecision
from .locking import keys_of, lock
from .screening import ROUNDS, Screen
from .statements import OUTBOX_DELETE, REMOVE_LICENSE, REMOVE_PROGRESS, Update


class Stopwatch:
    """`seconds`: how long its blocks took together."""

    seconds = 0.0

    def __enter__(self) -> None:
        self._begun = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self.seconds += time.monotonic() - self._begun


def couple(
    cursor: Cursor[Any],
    database: Database,
    lane_batches: Sequence[LaneBatch],
    info: BatchInfo,
    owning_lanes: Mapping[bytes, Lane],
    screen: Screen | None = None,
    locking: AbstractContextManager[None] = nullcontext(),  # noqa: B008 - it has no state
) -> None:
    """Decide every command of `lane_batches`, which are sorted by lane, and write the rows, the audit and the ledger.

    `owning_lanes`: see the function of that name. `screen` finds the commands that a check constraint would refuse,
    before they are written. `locking` is entered while the rows are locked.
    Fills in `decisions`. The caller has set statements.SAVEPOINT. Raises psycopg's errors, RowsVanished, and
    SchemaChanged where something would be rejected; then nothing is decided and the caller must roll back to there.
    """
    with locking:
        lock(cursor, database, lane_batches)
    failpoint("ledger")
    prior = ledger.find(cursor, lane_batches)
    new = fold(database, lane_batches, prior, owning_lanes)
    if screen:
        new = _screened(database, lane_batches, prior, owning_lanes, new, screen)
    if any(decision.error for _, _, decision in new):
        _require_current(cursor, database)
    failpoint("write")
    write_rows(cursor, database, [batch for batch in lane_batches if batch.license_id])
    write_progressions(cursor, database, new)
    decided = ((batch.lane, record, decision) for batch, record, decision in new)
    ledger.write(cursor, decided, info, encoding=database.schema.encoding)
    for statement in database.statements.check_deferred:
        cursor.execute(statement)
    # Only these: a command that is refused here because its id belongs to another lane may not be decided there yet.
    cursor.execute(OUTBOX_DELETE, (uuids(list(prior)),))


def fold(
    database: Database,
    lane_batches: Sequence[LaneBatch],
    prior: dict[bytes, PriorDecision],
    owning_lanes: Mapping[bytes, Lane],
) -> list[NewDecision]:
    """Decide each lane's commands in order; the result has those that were not decided before, in order of effect.

    Adds to `prior` what is decided here, so that an id sent twice within the batch counts once.
    """
    new: list[NewDecision] = []
    limits = database.limits
    for batch in lane_batches:
        lane, state, decisions, rejected = batch.lane, batch.state, batch.decisions, batch.rejected
        track = database.catalog.get(lane.specialization)
        for record in batch.records:
            command_id = record.command_id
            earlier = prior.get(command_id)
            if earlier is None and owning_lanes and owning_lanes.get(command_id, lane) != lane:
                earlier = PriorDecision(owning_lanes[command_id], b"", Decision(None, ""))
            if earlier is not None:
                decisions.append(ledger.answer(earlier, record))
                (batch.whole or batch).exceptional = True
                continue
            if rejected and command_id in rejected:
                decision = rejected[command_id]
            elif batch.rejection is not None or track is None:
                decision = batch.rejection or Decision("validation_error", "specialization: not in the catalog")
            else:
                decision = rules.decide(state, record, track, limits)
                if decision.error is None:
                    assert decision.after is not None
                    state = decision.after
                    if record.kind == RESET:
                        batch.sets_totals = True
            if decision.error is not None:
                (batch.whole or batch).exceptional = True
            prior[command_id] = new_tuple(PriorDecision, (lane, record.digest, decision))
            decisions.append(decision)
            new.append((batch, record, decision))
        batch.state = state
    return new


def _screened(
    database: Database,
    lane_batches: Sequence[LaneBatch],
    prior: dict[bytes, PriorDecision],
    owning_lanes: Mapping[bytes, Lane],
    new: list[NewDecision],
    screen: Screen,
) -> list[NewDecision]:
    """Fold the lanes again in which a check would refuse a command, without it, until none is found."""
    screen.read(database)
    for _ in range(ROUNDS):
        refused = screen.refuse(lane_batches, new)
        if not refused:
            break
        again = {id(batch) for batch in refused}
        for batch, record, _ in new:
            if id(batch) in again:
                del prior[record.command_id]
        for batch in refused:
            batch.state, batch.decisions, batch.sets_totals = batch.locked_state, [], False
        new = [entry for entry in new if id(entry[0]) not in again] + fold(database, refused, prior, owning_lanes)
    return new


def _require_current(cursor: Cursor[Any], database: Database) -> None:
    """Before anything is rejected: raise SchemaChanged if the tables are not as they were read."""
    if database.schema.fingerprint and not is_current(cursor, database.schema.fingerprint):
        raise SchemaChanged


def owning_lanes(lane_batches: Sequence[LaneBatch]) -> dict[bytes, Lane]:
    """Of ids that came in several lanes of one batch: the lane of the first, by its index in the input."""
    ids = [record.command_id for batch in lane_batches for record in batch.records]
    if len(set(ids)) == len(ids):
        return {}
    first: dict[bytes, tuple[int, Lane]] = {}
    for batch in lane_batches:
        for index, record in zip(batch.indexes, batch.records, strict=True):
            if record.command_id not in first or index < first[record.command_id][0]:
                first[record.command_id] = (index, batch.lane)
    return {command_id: lane for command_id, (_, lane) in first.items()}


def write_rows(cursor: Cursor[Any], database: Database, lane_batches: Sequence[LaneBatch]) -> None:
    """Write the rows that changed; remove rows that were inserted for nothing."""
    statements = database.statements
    progress = [batch for batch in lane_batches if batch.changes_progress]
    for statement, sets_totals in ((statements.update_progress, False), (statements.reset_progress, True)):
        changed = [batch for batch in progress if batch.sets_totals is sets_totals]
        _update(cursor, statement, [(batch, batch.progress_ctid, progress_of(batch.state)) for batch in changed])
    licenses = [batch for batch in lane_batches if batch.changes_license]
    _update(cursor, statements.update_license, [(batch, batch.license_ctid, batch.state[1:3]) for batch in licenses])
    for removal, unused in (
        (REMOVE_LICENSE, [batch for batch in lane_batches if batch.inserted_license and not batch.state[1]]),
        (REMOVE_PROGRESS, [batch for batch in lane_batches if batch.inserted_progress and not batch.state[0]]),
    ):
        if unused:
            cursor.execute(removal, keys_of(unused))


def rewrite_rows(cursor: Cursor[Any], database: Database, lane_batches: Sequence[LaneBatch]) -> None:
    """Write locked rows as they are: what the database refuses of that is no command's fault."""
    progress = [(batch, batch.progress_ctid, batch.progress_row) for batch in lane_batches]
    licenses = [(batch, batch.license_ctid, batch.license_row) for batch in lane_batches]
    _update(cursor, database.statements.update_progress, progress)
    _update(cursor, database.statements.update_license, licenses)


def _update(cursor: Cursor[Any], update: Update, rows: Sequence[tuple[LaneBatch, bytes, tuple[int, ...]]]) -> None:
    """Write these values into the rows of these lanes, which are at these ctids."""
    if not rows:
        return
    lane_batches, ctids, values = zip(*rows, strict=True)
    parameters = (tids(ctids), *keys_of(lane_batches), *map(bigints, zip(*values, strict=True)))
    cursor.execute(update.by_ctid, parameters)
    if cursor.rowcount != len(rows):
        cursor.execute(update.by_pair, parameters)
    if cursor.rowcount != len(rows):
        raise RowsVanished(f"{update.table}: a trigger or rule kept a locked row from being updated")


def write_progressions(cursor: Cursor[Any], database: Database, new: Sequence[NewDecision]) -> None:
    """One audit row for every license level that changed."""
    changes = [(b, r, d) for b, r, d in new if d.error is None and d.from_level != d.to_level]
    if changes:
        cursor.execute(database.statements.insert_progressions, tuple(_progressions(changes)))


def _progressions(changes: Sequence[NewDecision]) -> Iterator[bytes]:
    yield bigints([batch.license_id for batch, _, _ in changes])
    yield bigints([decision.from_level or 0 for _, _, decision in changes])
    yield bigints([decision.to_level or 0 for _, _, decision in changes])
    yield bigints([record.advanced_by for _, record, _ in changes])
    yield texts(record.reason for _, record, _ in changes)
    yield texts(_totals_as_json(decision) for _, _, decision in changes)


def _totals_as_json(decision: Decision) -> str:
    assert decision.after is not None
    pairs = zip(rules.FIELDS[3:], decision.after[3:], strict=True)
    return "{" + ", ".join(f'"{name}": {value}' for name, value in pairs) + "}"
