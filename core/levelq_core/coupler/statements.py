"""The statements of the one transaction. Each has a name and one sentence.

Lanes are sent as parallel arrays, sorted by (specialization in C order, user): `WITH ORDINALITY` keeps that order, so
`ORDER BY k.n` is the lock order. Types that differ between databases come from the schema; values never do.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property, lru_cache
from typing import NamedTuple

from levelq_core.database.row_times import inserted_times, updated_times
from levelq_core.database.schema import LICENSES, OUTBOX, PROGRESS, PROGRESSIONS, Schema
from levelq_core.database.spelling import folded
from levelq_core.database.table_names import TOTALS

# The columns that a state sets, in its order.
PROGRESS_VALUES = ("current_level", *TOTALS)
LICENSE_VALUES = ("current_level", "max_achieved_level")
PROGRESSION_VALUES = ("from_level", "to_level", "advanced_by", "advancement_reason", "requirements_met")

# Read a transaction's isolation level, whether it is read-only, its lock_timeout, whether it holds a batch already, and
# its id. And mark it as one that holds a batch: a rollback to a savepoint undoes the mark together with the locks.
ENTER = """
    SELECT current_setting('transaction_isolation'), current_setting('transaction_read_only'), lock_timeout, was,
           set_config('levelq.batch', '1', true), pg_current_xact_id()::text::bigint
    FROM (SELECT current_setting('levelq.batch', true) AS was,
                 current_setting('lock_timeout') AS lock_timeout OFFSET 0) AS earlier
"""

# How long the rest of this transaction waits for each lock. A second batch waits far less than PostgreSQL's
# deadlock_timeout, but longer than a table takes to be extended, for which even transactions on other rows wait.
SET_LOCK_TIMEOUT = "SELECT set_config('lock_timeout', %s, true)"
SECOND_BATCH_WAIT = "50ms"
SHORTEN_LOCK_TIMEOUT = """
    SELECT set_config('lock_timeout', greatest(setting::int / 20, 1)::text, true)
    FROM pg_settings WHERE name = 'lock_timeout'
"""

# Remove the outbox rows of decided commands.
OUTBOX_DELETE = f"DELETE FROM {OUTBOX} WHERE command_id = ANY(%b)"

_LANES = "unnest(%b, %b) WITH ORDINALITY AS k(specialization, user_id, n)"
PROGRESS_PAIR = "p.student_id = k.user_id AND p.specialization_id = k.specialization"
LICENSE_PAIR = "l.user_id = k.user_id AND l.specialization_type = k.specialization"
_PROGRESS_IN_ORDER = f"FROM {_LANES} JOIN {PROGRESS} p ON {PROGRESS_PAIR} ORDER BY k.n FOR NO KEY UPDATE OF p"
_LICENSES_IN_ORDER = f"FROM {_LANES} JOIN {LICENSES} l ON {LICENSE_PAIR} ORDER BY k.n FOR NO KEY UPDATE OF l"

# Lock the license rows in order and read them.
LOCK_LICENSE = f"""
    SELECT l.ctid, l.id::bigint, coalesce(l.current_level, 1)::bigint,
           coalesce(l.max_achieved_level, l.current_level, 1)::bigint
    {_LICENSES_IN_ORDER}
