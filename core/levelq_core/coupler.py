"""The coupler: the one transaction that moves progress and license together.

Read `couple` from top to bottom: lock, ask the ledger, fold, write. The caller has begun the transaction
and commits it; one lane or a thousand run the same statements.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from . import ledger, rules
from .codec import Lane, Record, make
from .cursors import Cursor
from .faults import point
from .ledger import Known
from .locking import keys_of, lock
from .pgbinary import bigints, texts, tids, uuids
from .rules import Decision
from .statements import OUTBOX_DELETE, REMOVE_LICENSE, REMOVE_PROGRESS, Update
from .work import Database, Stamp, Work

Fresh = list[tuple[Work, Record, Decision]]


def couple(
    cursor: Cursor[Any], database: Database, works: Sequence[Work], stamp: Stamp, first: Mapping[bytes, Lane]
) -> None:
    """Decide every command of `works`, which are sorted by lane, and write what follows from it.

    `first` says, for ids that the input has in several lanes, to which of them they belong.
    Fills in each work's `decisions`. The caller has set statements.SAVEPOINT. Raises psycopg's errors and
    RowsVanished; then nothing is decided and the caller must roll back to there.
    """
    lock(cursor, database, works)
    point("ledger")
    known = ledger.find(cursor, works)
    fresh = fold(database, works, known, first)
    point("write")
    write_rows(cursor, database, [w for w in works if w.license_id])
    write_progressions(cursor, database, fresh)
    ledger.write(cursor, ((w.lane, record, decision) for w, record, decision in fresh), stamp)
    for statement in database.statements.check_deferred:
        cursor.execute(statement)
    # Not of all that came: an id may be refused here because it belongs to a lane that had to be put aside.
    cursor.execute(OUTBOX_DELETE, (uuids(list(known)),))


def fold(database: Database, works: Sequence[Work], known: dict[bytes, Known], first: Mapping[bytes, Lane]) -> Fresh:
    """Decide each lane's commands in order; those that were not decided before, in order of effect.

    `known` takes up what is decided here, so that an id sent twice within the batch counts once.
    """
    fresh: Fresh = []
    limits = database.limits
    for work in works:
        lane, state, decisions = work.lane, work.state, work.decisions
        track = database.catalog.get(lane.specialization)
        for record in work.records:
            command_id = record.command_id
            earlier = known.get(command_id)
            if earlier is None and first and first.get(command_id, lane) != lane:
                earlier = Known(first[command_id], b"", Decision(None, ""))
            if earlier is not None:
                decisions.append(ledger.answer(earlier, record))
                continue
            if work.refusal is not None or track is None:
                decision = work.refusal or Decision("validation_error", "specialization: not in the catalog")
            else:
                decision = rules.decide(state, record, track, limits)
                if decision.error is None:
                    assert decision.after is not None
                    state = decision.after
            known[command_id] = make(Known, (lane, record.digest, decision))
            decisions.append(decision)
            fresh.append((work, record, decision))
        work.state = state
    return fresh


def first_lanes(works: Sequence[Work]) -> dict[bytes, Lane]:
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


def write_rows(cursor: Cursor[Any], database: Database, works: Sequence[Work]) -> None:
    """Write the rows that changed; take back rows that were made in vain."""
    s = database.statements
    progress = [w for w in works if w.state[0] and _progress(w.state) != _progress_row(w)]
    if progress:
        columns = zip(*(_progress(w.state) for w in progress), strict=True)
        places = tids([w.progress_at for w in progress])
        _update(cursor, s.update_progress, progress, (places, *keys_of(progress), *map(bigints, columns)))
    licenses = [w for w in works if w.state[1] and w.state[1:3] != _license_row(w)]
    if licenses:
        columns = zip(*(w.state[1:3] for w in licenses), strict=True)
        places = tids([w.license_at for w in licenses])
        _update(cursor, s.update_license, licenses, (places, *keys_of(licenses), *map(bigints, columns)))
    for statement, vain in (
        (REMOVE_LICENSE, [w for w in works if w.made_license and not w.state[1]]),
        (REMOVE_PROGRESS, [w for w in works if w.made_progress and not w.state[0]]),
    ):
        if vain:
            cursor.execute(statement, keys_of(vain))


def _update(cursor: Cursor[Any], update: Update, works: Sequence[Work], parameters: tuple[bytes, ...]) -> None:
    cursor.execute(update.by_place, parameters)
    if cursor.rowcount != len(works):
        cursor.execute(update.by_pair, parameters)


def _progress(state: rules.State) -> tuple[int, int, int, int, int, int]:
    return (state[0], *state[3:])


def _progress_row(work: Work) -> tuple[int, int, int, int, int, int]:
    """What the progress row holds now."""
    return (1, 0, 0, 0, 0, 0) if work.made_progress else _progress(work.found)


def _license_row(work: Work) -> tuple[int, int]:
    """What the license row holds now."""
    return (1, 1) if work.made_license else work.found[1:3]


def write_progressions(cursor: Cursor[Any], database: Database, fresh: Fresh) -> None:
    """One audit row for every license level that changed."""
    changes = [(w, r, d) for w, r, d in fresh if d.error is None and d.from_level != d.to_level]
    if changes:
        cursor.execute(database.statements.insert_progressions, tuple(_progressions(changes)))


def _progressions(changes: Fresh) -> Iterator[bytes]:
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
