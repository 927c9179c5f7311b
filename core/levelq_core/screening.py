"""Find the commands that a check constraint will refuse before they are written, all of a batch in one statement.

A failing statement names one row. Where one command in ten is refused, looking for each by halving takes a batch
hundreds of attempts. So once a check constraint has refused something, the database evaluates that constraint's own
condition for every row of the batch, as it would be written and as it is. A command is rejected if its change alone
makes the condition false. What cannot be foretold exactly is left to isolation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import psycopg

from . import constraints
from .constraints import CHECK, Constraint
from .cursors import Cursor
from .locking import keys_of
from .pgbinary import bigints
from .rules import Decision, State
from .schema import LICENSES, PROGRESS
from .sqlstate import ErrorClass, classify, in_words, raised_in_function
from .statements import (
    LICENSE_PAIR,
    LICENSE_VALUES,
    PROGRESS_PAIR,
    PROGRESS_VALUES,
    license_values,
    progress_times,
    progress_values,
)
from .work import Database, Fresh, Work, progress_of

ROUNDS = 16  # of one attempt; each finds one command more in every lane that has another
BATCHES = 100  # for so many batches a constraint is evaluated beforehand after it last refused a command
_SAVEPOINT = "SAVEPOINT levelq_screen"
_RELEASE = "RELEASE SAVEPOINT levelq_screen"
_ROLLBACK = "ROLLBACK TO SAVEPOINT levelq_screen"


class Check(NamedTuple):
    """A check constraint that can be evaluated beforehand; `error` is what it refused first."""

    table: str
    columns: frozenset[str]
    statement: str
    error: psycopg.Error


class Remembered:
    """The check constraints that refused commands in recent batches of this process."""

    def __init__(self) -> None:
        self._left: dict[str, tuple[psycopg.Error, int]] = {}

    def errors(self) -> list[psycopg.Error]:
        """What each of them said, to find it again: it may have been changed or dropped meanwhile."""
        return [error for error, _ in self._left.values()]

    def note(self, name: str, error: psycopg.Error, *, refused: bool) -> None:
        """After a batch: whether it refused something."""
        left = BATCHES if refused else self._left.get(name, (error, 1))[1] - 1
        if left > 0:
            self._left[name] = (error, left)
        else:
            self._left.pop(name, None)


class Screen:
    """The check constraints that one transaction evaluates beforehand; false while there are none."""

    def __init__(self, cursor: Cursor[Any], database: Database, remembered: Remembered) -> None:
        self._cursor = cursor
        self._database = database
        self._remembered = remembered
        self._checks: dict[str, Check] = {}
        self._met: set[str] = set()
        self._refused: set[str] = set()
        for error in remembered.errors():
            self.add(error)

    def __bool__(self) -> bool:
        return bool(self._checks)

    def add(self, error: Exception) -> bool:
        """Evaluate beforehand the constraint that this error names; False if it already is, or cannot be."""
        if not isinstance(error, psycopg.Error) or error.sqlstate != "23514" or raised_in_function(error):
            return False
        name = f"{error.diag.table_name}.{error.diag.constraint_name}"
        if name in self._met:
            return False
        self._met.add(name)
        found = constraints.find(self._cursor, error)
        statement = found and _statement(self._database, found)
        if not found or not statement:
            return False
        self._checks[name] = Check(found.table, frozenset(found.columns), statement, error)
        return True

    def refuse(self, cursor: Cursor[Any], works: Sequence[Work], fresh: Fresh) -> list[Work]:
        """Note in `rejected` which commands will be refused, one in a lane at most; the lanes that have one.

        The caller folds these again, and calls it again until it finds nothing, at most ROUNDS times.
        """
        found: list[Work] = []
        for name, check in list(self._checks.items()):
            cursor.execute(_SAVEPOINT)
            try:
                refused = _refused(cursor, check, works, fresh)
                cursor.execute(_RELEASE)
            except psycopg.Error as error:
                if cursor.connection.closed or classify(error) is not ErrorClass.ISOLATE:
                    raise
                cursor.execute(_ROLLBACK)  # a condition that cannot be evaluated apart from its table
                del self._checks[name]
                continue
            self._refused |= {name} if refused else set()
            found += [work for work in refused if work not in found]
        return found

    def end(self) -> None:
        """The batch is decided: remember what refused something."""
        for name, check in self._checks.items():
            self._remembered.note(name, check.error, refused=name in self._refused)


def _refused(cursor: Cursor[Any], check: Check, works: Sequence[Work], fresh: Fresh) -> list[Work]:
    """Note in each lane whose rows the check will refuse the first command that makes it so."""
    writes = [w for w in works if (w.changes_progress if check.table == PROGRESS else w.changes_license)]
    bad = {id(writes[n]) for n in _false(cursor, check, [(w, w.state) for w in writes])}
    if not bad:
        return []
    steps = [(w, record, d) for w, record, d in fresh if id(w) in bad and d.error is None and d.after is not None]
    found: dict[int, Work] = {}
    for n in _false(cursor, check, [(w, d.after) for w, _, d in steps if d.after is not None]):
        work, record, decision = steps[n]
        if id(work) not in found and _columns_changed(decision) & check.columns:
            refusal = Decision("database_error", in_words(check.error))
            work.rejected = {**(work.rejected or {}), record.command_id: refusal}
            found[id(work)] = work
    return list(found.values())


def _columns_changed(decision: Decision) -> set[str]:
    """By their names in either table."""
    before, after = decision.before, decision.after
    assert before is not None and after is not None
    pairs = zip(
        (*PROGRESS_VALUES, *LICENSE_VALUES),
        (*progress_of(before), *before[1:3]),
        (*progress_of(after), *after[1:3]),
        strict=True,
    )
    return {name for name, old, new in pairs if old != new}


def _false(cursor: Cursor[Any], check: Check, states: Sequence[tuple[Work, State]]) -> list[int]:
    """Of which of these the check's condition would be false, while it is not for the row as it is; ascending."""
    if not states:
        return []
    values = [progress_of(s) if check.table == PROGRESS else s[1:3] for _, s in states]
    columns = map(bigints, zip(*values, strict=True))
    rows = cursor.execute(check.statement, (*keys_of([w for w, _ in states]), *columns))
    return sorted(n - 1 for (n,) in rows)