"""

# After a lock timeout: lock the rows that are free; the others are locked elsewhere.
SKIP_LOCKED = tuple(f"SELECT k.n {rows} SKIP LOCKED" for rows in (_PROGRESS_IN_ORDER, _LICENSES_IN_ORDER))

# One attempt at a batch or a part of it, with its locks.
SAVEPOINT = "SAVEPOINT levelq"
ROLLBACK = "ROLLBACK TO SAVEPOINT levelq"
RELEASE = "RELEASE SAVEPOINT levelq"

# What is tried only to learn from it.
PROBE = "SAVEPOINT levelq_probe"
PROBE_ROLLBACK = "ROLLBACK TO SAVEPOINT levelq_probe"

# A whole batch, with its locks and its mark.
BATCH_SAVEPOINT = "SAVEPOINT levelq_batch"
BATCH_ROLLBACK = "ROLLBACK TO SAVEPOINT levelq_batch"
BATCH_RELEASE = "RELEASE SAVEPOINT levelq_batch"

# Remove rows that were inserted for lanes in which nothing was applied.
REMOVE_PROGRESS = f"DELETE FROM {PROGRESS} p USING {_LANES} WHERE {PROGRESS_PAIR}"
REMOVE_LICENSE = f"DELETE FROM {LICENSES} l USING {_LANES} WHERE {LICENSE_PAIR}"


class Update(NamedTuple):
    """One statement in two forms with the same parameters.

    `by_ctid` goes to each row by its ctid, because a join on the keys may read the whole table (see
    docs/explanation/the-transaction.md). A trigger of the application may have moved a row since it was locked; then
    `by_ctid` changes fewer rows than given, and `by_pair` changes them all, unless a trigger leaves one out.
    """

    table: str
    by_ctid: str
    by_pair: str


class Parents(NamedTuple):
    """One users table, the foreign keys that lead to it by the table they start from, and how to lock its rows."""

    table: str
    lock: str
    constraints: dict[str, str]


class Statements:
    """The statements whose text depends on the database's column types and constraints.

    `all_deferred`: check the deferred constraints of all tables before the COMMIT, not only of the three.
    """

    def __init__(self, schema: Schema, *, all_deferred: bool = False) -> None:
        self._schema = schema
        self._deferred = "ALL" if all_deferred else ", ".join(schema.deferred)

    @classmethod
    @lru_cache(maxsize=8)
    def of(cls, schema: Schema, *, all_deferred: bool = False) -> Statements:
        """The statements for one schema, built once."""
        return cls(schema, all_deferred=all_deferred)

    @cached_property
    def missing(self) -> str:
        """The lanes without a progress row (true, ...) or a license row (..., true, ...).

        And how the user's row of that specialization is spelt, if it exists under another spelling: a second row beside
        it would be at level 1. Not looked for where no index leads to a user's rows: each look would read the table.
        """
        others = [
            f"(SELECT t.{name}::text FROM {table} t WHERE {alias}.{user} IS NULL AND t.{user} = k.user_id "
            f"AND {folded(f't.{name}')} = k.specialization LIMIT 1)"
            for table, user, name, alias in (
                (PROGRESS, "student_id", "specialization_id", "p"),
                (LICENSES, "user_id", "specialization_type", "l"),
            )
            if (table, user) in self._schema.leading
        ]
        return f"""
            SELECT k.n, p.student_id IS NULL, l.user_id IS NULL, coalesce({", ".join(["NULL", *others])})
            FROM {_LANES} LEFT JOIN {PROGRESS} p ON {PROGRESS_PAIR} LEFT JOIN {LICENSES} l ON {LICENSE_PAIR}
            WHERE p.student_id IS NULL OR l.user_id IS NULL ORDER BY k.n
        """

    @cached_property
    def parents(self) -> tuple[Parents, ...]:
        """The application's users tables, sorted: the order in which their rows are locked before rows are inserted."""
        keys = [(child, parent) for child, found in self._schema.parents.items() for parent in found]
        return tuple(
            Parents(
                table,
                # The users that exist; the lock keeps their rows until levelq's are inserted. Cast to one type, because
                # a prepared statement fails for good once the types of its results change.
                f"""
                    SELECT u.{column}::bigint FROM unnest(%b) WITH ORDINALITY AS k(user_id, n)
                    JOIN {table} u ON u.{column} = k.user_id
                    ORDER BY k.n FOR KEY SHARE OF u
                """,
                {child: key.constraint for child, key in keys if (key.table, key.column) == (table, column)},
            )
            for table, column in sorted({(key.table, key.column) for _, key in keys})
        )

    @cached_property
    def lock_progress(self) -> str:
        """Lock the progress rows in order and read their ctids, levels and totals."""
        columns = self._schema.columns[PROGRESS]
        totals = ", ".join(columns[name].total(f"p.{name}") for name in TOTALS)
        return f"SELECT p.ctid, coalesce(p.current_level, 1)::bigint, {totals} {_PROGRESS_IN_ORDER}"

    @cached_property
    def insert_progress(self) -> str:
        """Insert missing progress rows, with every named column; another transaction may have been faster."""
        values = dict.fromkeys(TOTALS, "0") | {"current_level": "1"}
        return self._insert(PROGRESS, "student_id, specialization_id", values)

    @cached_property
    def insert_license(self) -> str:
        """Insert missing license rows, likewise."""
        return self._insert(LICENSES, "user_id, specialization_type", dict.fromkeys(LICENSE_VALUES, "1"))

    def _insert(self, table: str, pair: str, values: dict[str, str]) -> str:
        values |= inserted_times(self._schema, table)
        user, name = pair.split(", ")
        return f"""
            INSERT INTO {table} ({pair}, {", ".join(values)})
            SELECT k.user_id, k.specialization, {", ".join(values.values())} FROM {_LANES} ORDER BY k.n
            ON CONFLICT ({pair}) DO NOTHING RETURNING {user}::bigint, {name}::text
        """

    @cached_property
    def update_progress(self) -> Update:
        """Write the progress rows that changed: only rows that are locked, each once."""
        return self._update_progress(exact=False)

    @cached_property
    def reset_progress(self) -> Update:
        """The same where a Reset sets the totals."""
        return self._update_progress(exact=True)

    def _update_progress(self, *, exact: bool) -> Update:
        statement = f"""
            UPDATE {PROGRESS} p SET {_assignments(progress_values(self._schema, exact=exact))}
            FROM unnest(%b, %b, %b, %b, %b, %b, %b, %b, %b)
                AS k(row_ctid, specialization, user_id, level, xp, sessions, projects, theory, practice)
        """
        return _update(PROGRESS, statement, "p", PROGRESS_PAIR)

    @cached_property
    def update_license(self) -> Update:
        """Write the license rows that changed."""
        statement = f"""
            UPDATE {LICENSES} l SET {_assignments(license_values(self._schema))}
            FROM unnest(%b, %b, %b, %b, %b) AS k(row_ctid, specialization, user_id, level, highest)
        """
        return _update(LICENSES, statement, "l", LICENSE_PAIR)

    @cached_property
    def insert_progressions(self) -> str:
        """Add one audit row per license level that changed, in the order of effect."""
        met = self._schema.column(PROGRESSIONS, "requirements_met").type
        times = inserted_times(self._schema, PROGRESSIONS)
        return f"""
            INSERT INTO {PROGRESSIONS} (user_license_id, from_level, to_level, advanced_by, advancement_reason,
                requirements_met, {", ".join(times)})
            SELECT k.license, k.from_level, k.to_level, nullif(k.author, 0), k.reason,
                   k.met::{met if met in ("json", "jsonb") else "text"}, {", ".join(times.values())}
            FROM unnest(%b, %b, %b, %b, %b, %b) WITH ORDINALITY
                AS k(license, from_level, to_level, author, reason, met, n) ORDER BY k.n
        """

    @cached_property
    def check_deferred(self) -> tuple[str, ...]:
        """Check deferred constraints now, while a failure can be isolated. Rolled back, so COMMIT checks them, too."""
        if not self._deferred:
            return ()
        check = f"SET CONSTRAINTS {self._deferred} IMMEDIATE"
        return ("SAVEPOINT levelq_deferred", check, "ROLLBACK TO SAVEPOINT levelq_deferred")


