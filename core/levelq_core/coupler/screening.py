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

from levelq_core.database.cursors import Cursor
from levelq_core.database.pgbinary import bigints
from levelq_core.database.row_times import updated_times
from levelq_core.database.schema import LICENSES, PROGRESS
from levelq_core.database.sqlstate import ErrorClass, classify, in_words, raised_in_function
from levelq_core.domain.codec import RESET, Record
from levelq_core.domain.rules import NOTHING, Decision, State

from . import constraints
from .constraints import CHECK, Constraint
from .current_tables import CurrentTables
from .lane_batch import Database, LaneBatch, NewDecision, progress_of
from .locking import keys_of
from .statements import (
    LICENSE_PAIR,
    LICENSE_VALUES,
    PROGRESS_PAIR,
    PROGRESS_VALUES,
    TOTALS,
    license_values,
    progress_values,
)

ROUNDS = 16  # of one attempt; each finds one command more in every lane that has another
BATCHES = 100  # how many batches a constraint is evaluated beforehand for, after it last refused a command
_SAVEPOINT = "SAVEPOINT levelq_screen"
_RELEASE = "RELEASE SAVEPOINT levelq_screen"
_ROLLBACK = "ROLLBACK TO SAVEPOINT levelq_screen"


class Check(NamedTuple):
    """A check constraint that can be evaluated beforehand; `error` is what it refused first."""

    table: str
    columns: frozenset[str]
    statement: str
    reset_statement: str
    error: psycopg.Error


class Row(NamedTuple):
    """The new values of a lane's rows. `exact`: a Reset sets the totals, so they lose their fractions."""

    work: LaneBatch
    state: State
    exact: bool


class Remembered:
    """The check constraints that refused commands in recent batches of this process."""

    def __init__(self) -> None:
        self._left: dict[str, tuple[psycopg.Error, int]] = {}

    def errors(self) -> dict[str, psycopg.Error]:
        """By name, what each of them said, to find it again: it may have been changed or dropped meanwhile."""
        return {name: error for name, (error, _) in self._left.items()}

    def note(self, name: str, error: psycopg.Error, *, refused: bool) -> None:
        """After a batch: whether it refused something."""
        left = BATCHES if refused else self._left.get(name, (error, 1))[1] - 1
        if left > 0:
            self._left[name] = (error, left)
        else:
            self._left.pop(name, None)


class Screen:
    """The check constraints that one transaction evaluates beforehand; false while there are none."""

    def __init__(self, cursor: Cursor[Any], tables: CurrentTables, remembered: Remembered) -> None:
        self._cursor = cursor
        self._tables = tables
        self._remembered = remembered
        self._errors = remembered.errors()
        self._checks: dict[str, Check] = {}
        self._broken: set[str] = set()  # conditions that cannot be evaluated apart from their table
        self._refused: set[str] = set()

    def __bool__(self) -> bool:
        return bool(self._errors)

    def add(self, error: Exception) -> bool:
        """Evaluate beforehand the constraint that this error names; False if it already is, or cannot be."""
        if not isinstance(error, psycopg.Error) or error.sqlstate != "23514" or raised_in_function(error):
            return False
        name = f"{error.diag.table_name}.{error.diag.constraint_name}"
        if name in self._errors:
            return False
        self._errors[name] = error
        return self._check(error) is not None

    def read(self) -> None:
        """Read the constraints. The caller has locked the rows, so until they are written no constraint can change."""
        found = {name: self._check(error) for name, error in self._errors.items() if name not in self._broken}
        self._checks = {name: check for name, check in found.items() if check}

    def refuse(self, works: Sequence[LaneBatch], fresh: NewDecision) -> list[LaneBatch]:
        """Note in `rejected` the first command of each lane that will be refused; the lanes that have one.

        One only: without it, those behind it may be taken. The caller folds these lanes again, and calls again until
        nothing is found, at most ROUNDS times.
        """
        first: dict[int, tuple[int, Check]] = {}  # by lane: where in `fresh`, and what refuses it
        for name, check in list(self._checks.items()):
            self._cursor.execute(_SAVEPOINT)
            try:
                refused = _refused(self._cursor, check, works, fresh)
                self._cursor.execute(_RELEASE)
            except psycopg.Error as error:
                if self._cursor.connection.closed or classify(error) is not ErrorClass.ISOLATE:
                    raise
                self._cursor.execute(_ROLLBACK)
                self._broken.add(name)
                del self._checks[name]
                continue
            self._refused |= {name} if refused else set()
            for n in refused:
                lane = id(fresh[n][0])
                if lane not in first or n < first[lane][0]:
                    first[lane] = (n, check)
        for n, check in first.values():
            work, record, _ = fresh[n]
            refusal = Decision("database_error", in_words(check.error))
            work.rejected = {**(work.rejected or {}), record.command_id: refusal}
        return [fresh[n][0] for n, _ in first.values()]

    def end(self) -> None:
        """The batch is decided: remember what refused something."""
        for name, error in self._errors.items():
            self._remembered.note(name, error, refused=name in self._refused)

    def _check(self, error: psycopg.Error) -> Check | None:
        """The constraint that an error names as it is now; None if what it does cannot be foretold."""
        found = constraints.find(self._cursor, error)
        if found is None:
            return None
        statement, reset = (_statement(self._tables.database, found, exact=exact) for exact in (False, True))
        return Check(found.table, frozenset(found.columns), statement, reset, error) if statement and reset else None