def _statement(database: Database, found: Constraint) -> str | None:
    """Which of the given rows (by number) the constraint would refuse, though it takes the row as it is."""
    if found.kind != CHECK or not found.predictable or found.condition is None:
        return None
    if found.table == PROGRESS:
        alias, pair, named = "p", PROGRESS_PAIR, "level, xp, sessions, projects, theory, practice"
        new, always = progress_values(database.schema), progress_times(database.schema)
    elif found.table == LICENSES:
        alias, pair, named = "l", LICENSE_PAIR, "level, highest"
        new, always = license_values(database.schema), {}
    else:
        return None
    condition = found.condition.replace("%", "%%")

    def holds(values: dict[str, str]) -> str:
        row = ", ".join(
            f"CAST({values.get(name, f'{alias}.{quoted}')} AS {kind}) AS {quoted}"
            for name, kind in zip(found.columns, found.types, strict=True)
            for quoted in ['"' + name.replace('"', '""').replace("%", "%%") + '"']
        )
        return f"(SELECT {condition} FROM (SELECT {row}) AS {found.table})"

    arrays = ", ".join(["%b"] * (3 + named.count(",")))
    return f"""
        SELECT k.n FROM unnest({arrays}) WITH ORDINALITY AS k(specialization, user_id, {named}, n)
        JOIN {found.table} {alias} ON {pair}
        WHERE NOT {holds(new)} AND {holds(always)} IS NOT FALSE
    """
