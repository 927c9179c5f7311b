"""Evaluate beforehand the check constraints that have refused commands lately.

A failing statement names one row, and finding hundreds by halving would take a batch seconds. So each condition is
evaluated for all rows of the batch: as they would be written, and as they are. A command whose change alone makes it
false is rejected without an attempt of its own. What cannot be predicted exactly is left to isolation.
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
from levelq_core.domain.record import RESET
from levelq_core.domain.rules import Decision, State

from . import constraints
from .constraints import CHECK, Constraint
from .lane_batch import Database, LaneBatch, NewDecision, changed_columns, progress_of
from .locking import keys_of
from .statements import LICENSE_PAIR, PROGRESS_PAIR, license_values, progress_values

ROUNDS = 16  # of one attempt; each finds the next command of every lane
BATCHES = 100  # for how many batches a constraint is evaluated beforehand after it last refused a command
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

    batch: LaneBatch
    state: State
    exact: bool


class Remembered:
    """The check constraints that refused commands in recent batches of this process."""

    def __init__(self) -> None:
        self._left: dict[str, tuple[psycopg.Error, int]] = {}

    def errors(self) -> dict[str, psycopg.Error]:
        """By name, the error that each of them raised, to find it again: it may have changed or been dropped."""
        return {name: error for name, (error, _) in self._left.items()}

    def note(self, name: str, error: psycopg.Error, *, refused: bool) -> None:
        """After a batch: remember for how many more batches this constraint is evaluated."""
        left = BATCHES if refused else self._left.get(name, (error, 1))[1] - 1
        if left > 0:
            self._left[name] = (error, left)
        else:
            self._left.pop(name, None)


class Screen:
    """The check constraints that one transaction evaluates beforehand; false if there are none."""

    def __init__(self, cursor: Cursor[Any], remembered: Remembered) -> None:
        self._cursor = cursor
        self._remembered = remembered
        self._errors = remembered.errors()
        self._checks: dict[str, Check] = {}
        self._broken: set[str] = set()  # conditions that cannot be evaluated apart from their table
        self._refusing: set[str] = set()

    def __bool__(self) -> bool:
        return bool(self._errors)

    def add(self, error: Exception, database: Database) -> bool:
        """Evaluate beforehand the constraint that this error names; False if it already is, or cannot be."""
        if not isinstance(error, psycopg.Error) or error.sqlstate != "23514" or raised_in_function(error):
            return False
        name = f"{error.diag.table_name}.{error.diag.constraint_name}"
        if name in self._errors:
            return False
        self._errors[name] = error
        return self._check(error, database) is not None

    def read(self, database: Database) -> None:
        """Read the constraints. The caller has locked the rows, so until they are written no constraint can change."""
        found = {name: self._check(error, database) for name, error in self._errors.items() if name not in self._broken}
        self._checks = {name: check for name, check in found.items() if check}

    def refuse(self, lane_batches: Sequence[LaneBatch], new: Sequence[NewDecision]) -> list[LaneBatch]:
        """Note in `rejected` the first command of each lane that will be refused; the lanes that have one.

        One only: without it, those behind it may pass. The caller folds these lanes again, and calls again until
        nothing is found, at most ROUNDS times.
        """
        first: dict[int, tuple[int, Check]] = {}  # by lane: the index in `new`, and what refuses it
        for name, check in list(self._checks.items()):
            refused = self._refused(name, check, lane_batches, new)
            if refused:
                self._refusing.add(name)
            for n in refused:
                lane = id(new[n][0])
                if lane not in first or n < first[lane][0]:
                    first[lane] = (n, check)
        for n, check in first.values():
            batch, record, _ = new[n]
            rejection = Decision("database_error", in_words(check.error))
            batch.rejected = {**(batch.rejected or {}), record.command_id: rejection}
        return [new[n][0] for n, _ in first.values()]

    def _refused(
        self, name: str, check: Check, lane_batches: Sequence[LaneBatch], new: Sequence[NewDecision]
    ) -> list[int]:
        """The commands that this check will refuse, as indexes in `new`; none if it cannot be evaluated."""
        self._cursor.execute(_SAVEPOINT)
        try:
            refused = _refused(self._cursor, check, lane_batches, new)
            self._cursor.execute(_RELEASE)
        except psycopg.Error as error:
            if self._cursor.connection.closed or classify(error) is not ErrorClass.ISOLATE:
                raise
            self._cursor.execute(_ROLLBACK)
            self._broken.add(name)
            del self._checks[name]
            return []
        return refused

    def end(self) -> None:
        """The batch is decided: remember which constraints refused something."""
        for name, error in self._errors.items():
            self._remembered.note(name, error, refused=name in self._refusing)

    def _check(self, error: psycopg.Error, database: Database) -> Check | None:
        """The constraint that an error names as it is now; None if it cannot be evaluated beforehand."""
        found = constraints.find(self._cursor, error)
        if found is None:
            return None
        statement, reset = (_statement(database, found, exact=exact) for exact in (False, True))
        return Check(found.table, frozenset(found.columns), statement, reset, error) if statement and reset else None


def _refused(
    cursor: Cursor[Any], check: Check, lane_batches: Sequence[LaneBatch], new: Sequence[NewDecision]
) -> list[int]:
    """For each lane whose rows the check will refuse: the index in `new` of the first command that makes it so."""
    writes = [b for b in lane_batches if (b.changes_progress if check.table == PROGRESS else b.changes_license)]
    bad = {id(writes[n]) for n in _false(cursor, check, [Row(b, b.state, b.sets_totals) for b in writes])}
    if not bad:
        return []
    steps: list[int] = []  # indexes in `new`
    rows: list[Row] = []
    reset: set[int] = set()
    for n, (batch, record, decision) in enumerate(new):
        if id(batch) in bad and decision.after is not None and decision.error is None:
            reset |= {id(batch)} if record.kind == RESET else set()
            steps.append(n)
            rows.append(Row(batch, decision.after, id(batch) in reset))
    first: dict[int, int] = {}
    for step in _false(cursor, check, rows):
        batch, record, decision = new[steps[step]]
        assert decision.before is not None and decision.after is not None
        progress, license_ = progress_of(decision.before), decision.before[1:3]
        if {name for _, name in changed_columns(progress, license_, decision.after, record)} & check.columns:
            first.setdefault(id(batch), steps[step])
    return list(first.values())


def _false(cursor: Cursor[Any], check: Check, rows: Sequence[Row]) -> list[int]:
    """The rows (as indexes, ascending) for which the condition would be false, while it is not for the row as it is."""
    false: list[int] = []
    for statement, exact in ((check.statement, False), (check.reset_statement, True)):
        numbers = [n for n, row in enumerate(rows) if row.exact == exact]
        if not numbers:
            continue
        states = [rows[n].state for n in numbers]
        values = [progress_of(state) if check.table == PROGRESS else state[1:3] for state in states]
        columns = map(bigints, zip(*values, strict=True))
        found = cursor.execute(statement, (*keys_of([rows[n].batch for n in numbers]), *columns))
        false += [numbers[n - 1] for (n,) in found]
    return sorted(false)


def _statement(database: Database, found: Constraint, *, exact: bool) -> str | None:
    """A query for the given rows (by number) that the constraint would refuse, though it accepts the row as it is."""
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
