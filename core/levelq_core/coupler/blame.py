"""Whether an error that follows one command through isolation is provably about what that command says.

Only then is the command rejected for good. Everything else may be mended where it is, so the lane waits.
"""

from __future__ import annotations

from typing import Any

import psycopg

from levelq_core.database.cursors import Cursor
from levelq_core.database.pgbinary import bigints, texts
from levelq_core.database.schema import LICENSES, PROGRESS, PROGRESSIONS
from levelq_core.database.sqlstate import ErrorClass, classify, raised_in_function
from levelq_core.domain import rules
from levelq_core.domain.codec import RESET
from levelq_core.domain.rules import Decision

from . import constraints
from .constraints import CHECK, FOREIGN_KEY
from .couple import rewrite_rows
from .lane_batch import Database, LaneBatch, RowsVanished, progress_of
from .locking import lock
from .statements import LICENSE_VALUES, PROGRESS_VALUES, PROGRESSION_VALUES, ROLLBACK, SAVEPOINT, TOTALS

_TEXT = ("22001", "22021", "22P05")  # too long, not in the encoding, not in the server's encoding
_OVERFLOW, _CHECK, _FOREIGN_KEY = "22003", "23514", "23503"


def proven(cursor: Cursor[Any], database: Database, work: LaneBatch, error: Exception) -> bool:
    """Whether the only command of `work` is to blame for `error`, which an attempt at it alone has given.

    What a trigger or a function raises proves nothing. A check constraint, an overflow and a text that does not fit
    must concern a column that the command sets, and the same rows must be taken without its change. A foreign key must
    be that of the user, the specialization or the author, and the row it leads to must be missing.
    Changes nothing. Raises psycopg.Error for a transient failure meanwhile.
    """
    if not isinstance(error, psycopg.Error) or error.sqlstate is None:  # the client could not encode a value
        return isinstance(error, UnicodeEncodeError | psycopg.DataError)
    if raised_in_function(error):
        return False
    if error.sqlstate == _FOREIGN_KEY:
        return _names_no_row(cursor, error, work)
    if error.sqlstate not in (_CHECK, _OVERFLOW, *_TEXT):
        return False
    changed = _changed_if_taken_without(cursor, database, work)
    if error.sqlstate == _CHECK:
        found = constraints.find(cursor, error)
        if found is None or found.kind != CHECK:
            return False
        return any(name in found.columns and found.table in (table, "") for table, name in changed)
    if error.sqlstate in _TEXT:
        return bool(work.records[0].reason) and (PROGRESSIONS, "advancement_reason") in changed
    return bool(changed)


def _names_no_row(cursor: Cursor[Any], error: psycopg.Error, work: LaneBatch) -> bool:
    """Whether a foreign key leads from an id that the command names to a row that does not exist."""
    found = constraints.find(cursor, error)
    if found is None or found.kind != FOREIGN_KEY or found.target is None or len(found.columns) != 1:
        return False
    lane, author = work.lane, work.records[0].advanced_by
    named = {
        "student_id": lane.user_id,
        "user_id": lane.user_id,
        "specialization_id": lane.specialization,
        "specialization_type": lane.specialization,
        "advanced_by": author or None,
    }
    value = named.get(found.columns[0])
    if value is None:
        return False
    where = f"{found.target} WHERE {found.target_column} =".replace("%", "%%")
    return cursor.execute(f"SELECT EXISTS (SELECT FROM {where} %s)", (value,)).fetchone() == (False,)


def _changed_if_taken_without(cursor: Cursor[Any], database: Database, work: LaneBatch) -> set[tuple[str, str]]:
    """The columns that the command would change, if the database takes the same rows without its change; else none.

    The rows are written as they are, and of the audit row one without author and reason; all is rolled back.
    """
    trial = work.head()
    trial.reset(database)
    cursor.execute(SAVEPOINT)
    try:
        lock(cursor, database, [trial])
        decision = _decision(database, trial)
        if decision is None:
            return set()
        rewrite_rows(cursor, database, [trial])
        if decision.from_level != decision.to_level:
            cursor.execute(database.statements.insert_progressions, _plain_progression(trial, decision))
        return _changed(trial, decision)
    except (psycopg.Error, RowsVanished) as refused:
        if isinstance(refused, psycopg.Error) and classify(refused) in (ErrorClass.TRANSIENT, ErrorClass.TOO_SLOW):
            raise
        return set()
    finally:
        if not cursor.connection.closed:
            cursor.execute(ROLLBACK)


def _decision(database: Database, work: LaneBatch) -> Decision | None:
    """What the rules say to the command; None if they would not apply it, or if it has no rows to be written."""
    track = database.catalog.get(work.lane.specialization)
    if work.refusal is not None or track is None or not work.license_id:
        return None
    decision = rules.decide(work.state, work.records[0], track, database.limits)
    return decision if decision.error is None else None


def _changed(work: LaneBatch, decision: Decision) -> set[tuple[str, str]]:
    """The columns that the command gives another value. A Reset sets all totals: it may take a fraction away."""
    assert decision.after is not None
    rows = (
        (PROGRESS, PROGRESS_VALUES, work.progress_row, progress_of(decision.after)),
        (LICENSES, LICENSE_VALUES, work.license_row, decision.after[1:3]),
    )
    changed = {
        (table, name)
        for table, names, old, new in rows
        for name, was, becomes in zip(names, old, new, strict=True)
        if was != becomes
    }
    if work.records[0].kind == RESET:
        changed |= {(PROGRESS, name) for name in TOTALS}
    if decision.from_level != decision.to_level:
        changed |= {(PROGRESSIONS, name) for name in PROGRESSION_VALUES}
    return changed


def _plain_progression(work: LaneBatch, decision: Decision) -> tuple[bytes, ...]:
    """An audit row of one level up that says nothing of the command."""
    level = decision.from_level or 1
    return (
        bigints([work.license_id]), bigints([level]), bigints([level + 1]), bigints([0]), texts([""]), texts(["{}"])
    )  # fmt: skip
