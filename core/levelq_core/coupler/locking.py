"""The lock order: parents, then progress rows, then license rows, each sorted by lane.

The order is the same for one lane and for thousands, and missing rows are inserted before any row is locked. Locking
first deadlocks; docs/explanation/the-transaction.md has the measurement.
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
Missing = tuple[LaneBatch, bool, bool]  # whether its progress row is missing, and its license row


def keys_of(lane_batches: Sequence[LaneBatch]) -> Keys:
    """The lanes as the two arrays every statement takes."""
    return texts(b.lane.specialization for b in lane_batches), bigints([b.lane.user_id for b in lane_batches])


def lock(cursor: Cursor[Any], database: Database, lane_batches: Sequence[LaneBatch]) -> None:
    """Lock both rows of every lane that needs them, inserting the missing ones; fill in what was found.

    `lane_batches` are sorted by lane. A lane with a rejection, or in which nothing would be applied to rows that are
    yet to be inserted, is left without rows. Raises RowsVanished if rows were deleted meanwhile.

    Nearly always all rows exist. So they are locked without looking for missing ones; if some are missing, those locks
    are released before any row is inserted, and the order holds.
    """
    wanted = [batch for batch in lane_batches if batch.rejection is None]
    if not wanted:
        return
    _lock_parents(cursor, database, wanted, [])
    if not _lock_existing(cursor, database, wanted):
        cursor.execute(ROLLBACK)
        _insert_and_lock(cursor, database, wanted)


def _lock_existing(cursor: Cursor[Any], database: Database, wanted: Sequence[LaneBatch]) -> bool:
    """Lock the rows that exist; whether all do."""
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


def _insert_and_lock(cursor: Cursor[Any], database: Database, wanted: Sequence[LaneBatch]) -> None:
    """Insert what is missing, first all progress rows, then all license rows; lock everything."""
    missing = _find_missing(cursor, database, wanted)
    rowless = {id(b) for b, progress, license_ in missing if progress and license_ and not _would_apply(database, b)}
    missing = [entry for entry in missing if id(entry[0]) not in rowless]
    _lock_parents(cursor, database, [batch for batch in wanted if batch.rejection is None], missing)
    missing = [entry for entry in missing if entry[0].rejection is None]
    wanted = [batch for batch in wanted if batch.rejection is None and id(batch) not in rowless]
    if not wanted:
        return
    statements, keys = database.statements, keys_of(wanted)
    for batch in _inserted(cursor, statements.insert_progress, [b for b, progress, _ in missing if progress]):
        batch.inserted_progress = True
    progress_rows = _locked(cursor, statements.lock_progress, keys, wanted)
    for batch in _inserted(cursor, statements.insert_license, [b for b, _, license_ in missing if license_]):
        batch.inserted_license = True
    license_rows = _locked(cursor, LOCK_LICENSE, keys, wanted)
    if progress_rows is None or license_rows is None:
        table = PROGRESS if progress_rows is None else LICENSES
        raise RowsVanished(f"{table}: a row was deleted meanwhile, or a trigger or policy keeps it from being inserted")
    _fill_in(wanted, progress_rows, license_rows)


def _find_missing(cursor: Cursor[Any], database: Database, wanted: Sequence[LaneBatch]) -> list[Missing]:
    """The lanes without one of their rows. Rejects those whose row exists under another spelling."""
    missing = []
    for n, progress, license_, spelt in cursor.execute(database.statements.missing, keys_of(wanted)):
        batch = wanted[n - 1]
        if spelt is None:
            missing.append((batch, progress, license_))
        else:
            batch.rejection = Decision("database_error", misspelt_message(batch.lane, spelt))
    return missing


def _would_apply(database: Database, batch: LaneBatch) -> bool:
    """Whether any command of a lane without rows would be applied; if none, no row needs to be inserted."""
    track = database.catalog[batch.lane.specialization]
    return any(rules.decide(NOTHING, record, track, database.limits).error is None for record in batch.records)


def _lock_parents(
    cursor: Cursor[Any], database: Database, wanted: Sequence[LaneBatch], missing: Sequence[Missing]
) -> None:
    """Where foreign keys lead to the application's users: lock them, reject lanes of users who do not exist.

    The authors of level-ups are among them: their foreign key would lock them after the rows, while an application may
    lock users first. That an author does not exist shows when the audit row is written, and costs that command alone.
    """
    for parents in database.statements.parents:
        children = [
            (entry[0], table)
            for table, lacks in ((PROGRESS, 1), (LICENSES, 2))
            if table in parents.constraints
            for entry in missing
            if entry[lacks] and entry[0].rejection is None
        ]
        users = {batch.lane.user_id for batch, _ in children}
        if PROGRESSIONS in parents.constraints:
            users.update(record.advanced_by for batch in wanted for record in batch.records if record.advanced_by)
        if not users:
            continue
        found = {row[0] for row in cursor.execute(parents.lock, (bigints(sorted(users)),))}
        for batch, table in children:
            if batch.rejection is None and batch.lane.user_id not in found:
                message = (
                    f"user {batch.lane.user_id} is not in {parents.table}: insert into {table} "
                    f"violates foreign key constraint {parents.constraints[table]}"
                )
                batch.rejection = Decision("database_error", message)


def _inserted(cursor: Cursor[Any], statement: str, lane_batches: Sequence[LaneBatch]) -> list[LaneBatch]:
    """Insert the missing rows; the lanes whose row this transaction inserted, not another one."""
    if not lane_batches:
        return []
    by_key = {(batch.lane.user_id, batch.lane.specialization): batch for batch in lane_batches}
    return [by_key[key] for key in cursor.execute(statement, keys_of(lane_batches)).fetchall()]


def _locked(cursor: Cursor[Any], statement: str, keys: Keys, lane_batches: Sequence[LaneBatch]) -> Rows | None:
    """The rows, one for each lane; None if some are missing."""
    rows = cursor.execute(statement, keys).fetchall()
    return rows if len(rows) == len(lane_batches) else None


def _fill_in(lane_batches: Sequence[LaneBatch], progress: Rows, licenses: Rows) -> None:
    for batch, (progress_ctid, progress_level, *totals), (license_ctid, license_id, license_level, highest) in zip(
        lane_batches, progress, licenses, strict=True
    ):
        batch.progress_ctid, batch.license_ctid, batch.license_id = progress_ctid, license_ctid, license_id
        license_levels = (0, 0) if batch.inserted_license else (license_level, highest)
        found = (0 if batch.inserted_progress else progress_level, *license_levels, *totals)
        batch.locked_state = batch.state = found


def locked_elsewhere(cursor: Cursor[Any], database: Database, lane_batches: Sequence[LaneBatch]) -> list[LaneBatch]:
    """After a lock timeout: the lanes of which another transaction holds a row right now.

    Locks the rows that are free (SKIP LOCKED never waits, so it cannot deadlock); the caller rolls back. Does not find
    a row that does not exist yet, or that another transaction is about to insert.
    """
    held: dict[int, LaneBatch] = {}
    keys = keys_of(lane_batches)
    for locked, missing_column in zip(SKIP_LOCKED, (1, 2), strict=True):
        absent = {row[0] for row in cursor.execute(database.statements.missing, keys) if row[missing_column]}
        free = {row[0] for row in cursor.execute(locked, keys)}
        held.update({n: batch for n, batch in enumerate(lane_batches, 1) if n not in free and n not in absent})
    return list(held.values())
