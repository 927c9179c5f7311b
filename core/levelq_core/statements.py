"""The statements of the one transaction, in the order they run. Each has a name and one sentence.

Lanes travel as parallel arrays, sorted by (specialization in C order, user): `WITH ORDINALITY` keeps that
order, and `ORDER BY k.n` is therefore the lock order. Types that differ between databases are filled in
from the schema; values never are.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from .schema import LEDGER, LICENSES, OUTBOX, PROGRESS, PROGRESSIONS, Parent, Schema

LEDGER_COPY = (
    f"COPY {LEDGER} (command_id, user_id, specialization, kind, status, error, message, digest, xp, sessions, "
    "projects, theory_hours, practice_hours, from_level, to_level, before, after, batch, xid, source) "
    "FROM STDIN (FORMAT BINARY)"
)
LEDGER_COLUMNS = 20

# Where are we: isolation, whether this transaction has a batch already (and mark it), its id.
ENTER = """
    SELECT current_setting('transaction_isolation'), was, set_config('levelq.batch', '1', true),
           pg_current_xact_id()::text::bigint
    FROM (SELECT current_setting('levelq.batch', true) AS was OFFSET 0) AS earlier
"""

# Which of these commands were decided before, and how.
LEDGER_FIND = f"""
    SELECT command_id, digest, user_id, specialization, error, message, from_level, to_level, before, after
    FROM {LEDGER} WHERE command_id = ANY(%b)
