"""Whether an error that follows one command through isolation is provably about the content of that command.

Only then is the command rejected for good. The cause of any other error may be repaired later, so the lane waits.
"""

from __future__ import annotations

from typing import Any

import psycopg

from levelq_core.database.cursors import Cursor
from levelq_core.database.pgbinary import bigints, texts
from levelq_core.database.schema import PROGRESSIONS
from levelq_core.database.sqlstate import ErrorClass, classify, raised_in_function
from levelq_core.domain import rules
from levelq_core.domain.rules import Decision

from . import constraints
from .constraints import CHECK, FOREIGN_KEY
from .couple import rewrite_rows
from .lane_batch import Database, LaneBatch, RowsVanished, changed_columns
from .locking import lock
from .statements import PROGRESSION_VALUES, ROLLBACK, SAVEPOINT

_TEXT = ("22001", "22021", "22P05")  # too long, not in the encoding, not in the server's encoding
_OVERFLOW, _CHECK, _FOREIGN_KEY = "22003", "23514", "23503"


def is_commands_fault(cursor: Cursor[Any], database: Database, batch: LaneBatch, error: Exception) -> bool:
    """Whether the only command of `batch` is provably to blame for `error`, the result of an attempt at it alone.

    What a trigger or a function raises proves nothing. A check constraint, an overflow and a text that does not fit
    must concern a column that the command sets, and the database must accept the same rows without its change. A
    foreign key must be that of the user, the specialization or the author, and the row it leads to must be missing.
    Changes nothing. Raises psycopg.Error for a transient failure meanwhile.
    """
    if not isinstance(error, psycopg.Error) or error.sqlstate is None:  # the client could not encode a value
        return isinstance(error, UnicodeEncodeError | psycopg.DataError)
    if raised_in_function(error):
        return False
    if error.sqlstate == _FOREIGN_KEY:
        return _names_no_row(cursor, error, batch)
    if error.sqlstate not in (_CHECK, _OVERFLOW, *_TEXT):
        return False
    changed = _changes_if_accepted_without(cursor, database, batch)
    if error.sqlstate == _CHECK:
        found = constraints.find(cursor, error)
        if found is None or found.kind != CHECK:
            return False
        return any(name in found.columns and found.table in (table, "") for table, name in changed)
    if error.sqlstate in _TEXT:
        return bool(batch.records[0].reason) and (PROGRESSIONS, "advancement_reason") in changed
    return bool(changed)


def _names_no_row(cursor: Cursor[Any], error: psycopg.Error, batch: LaneBatch) -> bool:
    """Whether a foreign key leads from an id that the command names to a row that does not exist."""
    found = constraints.find(cursor, error)
    if found is None or found.kind != FOREIGN_KEY or found.target is None or len(found.columns) != 1:
        return False
    lane, author = batch.lane, batch.records[0].advanced_by
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


def _changes_if_accepted_without(cursor: Cursor[Any], database: Database, batch: LaneBatch) -> set[tuple[str, str]]:
    """The columns that the command would change, if the database accepts the same rows without its change; else none.

    Writes the rows as they are, and an audit row without author and reason; rolls all back.
    """
    trial = batch.first_command()
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
        return _changes(trial, decision)
    except (psycopg.Error, RowsVanished) as refused:
        if isinstance(refused, psycopg.Error) and classify(refused) in (ErrorClass.TRANSIENT, ErrorClass.TOO_SLOW):
            raise
        return set()
    finally:
        if not cursor.connection.closed:
            cursor.execute(ROLLBACK)


def _decision(database: Database, batch: LaneBatch) -> Decision | None:
    """The decision of the rules; None if they reject the command, or if it has no rows to be written."""
    track = database.catalog.get(batch.lane.specialization)
    if batch.rejection is not None or track is None or not batch.license_id:
        return None
    decision = rules.decide(batch.state, batch.records[0], track, database.limits)
    return decision if decision.error is None else None


def _changes(batch: LaneBatch, decision: Decision) -> set[tuple[str, str]]:
    """The columns, as (table, name), that the command gives another value."""
    assert decision.after is not None
    changed = changed_columns(batch.progress_row, batch.license_row, decision.after, batch.records[0])
    if decision.from_level != decision.to_level:
        changed |= {(PROGRESSIONS, name) for name in PROGRESSION_VALUES}
    return changed


def _plain_progression(batch: LaneBatch, decision: Decision) -> tuple[bytes, ...]:
    """An audit row of one level up without anything of the command."""
    level = decision.from_level or 1
    return (
        bigints([batch.license_id]), bigints([level]), bigints([level + 1]), bigints([0]), texts([""]), texts(["{}"])
    )  # fmt: skip
