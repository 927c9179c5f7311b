"""Temporary tables with the rows of one range of users. All questions about rows read these, so memory is bounded.

Arrays in the ledger are those of `levelq_core.Totals`, counted from 1: progress level, license level, highest level,
then the five totals. Rows of user 0 are those of forgotten users: their ids count, their numbers are ignored.
"""

from __future__ import annotations

from levelq_core.database.schema import LEDGER, LICENSES, PROGRESS

ROWS, LANES, CHANGES = "levelq_verify_rows", "levelq_verify_lanes", "levelq_verify_changes"
PAIRS, GAPS, TOUCHED = "levelq_verify_pairs", "levelq_verify_gaps", "levelq_verify_touched"

# What an applied command adds to the five totals, by its ledger row. A Reset sets them, so it adds the difference to
# what it found.
_NUMBERS = ("xp", "sessions", "projects", "theory_hours", "practice_hours")
_ADDED = ", ".join(f"{name} - CASE kind WHEN 'reset' THEN before[{n}] ELSE 0 END" for n, name in enumerate(_NUMBERS, 4))
EFFECT = f"ARRAY[{_ADDED}]::bigint[]"

# COMMIT empties them at the end of a range.
RANGE_TABLES = {
    # The ledger's rows of the users.
    ROWS: "id bigint, command_id uuid, user_id bigint, specialization text, status text, cancelled bool, "
    "effect bigint[], from_level int, to_level int, before bigint[], after bigint[], batch uuid, "
    "applied_at timestamptz",
    # One row per lane with applied commands: how many, how many of them changed the level, the first and the last.
    LANES: "user_id bigint, specialization text, applied bigint, changes bigint, "
    "first_id bigint, first_command uuid, started bigint[], first_at timestamptz, "
    "last_id bigint, last_command uuid, ended bigint[], last_at timestamptz",
    # The applied commands that changed a license's level.
    CHANGES: "user_id bigint, specialization text, id bigint, command_id uuid, from_level int, to_level int",
    # One row per pair of rows in the two tables; `totals` is NULL if there is no progress row.
    PAIRS: "user_id bigint, specialization text, progress_level bigint, license_level bigint, highest bigint, "
    "totals numeric[]",
    # Where a lane was left (`was`) and what was found there next, if they differ: by the lane's next command (`later`),
    # or, if that is NULL, in the tables now.
    GAPS: "user_id bigint, specialization text, earlier_id bigint, earlier uuid, later uuid, was numeric[], "
    "found numeric[], was_at timestamptz, found_at timestamptz",
}

# With --since: the users that ledger rows or the history name, some more than once, and how many rows each time.
WHOLE_TABLES = {TOUCHED: "user_id bigint, rows bigint"}

_TOTALS = ("total_xp", "completed_sessions", "completed_projects", "theory_hours_completed", "practice_hours_completed")
_COLUMNS = (
    "id, command_id, user_id, specialization, status, error IS NOT DISTINCT FROM 'cancelled' AS cancelled, "
    f"{EFFECT} AS effect, from_level, to_level, before, after, batch, applied_at"
)


def of_users(column: str, since: bool) -> str:
    """The condition that the column names a user of the range; with --since one that was touched."""
    inside = f"{column} > :low AND {column} <= :high"
    if not since:
        return inside
    return f"{inside} AND {column} IN (SELECT user_id FROM {TOUCHED} WHERE user_id > :low AND user_id <= :high)"


def fill_rows(since: bool) -> str:
    """Load the ledger's rows of the range."""
    return f"""
        INSERT INTO {ROWS} SELECT {_COLUMNS} FROM {LEDGER}
        WHERE user_id > 0 AND id > :after AND {of_users("user_id", since)}
    """


# A lane too long to load is read from the ledger by its index, in place of ROWS.
LANE_ROWS = (
    f"(SELECT {_COLUMNS} FROM {LEDGER} WHERE user_id = :user AND specialization = :specialization AND id > :after)"
)
LANES_OF_USER = f"SELECT DISTINCT specialization FROM {LEDGER} WHERE user_id = :high AND id > :after"