def progress_values(schema: Schema, *, exact: bool) -> dict[str, str]:
    """What an update sets in a progress row (`p`), by column, from the values given (`k`).

    `exact`: totals become the given values, for a Reset; else they keep a fraction, and stay NULL while they are 0.
    """
    names = ("level", "xp", "sessions", "projects", "theory", "practice")
    given = {column: f"k.{name}" for column, name in zip(PROGRESS_VALUES, names, strict=True)}
    if not exact:
        given |= {name: schema.column(PROGRESS, name).new_total(f"p.{name}", given[name]) for name in TOTALS}
    return given | updated_times(schema, PROGRESS)


def license_values(schema: Schema) -> dict[str, str]:
    """What an update sets in a license row (`l`)."""
    now = schema.column(LICENSES, "last_advanced_at").now
    advanced = f"CASE WHEN l.current_level IS DISTINCT FROM k.level THEN {now} ELSE l.last_advanced_at END"
    values = {"current_level": "k.level", "max_achieved_level": "k.highest", "last_advanced_at": advanced}
    return values | updated_times(schema, LICENSES)


def _assignments(values: Mapping[str, str]) -> str:
    return ", ".join(f"{column} = {value}" for column, value in values.items())


def _update(table: str, statement: str, alias: str, pair: str) -> Update:
    return Update(table, f"{statement} WHERE {alias}.ctid = k.row_ctid AND {pair}", f"{statement} WHERE {pair}")
