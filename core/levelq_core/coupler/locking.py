"""The lock order, in one place: parents, then progress rows, then license rows, each sorted by lane.

The order is the same for one lane and for thousands, and missing rows are made before any is locked:
locking first and making the missing ones after gave 37 deadlocks in 103 transactions of 8 threads, this
order none in 1,597, nor in 4,270 with an application locking users, progress and license beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from levelq_core.database.cursors import Cursor
from levelq_core.database.pgbinary import BigintArray, TextArray, bigints, texts
from levelq_core.database.schema import LICENSES, PROGRESS, PROGRESSIONS
from levelq_core.database.spelling import misspelt_message
from levelq_core.domain import rules
from levelq_core.domain.rules import NOTHING, Decision
from levelq_core.failpoints import failpoint

from .lane_batch import Database, LaneBatch, RowsVanished
from .statements import LOCK_LICENSE, ROLLBACK, SKIP_LOCKED

Keys = tuple[TextArray, BigintArray]
Rows = list[tuple[Any, ...]]


def keys_of(works: Sequence[LaneBatch]) -> Keys:
    """The lanes as the two arrays every statement takes."""
    return texts(w.lane.specialization for w in works), bigints([w.lane.user_id for w in works])


def lock(cursor: Cursor[Any], database: Database, works: Sequence[LaneBatch]) -> None:
    """Lock both rows of every lane that needs them, making the missing ones; fill in what was found.

    `works` are sorted by lane. A lane whose refusal is known, or in which nothing would be applied to rows
    yet to be made, is left without rows. Raises RowsVanished if rows were deleted under us.

    Nearly always all rows are there. So they are locked without looking for missing ones first, a sixth of what a
    batch of one command per lane costs the database; if some are missing, those locks are given back before any
    row is made, and the order holds.
    """
    wanted = [w for w in works if w.refusal is None]
    if not wanted:
        return
    _lock_parents(cursor, database, wanted, [])
    if not _lock_rows(cursor, database, wanted):
        cursor.execute(ROLLBACK)
        _make_and_lock(cursor, database, wanted)


def _make_and_lock(cursor: Cursor[Any], database: Database, wanted: Sequence[LaneBatch]) -> None:
    """Make what is missing, first all progress rows, then all license rows; lock everything."""
    missing = []
    for n, *lacks, spelt in cursor.execute(database.statements.missing, keys_of(wanted)):
        w = wanted[n - 1]
        if spelt is None:
            missing.append((w, *lacks))
        else:
            w.refusal = Decision("database_error", misspelt_message(w.lane, spelt))
    wanted = [w for w in wanted if w.refusal is None]
    rowless = {id(w) for w, p, l in missing if p and l and not _would_apply(database, w)}
    missing = [m for m in missing if id(m[0]) not in rowless]
    _lock_parents(cursor, database, wanted, missing)
    wanted = [w for w in wanted if w.refusal is None and id(w) not in rowless]
    if not wanted:
        return
    s = database.statements
    keys = keys_of(wanted)
    for w in _made(cursor, s.insert_progress, [w for w, lacks, _ in missing if lacks and w.refusal is None]):
        w.made_progress = True
    progress = _locked(cursor, s.lock_progress, keys, wanted)
    for w in _made(cursor, s.insert_license, [w for w, _, lacks in missing if lacks and w.refusal is None]):
        w.made_license = True
    licenses = _locked(cursor, LOCK_LICENSE, keys, wanted)
    for table, rows in ((PROGRESS, progress), (LICENSES, licenses)):
        if rows is None:
            raise RowsVanished(f"{table}: a row was deleted meanwhile, or a trigger or policy does not let it be made")
    assert progress is not None and licenses is not None
    _fill_in(wanted, progress, licenses)


def _lock_rows(cursor: Cursor[Any], database: Database, wanted: Sequence[LaneBatch]) -> bool:
    """Lock the rows there are; whether they are all there."""
    keys = keys_of(wanted)
    failpoint("lock progress")
    progress = _locked(cursor, database.statements.lock_progress, keys, wanted)
    if progress is None:
        return False
    failpoint("lock license")
    licenses = _locked(cursor, LOCK_LICENSE, keys, wanted)
    if licenses is None:
        return False
    _fill_in(wanted, progress, licenses)
    return True


def _fill_in(works: Sequence[LaneBatch], progress: Rows, licenses: Rows) -> None:
    for w, (progress_at, progress_level, *totals), (license_at, license_id, license_level, highest) in zip(
        works, progress, licenses, strict=True
    ):
        w.progress_at, w.license_at, w.license_id = progress_at, license_at, license_id
        license_levels = (0, 0) if w.made_license else (license_level, highest)
        w.found = w.state = (0 if w.made_progress else progress_level, *license_levels, *totals)


def held_elsewhere(cursor: Cursor[Any], database: Database, works: Sequence[LaneBatch]) -> list[LaneBatch]:
    """After a lock timeout: the lanes of which a row is locked by somebody else right now.

    Takes what can be had at once (SKIP LOCKED waits for nobody, so it cannot deadlock); the caller rolls
    back. A row that does not exist yet, or that somebody is about to insert, is not found this way.
    """
    held: dict[int, LaneBatch] = {}
    keys = keys_of(works)
    for locked, missing_column in zip(SKIP_LOCKED, (1, 2), strict=True):
        absent = {row[0] for row in cursor.execute(database.statements.missing, keys) if row[missing_column]}
        had = {row[0] for row in cursor.execute(locked, keys)}
        held.update({n: w for n, w in enumerate(works, 1) if n not in had and n not in absent})
    return list(held.values())


def _would_apply(database: Database, work: LaneBatch) -> bool:
    """Whether any command of a lane without rows would be applied; if none, no row needs to be made."""
    track = database.catalog[work.lane.specialization]
    return any(rules.decide(NOTHING, record, track, database.limits).error is None for record in work.records)


def _lock_parents(
    cursor: Cursor[Any], database: Database, works: Sequence[LaneBatch], missing: Sequence[tuple[LaneBatch, bool, bool]]
) -> None:
    """Where foreign keys lead to the application's users: lock them, refuse lanes of users there are not.

    The authors of level-ups are among them: their foreign key would lock them after the rows, the other way
    round than an application that locks users first. That an author does not exist shows when the audit row
    is written, and costs that command alone.
    """
    for parents in database.statements.parents:
        users: set[int] = set()
        children: list[tuple[LaneBatch, str]] = []
        for table, lacks in ((PROGRESS, 1), (LICENSES, 2)):
            if table in parents.constraints:
                children += [(m[0], table) for m in missing if m[lacks] and m[0].refusal is None]
        users.update(w.lane.user_id for w, _ in children)
        if PROGRESSIONS in parents.constraints:
            users.update(record.advanced_by for w in works for record in w.records if record.advanced_by)
        if not users:
            continue
        there = {row[0] for row in cursor.execute(parents.lock, (bigints(sorted(users)),))}
        for w, table in children:
            if w.refusal is None and w.lane.user_id not in there:
                message = (
                    f"user {w.lane.user_id} is not in {parents.table}: insert into {table} "
                    f"violates foreign key constraint {parents.constraints[table]}"
                )
                w.refusal = Decision("database_error", message)


def _made(cursor: Cursor[Any], statement: str, works: Sequence[LaneBatch]) -> list[LaneBatch]:
    """Insert the missing rows; those of them that we made, not a competitor."""
    if not works:
        return []
    by_key = {(w.lane.user_id, w.lane.specialization): w for w in works}
    return [by_key[key] for key in cursor.execute(statement, keys_of(works)).fetchall()]


def _locked(cursor: Cursor[Any], statement: str, keys: Keys, works: Sequence[LaneBatch]) -> Rows | None:
    """The rows, one for each work; None if some are missing."""
    rows = cursor.execute(statement, keys).fetchall()
    return rows if len(rows) == len(works) else None
