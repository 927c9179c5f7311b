"""The coupler: the one transaction that moves progress and license together.

Read `couple` from top to bottom: lock, ask the ledger, fold, write. The caller has begun the transaction
and commits it; one lane or a thousand run the same statements.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from levelq_core.database.cursors import Cursor
from levelq_core.database.fingerprint import is_current
from levelq_core.database.pgbinary import bigints, texts, tids, uuids
from levelq_core.domain import rules
from levelq_core.domain.codec import RESET, Lane, make
from levelq_core.domain.rules import Decision
from levelq_core.failpoints import failpoint

from . import ledger
from .lane_batch import BatchInfo, Database, LaneBatch, NewDecision, RowsVanished, SchemaChanged, progress_of
from .ledger import PriorDecision
from .locking import keys_of, lock
from .screening import ROUNDS, Screen
from .statements import OUTBOX_DELETE, REMOVE_LICENSE, REMOVE_PROGRESS, Update


def couple(
    cursor: Cursor[Any],
    database: Database,
    works: Sequence[LaneBatch],
    stamp: BatchInfo,
    first: Mapping[bytes, Lane],
    screen: Screen | None = None,
) -> None:
    """Decide every command of `works`, which are sorted by lane, and write what follows from it.

    `first` says, for ids that the input has in several lanes, to which of them they belong. `screen` finds the
    commands that a check constraint would refuse, before they are written.
    Fills in each work's `decisions`. The caller has set statements.SAVEPOINT. Raises psycopg's errors, RowsVanished,
    and SchemaChanged where something would be rejected; then nothing is decided and the caller must roll back to there.
    """
    lock(cursor, database, works)
    failpoint("ledger")
    known = ledger.find(cursor, works)
    fresh = fold(database, works, known, first)
    if screen:
        screen.read()
        for _ in range(ROUNDS):
            refused = screen.refuse(works, fresh)
            if not refused:
                break
            fresh = _fold_again(database, refused, fresh, known, first)
    if any(decision.error for _, _, decision in fresh):
        _require_current(cursor, database)
    failpoint("write")
    write_rows(cursor, database, [w for w in works if w.license_id])
    write_progressions(cursor, database, fresh)
    decided = ((w.lane, record, decision) for w, record, decision in fresh)
    ledger.write(cursor, decided, stamp, encoding=database.schema.encoding)
    for statement in database.statements.check_deferred:
        cursor.execute(statement)
    # Not of all that came: an id may be refused here because it belongs to a lane that had to be put aside.
    cursor.execute(OUTBOX_DELETE, (uuids(list(known)),))


def _require_current(cursor: Cursor[Any], database: Database) -> None:
    """Before anything is rejected: raise SchemaChanged if the tables are not as they were read."""
    if database.schema.fingerprint and not is_current(cursor, database.schema.fingerprint):
        raise SchemaChanged


def fold(
    database: Database, works: Sequence[LaneBatch], known: dict[bytes, PriorDecision], first: Mapping[bytes, Lane]
) -> NewDecision:
    """Decide each lane's commands in order; those that were not decided before, in order of effect.

    `known` takes up what is decided here, so that an id sent twice within the batch counts once.
    """
    fresh: NewDecision = []
    limits = database.limits
    for work in works:
        lane, state, decisions, rejected = work.lane, work.state, work.decisions, work.rejected
        track = database.catalog.get(lane.specialization)
        for record in work.records:
            command_id = record.command_id
            earlier = known.get(command_id)
            if earlier is None and first and first.get(command_id, lane) != lane:
                earlier = PriorDecision(first[command_id], b"", Decision(None, ""))
            if earlier is not None:
                decisions.append(ledger.answer(earlier, record))
                continue
            if rejected and command_id in rejected:
                decision = rejected[command_id]
            elif work.refusal is not None or track is None:
                decision = work.refusal or Decision("validation_error", "specialization: not in the catalog")
            else:
                decision = rules.decide(state, record, track, limits)
                if decision.error is None:
                    assert decision.after is not None
                    state = decision.after
                    if record.kind == RESET:
                        work.sets_totals = True
            known[command_id] = make(PriorDecision, (lane, record.digest, decision))
            decisions.append(decision)
            fresh.append((work, record, decision))
        work.state = state
    return fresh


def _fold_again(
    database: Database,
    works: Sequence[LaneBatch],
    fresh: NewDecision,
    known: dict[bytes, PriorDecision],
    first: Mapping[bytes, Lane],
) -> NewDecision:
    """Decide these lanes once more, now that more of their commands are known to be refused."""
    again = {id(work) for work in works}
    for work, record, _ in fresh:
        if id(work) in again:
            del known[record.command_id]
    for work in works:
        work.state, work.decisions, work.sets_totals = work.found, [], False
    return [entry for entry in fresh if id(entry[0]) not in again] + fold(database, works, known, first)


def first_lanes(works: Sequence[LaneBatch]) -> dict[bytes, Lane]:
    """For ids that came in several lanes of one batch: the lane of the first, by position in the input."""
    ids = [record.command_id for work in works for record in work.records]
    if len(set(ids)) == len(ids):
        return {}
    first: dict[bytes, tuple[int, Lane]] = {}
    for work in works:
        for place, record in zip(work.places, work.records, strict=True):
            if record.command_id not in first or place < first[record.command_id][0]:
                first[record.command_id] = (place, work.lane)
    return {command_id: lane for command_id, (_, lane) in first.items()}


def write_rows(cursor: Cursor[Any], database: Database, works: Sequence[LaneBatch]) -> None:
    """Write the rows that changed; take back rows that were made in vain."""
    progress, s = [w for w in works if w.changes_progress], database.statements
    for statement, changed in (
        (s.update_progress, [w for w in progress if not w.sets_totals]),
        (s.reset_progress, [w for w in progress if w.sets_totals]),
    ):
        if changed:
            _update_progress(cursor, statement, changed, [progress_of(w.state) for w in changed])
    licenses = [w for w in works if w.changes_license]
    if licenses:
        _update_licenses(cursor, database, licenses, [w.state[1:3] for w in licenses])
    for removal, vain in (
        (REMOVE_LICENSE, [w for w in works if w.made_license and not w.state[1]]),
        (REMOVE_PROGRESS, [w for w in works if w.made_progress and not w.state[0]]),
    ):
        if vain:
            cursor.execute(removal, keys_of(vain))


def rewrite_rows(cursor: Cursor[Any], database: Database, works: Sequence[LaneBatch]) -> None:
    """Write locked rows as they are: what the database has against that is not about any command."""
    _update_progress(cursor, database.statements.update_progress, works, [w.progress_row for w in works])
    _update_licenses(cursor, database, works, [w.license_row for w in works])


def _update_progress(
    cursor: Cursor[Any], update: Update, works: Sequence[LaneBatch], values: Sequence[tuple[int, ...]]
) -> None:
    places, columns = tids([w.progress_at for w in works]), zip(*values, strict=True)
    _update(cursor, update, works, (places, *keys_of(works), *map(bigints, columns)))


def _update_licenses(
    cursor: Cursor[Any], database: Database, works: Sequence[LaneBatch], values: Sequence[tuple[int, ...]]
) -> None:
    places, columns = tids([w.license_at for w in works]), zip(*values, strict=True)
    _update(cursor, database.statements.update_license, works, (places, *keys_of(works), *map(bigints, columns)))


def _update(cursor: Cursor[Any], update: Update, works: Sequence[LaneBatch], parameters: tuple[bytes, ...]) -> None:
    cursor.execute(update.by_place, parameters)
    if cursor.rowcount != len(works):
        cursor.execute(update.by_pair, parameters)
    if cursor.rowcount != len(works):
        raise RowsVanished(f"{update.table}: a trigger or rule left a locked row as it was, which was to be updated")


def write_progressions(cursor: Cursor[Any], database: Database, fresh: NewDecision) -> None:
    """One audit row for every license level that changed."""
    changes = [(w, r, d) for w, r, d in fresh if d.error is None and d.from_level != d.to_level]
    if changes:
        cursor.execute(database.statements.insert_progressions, tuple(_progressions(changes)))


def _progressions(changes: NewDecision) -> Iterator[bytes]:
    yield bigints([w.license_id for w, _, _ in changes])
    yield bigints([d.from_level or 0 for _, _, d in changes])
    yield bigints([d.to_level or 0 for _, _, d in changes])
    yield bigints([r.advanced_by for _, r, _ in changes])
    yield texts(r.reason for _, r, _ in changes)
    yield texts(_met(d) for _, _, d in changes)


def _met(decision: Decision) -> str:
    """The totals that met the requirement, as JSON."""
    assert decision.after is not None
    pairs = zip(rules.FIELDS[3:], decision.after[3:], strict=True)
    return "{" + ", ".join(f'"{name}": {value}' for name, value in pairs) + "}"