FILL_LANES = f"""
    INSERT INTO {LANES}
    SELECT s.user_id, s.specialization, s.applied, s.changes, f.id, f.command_id, f.before, f.applied_at,
           g.id, g.command_id, g.after, g.applied_at
    FROM (SELECT user_id, specialization, count(*) AS applied, min(id) AS first_id, max(id) AS last_id,
                 count(*) FILTER (WHERE from_level <> to_level) AS changes
          FROM {ROWS} r WHERE status = 'applied' GROUP BY user_id, specialization) s
    JOIN {ROWS} f ON f.id = s.first_id JOIN {ROWS} g ON g.id = s.last_id
"""

FILL_CHANGES = f"""
    INSERT INTO {CHANGES} SELECT user_id, specialization, id, command_id, from_level, to_level
    FROM {ROWS} r WHERE status = 'applied' AND from_level <> to_level
"""

# Between two commands of the ledger.
FILL_GAPS = f"""
    INSERT INTO {GAPS}
    SELECT user_id, specialization, earlier_id, earlier, command_id, was, before, was_at, applied_at FROM (
        SELECT user_id, specialization, command_id, before, applied_at, lag(id) OVER lane AS earlier_id,
               lag(command_id) OVER lane AS earlier, lag(after) OVER lane AS was, lag(applied_at) OVER lane AS was_at
        FROM {ROWS} r WHERE status = 'applied' WINDOW lane AS (PARTITION BY user_id, specialization ORDER BY id)
    ) steps WHERE before <> was
"""

# With --since: between the last command before that time and the first one after.
FILL_EARLIER_GAPS = f"""
    INSERT INTO {GAPS}
    SELECT t.user_id, t.specialization, g.id, g.command_id, t.first_command, g.after, t.started, g.applied_at,
           t.first_at
    FROM {LANES} t CROSS JOIN LATERAL (
        SELECT id, command_id, after, applied_at FROM {LEDGER}
        WHERE user_id = t.user_id AND specialization = t.specialization AND status = 'applied' AND id < t.first_id
        ORDER BY id DESC LIMIT 1
    ) g WHERE g.after <> t.started
"""

# Between the last command and the tables now; totals without their fractions.
FILL_LAST_GAPS = f"""
    INSERT INTO {GAPS}
    SELECT t.user_id, t.specialization, t.last_id, t.last_command, NULL, t.ended, f.found, t.last_at, now()
    FROM {LANES} t LEFT JOIN {PAIRS} p ON p.user_id = t.user_id AND p.specialization = t.specialization
    CROSS JOIN LATERAL (
        SELECT ARRAY[coalesce(p.progress_level, 1), coalesce(p.license_level, 1),
                     coalesce(p.highest, p.license_level, 1)]::numeric[]
               || coalesce(p.totals, ARRAY[NULL, NULL, NULL, NULL, NULL]::numeric[]) AS found
    ) f WHERE f.found IS DISTINCT FROM t.ended::numeric[]
"""


def fill_pairs(since: bool) -> str:
    """Load both tables' rows of the range, side by side."""
    totals = ", ".join(f"floor(coalesce({name}, 0)::numeric)" for name in _TOTALS)
    return f"""
        INSERT INTO {PAIRS}
        SELECT coalesce(p.user_id, l.user_id), coalesce(p.specialization, l.specialization), p.current_level,
               l.current_level, l.max_achieved_level, p.totals
        FROM (SELECT student_id AS user_id, specialization_id AS specialization, current_level,
                     ARRAY[{totals}] AS totals
              FROM {PROGRESS} WHERE {of_users("student_id", since)}) p
        FULL JOIN (SELECT user_id, specialization_type AS specialization, current_level, max_achieved_level
                   FROM {LICENSES} WHERE {of_users("user_id", since)}) l
            ON l.user_id = p.user_id AND l.specialization = p.specialization
    """


# How many applied commands the range has; by lanes, how many steps: from each to the next one or to the tables.
APPLIED_ROWS = f"SELECT count(*) FROM {ROWS} r WHERE status = 'applied'"
STEPS_OF_LANES = f"SELECT coalesce(sum(applied), 0) FROM {LANES}"
