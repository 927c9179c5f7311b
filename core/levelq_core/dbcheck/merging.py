"""Statements that make one row of several for the same user and specialization.

Such rows come from two requests that each found none and made one, or from an import that ran twice. The application
then writes to one of them, mostly the same one. So of each total the greatest is kept: it is right for copies, and of
rows that hold a part each it loses only what the other requests added. A sum would double every copy, and levels that
were never earned cannot be taken back. The sum is printed as a comment, for the rows that a person knows to be parts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, text

from levelq_core.schema import LICENSES, PROGRESS, PROGRESSIONS, REQUIRED, Column

KEYS = {PROGRESS: ("student_id", "specialization_id"), LICENSES: ("user_id", "specialization_type")}
_TOTALS = ("total_xp", "completed_sessions", "completed_projects", "theory_hours_completed", "practice_hours_completed")
_GREATEST = ("current_level", "max_achieved_level", *_TOTALS, "last_activity", "updated_at", "last_advanced_at")
_LEAST = ("created_at", "started_at")


def merged(
    connection: Connection,
    table: str,
    key: Sequence[str],
    facts: Mapping[str, Mapping[str, Column]],
    where: str = "true",
) -> tuple[str, ...]:
    """Keep the most advanced row of each key, with the greatest of each total; what refers to the others follows.

    One statement, so that all of it happens or nothing. `key`: two SQL expressions. `where` picks the rows it is about.
    """
    columns = [name for name in REQUIRED[table] if name in facts[table]]
    others = [name for name in facts[table] if name not in REQUIRED[table]]
    greatest = [name for name in columns if name in _GREATEST]
    least = [name for name in columns if name in _LEAST]
    children = _children(connection, table, facts)
    referred = sorted({column for _, pairs in children for _, column in pairs})
    advanced = [f"{name} DESC NULLS LAST" for name in greatest if not name.startswith(("last_", "updated_"))]
    rows = ",\n        ".join(
        [
            "tableoid AS part, ctid AS place, row_number() OVER advanced AS n, count(*) OVER pair AS rows",
            *(f"max({name}) OVER pair AS {name}" for name in greatest),
            *(f"min({name}) OVER pair AS {name}" for name in least),
            *(f"{name} AS old_{n}, first_value({name}) OVER advanced AS kept_{n}" for n, name in enumerate(referred)),
        ]
    )
    pair = ", ".join(key)
    given = " AND ".join(f"{expression} IS NOT NULL" for expression in key)
    ranked = (
        f"(\n        SELECT {rows}\n        FROM {table} WHERE {given} AND {where}\n"
        f"        WINDOW pair AS (PARTITION BY {pair}), advanced AS (PARTITION BY {pair} ORDER BY "
        f"{', '.join([*advanced, *(['id'] if 'id' in columns else []), 'ctid'])})\n    ) k"
    )
    place = "t.tableoid = k.part AND t.ctid = k.place"
    steps = [f"LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE;"]
    if greatest or least:
        values = ", ".join(f"{name} = k.{name}" for name in (*greatest, *least))
        steps.append(f"UPDATE {table} t SET {values}\n    FROM {ranked} WHERE {place} AND k.n = 1 AND k.rows > 1;")
    for child, pairs in children:
        numbered = [(mine, referred.index(theirs)) for mine, theirs in pairs]
        values = ", ".join(f"{mine} = k.kept_{n}" for mine, n in numbered)
        same = " AND ".join(f"c.{mine} = k.old_{n}" for mine, n in numbered)
        steps.append(f"UPDATE {child} c SET {values}\n    FROM {ranked} WHERE {same} AND k.n > 1;")
    steps.append(f"DELETE FROM {table} t USING {ranked} WHERE {place} AND k.n > 1;")
    body = "\n    ".join(steps)
    return (*_explained(table, key, columns, others, given, where), f"DO $$ BEGIN\n    {body}\nEND $$;")


def _explained(
    table: str, key: Sequence[str], columns: Sequence[str], others: Sequence[str], given: str, where: str
) -> list[str]:
    """What is kept, what is not, and how to add up instead."""
    said = [f"-- {table}: one row is kept for each user and specialization: the most advanced, with the highest level"]
    totals = [name for name in columns if name in _TOTALS]
    said[0] += " and the greatest of each total; what refers to the others will refer to it"
    if others:
        said.append(f"-- Other columns stay as that row has them: {', '.join(others)}")
    if not totals:
        return said
    sums = ", ".join(f"sum({name}) AS {name}" for name in totals)
    values = ", ".join(f"{name} = k.{name}" for name in totals)
    same = " AND ".join(f"{expression} = k.key_{n}" for n, expression in enumerate(key))
    keys = ", ".join(f"{expression} AS key_{n}" for n, expression in enumerate(key))
    grouped = f"SELECT {keys}, {sums} FROM {table} WHERE {given} AND {where} GROUP BY 1, 2 HAVING count(*) > 1"
    return [
        *said,
        "-- Right for copies. If each row holds a part (two requests made a row each), first run this without the --:",
        f"-- UPDATE {table} SET {values} FROM ({grouped}) k WHERE {same} AND {where};",
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
