"""Statements that merge several rows of the same user and specialization into one.

Such rows come from two requests that each found none and inserted one, or from an import that ran twice. The
application then mostly writes to one of them. So the greatest of each total is kept: that is right for copies, and for
rows that each hold a part it loses only the smaller parts. A sum would double every copy, and levels that were never
earned cannot be taken back. The sum is printed as a comment, for a person who knows that the rows are parts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from sqlalchemy import Connection, text

from levelq_core.database.schema import LICENSES, PROGRESS, PROGRESSIONS, REQUIRED, Column

KEYS = {PROGRESS: ("student_id", "specialization_id"), LICENSES: ("user_id", "specialization_type")}
_TOTALS = ("total_xp", "completed_sessions", "completed_projects", "theory_hours_completed", "practice_hours_completed")
_LEVELS = ("current_level", "max_achieved_level")
_GREATEST = (*_LEVELS, *_TOTALS, "last_activity", "updated_at", "last_advanced_at")
_LEAST = ("created_at", "started_at")


def merged(
    connection: Connection,
    table: str,
    key: tuple[str, str],
    facts: Mapping[str, Mapping[str, Column]],
    where: str = "",
) -> tuple[str, ...]:
    """Keep the most advanced row of each key, with the greatest of each total; what refers to the others follows.

    Each statement is safe by itself: the last deletes no row that something refers to, or that has more of anything
    than the one that is kept, so a statement that failed, or an application that wrote meanwhile, leaves duplicates
    and loses nothing. `key`: two SQL expressions. `where`: a condition for the rows to merge, "" for all that have a
    key. Raises DBAPIError.
    """
    columns = [name for name in REQUIRED[table] if name in facts[table]]
    others = [name for name in facts[table] if name not in REQUIRED[table]]
    rows = _Rows(table, key, " AND ".join([f"{e} IS NOT NULL" for e in key] + [where] * bool(where)), columns)
    values = {name: f"max({name}) OVER pair" for name in columns if name in _GREATEST}
    raised = list(values)
    values |= {name: f"min({name}) OVER pair" for name in columns if name in _LEAST}
    statements = []
    if values:
        ranked = rows.ranked(*(f"{value} AS {name}" for name, value in values.items()))
        statements.append(f"UPDATE {table} t SET {_assigned(values)} FROM {ranked} AND k.n = 1 AND k.rows > 1;")
    guards = ["AND k.n > 1", *(f"AND k.has_{name}" for name in raised)]
    for child, pairs in _children(connection, table, facts):
        kept = [f"{o} AS old_{n}, first_value({o}) OVER advanced AS kept_{n}" for n, (_, o) in enumerate(pairs)]
        moved = ", ".join(f"{theirs} = k.kept_{n}" for n, (theirs, _) in enumerate(pairs))
        same = " AND ".join(f"c.{theirs} = k.old_{n}" for n, (theirs, _) in enumerate(pairs))
        statements.append(f"UPDATE {child} c SET {moved} FROM {rows.ranked(*kept, place=same)} AND k.n > 1;")
        same = " AND ".join(f"c.{theirs} = t.{ours}" for theirs, ours in pairs)
        guards.append(f"AND NOT EXISTS (SELECT FROM {child} c WHERE {same})")
    has = (f"first_value({n}) OVER advanced IS NOT DISTINCT FROM max({n}) OVER pair AS has_{n}" for n in raised)
    statements.append(f"DELETE FROM {table} t USING {rows.ranked(*has)} {' '.join(guards)};")
    return (*_explained(rows, others), *statements)


_PLACE = "t.tableoid = k.part AND t.ctid = k.place"


class _Rows(NamedTuple):
    """The rows to merge: those of a table that have a key and meet the condition."""

    table: str
    key: tuple[str, str]
    condition: str
    columns: list[str]

    def ranked(self, *more: str, place: str = _PLACE) -> str:
        """The rows, numbered within each key, the most advanced first, joined where `place` says."""
        pair = f"PARTITION BY {', '.join(self.key)}"
        best = [f"{name} DESC NULLS LAST" for name in self.columns if name in (*_LEVELS, *_TOTALS)]
        best += ["id", "ctid"] if "id" in self.columns else ["ctid"]
        counted = "row_number() OVER advanced AS n, count(*) OVER pair AS rows"
        chosen = ", ".join(["tableoid AS part", "ctid AS place", counted, *more])
        windows = f"pair AS ({pair}), advanced AS ({pair} ORDER BY {', '.join(best)})"
        return f"(SELECT {chosen} FROM {self.table} WHERE {self.condition} WINDOW {windows}) k WHERE {place}"


def _assigned(names: Iterable[str]) -> str:
    return ", ".join(f"{name} = k.{name}" for name in names)


def _explained(rows: _Rows, others: Sequence[str]) -> list[str]:
    """What is kept, what is not, and how to add up instead."""
    table, key, condition, columns = rows
    said = [
        f"-- {table}: keeps the most advanced row of each user and specialization, with the highest level and the",
        "-- greatest of each total. Rows that refer to a deleted row will refer to the kept one",
    ]
    if others:
        said.append(f"-- Other columns keep the values of that row: {', '.join(others)}")
    totals = [name for name in columns if name in _TOTALS]
    if not totals:
        return said
    sums = ", ".join(f"sum({name}) AS {name}" for name in totals)
    same = " AND ".join(f"{expression} = k.key_{n}" for n, expression in enumerate(key))
    keys = ", ".join(f"{expression} AS key_{n}" for n, expression in enumerate(key))
    grouped = f"SELECT {keys}, {sums} FROM {table} WHERE {condition} GROUP BY 1, 2 HAVING count(*) > 1"
    return [
        *said,
        "-- Right for copies. If each row holds a part (two requests made a row each), first run this without the --:",
        f"-- UPDATE {table} SET {_assigned(totals)} FROM ({grouped}) k WHERE {same};",
    ]


def _children(
    connection: Connection, table: str, facts: Mapping[str, Mapping[str, Column]]
) -> list[tuple[str, list[tuple[str, str]]]]:
    """The tables that refer to these rows: pairs of their column and ours."""
    found = [
        (child, list(zip(mine, theirs, strict=True)))
        for child, mine, theirs in connection.execute(_REFERRING, {"table": table})
    ]
    progressions = facts.get(PROGRESSIONS, {})
    known = any(child == PROGRESSIONS and pairs == [("user_license_id", "id")] for child, pairs in found)
    if table == LICENSES and not known and "user_license_id" in progressions and "id" in facts[table]:
        found.append((PROGRESSIONS, [("user_license_id", "id")]))
    return found


# The foreign keys of any table that lead to this one; those of partitions are their parent's.
_REFERRING = text("""
    SELECT c.conrelid::regclass::text, array_agg(quote_ident(a.attname) ORDER BY k.n),
           array_agg(quote_ident(p.attname) ORDER BY k.n)
    FROM pg_constraint c
    CROSS JOIN LATERAL unnest(c.conkey, c.confkey) WITH ORDINALITY AS k(mine, theirs, n)
    JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.mine
    JOIN pg_attribute p ON p.attrelid = c.confrelid AND p.attnum = k.theirs
    WHERE c.contype = 'f' AND c.confrelid = to_regclass(:table) AND c.conparentid = 0
    GROUP BY c.oid, c.conrelid ORDER BY 1, c.oid
""")