def _refused(cursor: Cursor[Any], check: Check, works: Sequence[LaneBatch], fresh: NewDecision) -> list[int]:
    """Of each lane whose rows the check will refuse: where in `fresh` the first command is that makes it so."""
    writes = [w for w in works if (w.changes_progress if check.table == PROGRESS else w.changes_license)]
    bad = {id(writes[n]) for n in _false(cursor, check, [Row(w, w.state, w.sets_totals) for w in writes])}
    if not bad:
        return []
    steps = [n for n, (w, _, d) in enumerate(fresh) if id(w) in bad and d.error is None and d.after is not None]
    rows, reset = [], set()
    for work, record, decision in (fresh[n] for n in steps):
        reset |= {id(work)} if record.kind == RESET else set()
        rows.append(Row(work, decision.after or NOTHING, id(work) in reset))
    found: dict[int, int] = {}
    for at in _false(cursor, check, rows):
        work, record, decision = fresh[steps[at]]
        if _columns_changed(record, decision) & check.columns:
            found.setdefault(id(work), steps[at])
    return list(found.values())


def _columns_changed(record: Record, decision: Decision) -> set[str]:
    """By their names in either table. A Reset sets all totals: it may take a fraction away."""
    before, after = decision.before, decision.after
    assert before is not None and after is not None
    pairs = zip(
        (*PROGRESS_VALUES, *LICENSE_VALUES),
        (*progress_of(before), *before[1:3]),
        (*progress_of(after), *after[1:3]),
        strict=True,
    )
    changed = {name for name, old, new in pairs if old != new}
    return changed | set(TOTALS) if record.kind == RESET else changed


def _false(cursor: Cursor[Any], check: Check, rows: Sequence[Row]) -> list[int]:
    """Of which of these the check's condition would be false, while it is not for the row as it is; ascending."""
    false: list[int] = []
    for statement, exact in ((check.statement, False), (check.reset_statement, True)):
        numbers = [n for n, row in enumerate(rows) if row.exact == exact]
        if not numbers:
            continue
        states = [rows[n].state for n in numbers]
        values = [progress_of(state) if check.table == PROGRESS else state[1:3] for state in states]
        columns = map(bigints, zip(*values, strict=True))
        found = cursor.execute(statement, (*keys_of([rows[n].work for n in numbers]), *columns))
        false += [numbers[n - 1] for (n,) in found]
    return sorted(false)


def _statement(database: Database, found: Constraint, *, exact: bool) -> str | None:
    """Which of the given rows (by number) the constraint would refuse, though it takes the row as it is."""
    if found.kind != CHECK or not found.predictable or found.condition is None:
        return None
    if found.table == PROGRESS:
        alias, pair, named = "p", PROGRESS_PAIR, "level, xp, sessions, projects, theory, practice"
        new, always = progress_values(database.schema, exact=exact), updated_times(database.schema, PROGRESS)
    elif found.table == LICENSES:
        alias, pair, named = "l", LICENSE_PAIR, "level, highest"
        new, always = license_values(database.schema), updated_times(database.schema, LICENSES)
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