"""

# The outbox rows of decided commands have done their work.
OUTBOX_DELETE = f"DELETE FROM {OUTBOX} WHERE command_id = ANY(%b)"

_LANES = "unnest(%b, %b) WITH ORDINALITY AS k(specialization, user_id, n)"


def lock_parents(parent: Parent) -> str:
    """Which users exist; their rows cannot go away before we insert rows that refer to them."""
    return f"""
        SELECT u.{parent.column} FROM unnest(%b) WITH ORDINALITY AS k(user_id, n)
        JOIN {parent.table} u ON u.{parent.column} = k.user_id
        ORDER BY k.n FOR KEY SHARE OF u
    """


@dataclass(frozen=True)
class Statements:
    """The statements whose text depends on the database's column types."""

    missing: str
    insert_progress: str
    lock_progress: str
    insert_license: str
    lock_license: str
    skip_locked: tuple[str, str]
    update_progress: str
    update_license: str
    insert_progressions: str
    remove_progress: str
    remove_license: str
    parents: tuple[tuple[str, Parent, str], ...]

    @classmethod
    @lru_cache(maxsize=8)
    def of(cls, schema: Schema) -> Statements:
        """The statements for one schema, built once."""
        progress_pair = "p.student_id = k.user_id AND p.specialization_id = k.specialization"
        license_pair = "l.user_id = k.user_id AND l.specialization_type = k.specialization"
        lock_progress = f"""
            SELECT k.n, coalesce(p.current_level, 1)::bigint, coalesce(p.total_xp, 0)::bigint,
                   coalesce(p.completed_sessions, 0)::bigint, coalesce(p.completed_projects, 0)::bigint,
                   coalesce(p.theory_hours_completed, 0)::bigint, coalesce(p.practice_hours_completed, 0)::bigint
            FROM {_LANES} JOIN {PROGRESS} p ON {progress_pair}
            ORDER BY k.n FOR NO KEY UPDATE OF p
        """
        lock_license = f"""
            SELECT k.n, l.id::bigint, coalesce(l.current_level, 1)::bigint,
                   coalesce(l.max_achieved_level, l.current_level, 1)::bigint
            FROM {_LANES} JOIN {LICENSES} l ON {license_pair}
            ORDER BY k.n FOR NO KEY UPDATE OF l
        """
        return cls(
            # Which lanes lack their progress row (true, ...) or their license row (..., true).
            missing=f"""
                SELECT k.n, p.student_id IS NULL, l.user_id IS NULL
                FROM {_LANES} LEFT JOIN {PROGRESS} p ON {progress_pair} LEFT JOIN {LICENSES} l ON {license_pair}
                WHERE p.student_id IS NULL OR l.user_id IS NULL ORDER BY k.n
            """,
            # Make progress rows that are missing, every named column given; somebody else may have been faster.
            insert_progress=f"""
                INSERT INTO {PROGRESS} (student_id, specialization_id, current_level, total_xp, completed_sessions,
                    completed_projects, theory_hours_completed, practice_hours_completed, last_activity, created_at,
                    updated_at)
                SELECT k.user_id, k.specialization, 1, 0, 0, 0, 0, 0, {_now(schema, PROGRESS, "last_activity")},
                       {_now(schema, PROGRESS, "created_at")}, {_now(schema, PROGRESS, "updated_at")}
                FROM {_LANES} ORDER BY k.n
                ON CONFLICT (student_id, specialization_id) DO NOTHING
                RETURNING student_id::bigint, specialization_id::text
            """,
            # Lock the progress rows in order and read their totals.
            lock_progress=lock_progress,
            # Make license rows that are missing, likewise.
            insert_license=f"""
                INSERT INTO {LICENSES} (user_id, specialization_type, current_level, max_achieved_level, started_at,
                    last_advanced_at)
                SELECT k.user_id, k.specialization, 1, 1, {_now(schema, LICENSES, "started_at")},
                       {_now(schema, LICENSES, "last_advanced_at")}
                FROM {_LANES} ORDER BY k.n
                ON CONFLICT (user_id, specialization_type) DO NOTHING
                RETURNING user_id::bigint, specialization_type::text
            """,
            # Lock the license rows in order and read them.
            lock_license=lock_license,
            # After a lock timeout: which rows could be had at once, so that the others are known.
            skip_locked=(lock_progress + " SKIP LOCKED", lock_license + " SKIP LOCKED"),
            # Write the progress rows that changed: only rows locked above, each once.
            update_progress=f"""
                UPDATE {PROGRESS} p SET current_level = k.level, total_xp = k.xp, completed_sessions = k.sessions,
                    completed_projects = k.projects, theory_hours_completed = k.theory,
                    practice_hours_completed = k.practice, last_activity = {_now(schema, PROGRESS, "last_activity")},
                    updated_at = {_now(schema, PROGRESS, "updated_at")}
                FROM unnest(%b, %b, %b, %b, %b, %b, %b, %b)
                    AS k(specialization, user_id, level, xp, sessions, projects, theory, practice)
                WHERE {progress_pair}
            """,
            # Write the license rows that changed.
            update_license=f"""
                UPDATE {LICENSES} l SET current_level = k.level, max_achieved_level = k.highest, last_advanced_at =
                    CASE WHEN l.current_level IS DISTINCT FROM k.level
                         THEN {_now(schema, LICENSES, "last_advanced_at")} ELSE l.last_advanced_at END
                FROM unnest(%b, %b, %b, %b) AS k(specialization, user_id, level, highest) WHERE {license_pair}
            """,
            # One audit row per license level that changed, in the order of effect.
            insert_progressions=f"""
                INSERT INTO {PROGRESSIONS} (user_license_id, from_level, to_level, advanced_by, advancement_reason,
                    requirements_met, advanced_at)
                SELECT k.license, k.from_level, k.to_level, nullif(k.author, 0), k.reason,
                       k.met::{_met_type(schema)}, {_now(schema, PROGRESSIONS, "advanced_at")}
                FROM unnest(%b, %b, %b, %b, %b, %b) WITH ORDINALITY
                    AS k(license, from_level, to_level, author, reason, met, n) ORDER BY k.n
            """,
            # Take back rows made for lanes in which nothing was applied.
            remove_progress=f"DELETE FROM {PROGRESS} p USING {_LANES} WHERE {progress_pair}",
            remove_license=f"DELETE FROM {LICENSES} l USING {_LANES} WHERE {license_pair}",
            parents=tuple(
                (table, parent, lock_parents(parent))
                for table in (PROGRESS, LICENSES)
                for parent in schema.parents.get(table, ())
            ),
        )


def _now(schema: Schema, table: str, column: str) -> str:
    return schema.column(table, column).now


def _met_type(schema: Schema) -> str:
    """The type of requirements_met: JSON where the application has it so, else text."""
    kind = schema.column(PROGRESSIONS, "requirements_met").type
    return kind if kind in ("json", "jsonb") else "text"
