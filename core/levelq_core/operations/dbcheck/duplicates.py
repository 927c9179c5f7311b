"""Rows of the same key: found, and merged into one, so that the unique constraint can be made.

Such rows come from two requests that each found none and inserted one, or from an import that ran twice. The
application then mostly writes to one of them. So the greatest of each total is kept: that is right for copies, and for
rows that each hold a part it loses only the smaller parts. A sum would double every copy, and levels that were never
earned cannot be taken back. The sum is printed as a comment, for a person who knows that the rows are parts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from sqlalchemy import Connection, text

from levelq_core.database.column_spec import wanted
from levelq_core.database.schema import LEDGER, LICENSES, PROGRESSIONS, REQUIRED, UNIQUE_KEYS, Schema
from levelq_core.database.table_names import TOTALS

from .columns import Facts
from .finding import Finding
from .limits import check_in_time

SHOWN = 5  # examples in one finding
_LEVELS = ("current_level", "max_achieved_level")
_GREATEST = (*_LEVELS, *TOTALS, "last_activity", "updated_at", "last_advanced_at")
_LEAST = ("created_at", "started_at")


def check_key(connection: Connection, table: str, facts: Mapping[str, Facts], schema: Schema) -> Iterator[Finding]:
    """Yield duplicates first, then the unique constraint that they prevent.

    Nothing about columns of a wrong type: once they are fixed, the next check finds what they hold.
    """
    key, columns = UNIQUE_KEYS.get(table, ()), facts[table]
    if not key or schema.has_key(table) or not all(name in columns for name in key):
        return
    if any(columns[name].type not in wanted(table, name).types for name in key):
        return
    yield from check_in_time(connection, table, lambda: _check_duplicates(connection, table, key, facts))
    problem = f"{table} has no unique constraint on ({', '.join(key)}): workers refuse to start"
    yield Finding("error", problem, unique_index(connection, table, key))


def _check_duplicates(
    connection: Connection, table: str, columns: Sequence[str], facts: Mapping[str, Facts]
) -> Iterator[Finding]:
    key, given = ", ".join(columns), " AND ".join(f"{name} IS NOT NULL" for name in columns)
    statement = (
        f"SELECT {key}, count(*), count(*) OVER () FROM {table} WHERE {given} GROUP BY {key} HAVING count(*) > 1 "
        f"ORDER BY {key} LIMIT {SHOWN}"
    )
    rows = connection.execute(text(statement)).all()
    if not rows:
        return
    examples = ", ".join(f"{' '.join(map(str, row[:-2]))} ({row[-2]} rows)" for row in rows)
    more = ", ..." if rows[0][-1] > SHOWN else ""
    kept = "the first" if table == LEDGER else "the most advanced"
    problem = f"{table}: more than one row for ({key}): {examples}{more}; look at them first: {kept} will be kept"
    fix = (_FIRST_DECISIONS,) if table == LEDGER else merged(connection, table, columns, facts)
    yield Finding("error", problem, fix)


def unique_index(connection: Connection, table: str, columns: Sequence[str]) -> tuple[str, ...]:
    """The statements that make the unique constraint, or a comment why it cannot be made. Raises DBAPIError."""
    index, key = f"{table}_levelq_key", ", ".join(columns)
    there, under_way, partitioned_by = connection.execute(_INDEX, {"name": index, "table": table}).one()
    if under_way:  # which DROP INDEX would wait for, to drop it
        return (f"-- {index} is being made by another session",)
    lacking = ", ".join(sorted(set(partitioned_by or ()) - set(columns)))
    if lacking:
        return (f"-- {table} is partitioned by {lacking}, which such a constraint would have to include: use ({key})",)
    concurrently = " CONCURRENTLY" if partitioned_by is None else ""  # which partitioned tables do not allow
    # An attempt that failed leaves an index of this name that guards nothing.
    failed = (f"DROP INDEX{concurrently} {index};",) if there else ()
    return (*failed, f"CREATE UNIQUE INDEX{concurrently} {index} ON {table} ({key});")


def merged(
    connection: Connection, table: str, key: Sequence[str], facts: Mapping[str, Facts], where: str = ""
) -> tuple[str, ...]:
    """Statements that keep the most advanced row of each key, with the greatest of each total.

    What refers to the other rows will refer to the kept one. Each statement is safe by itself: the last deletes no row
    that something refers to, or that has more of anything than the one that is kept, so a statement that failed, or an
    application that wrote meanwhile, leaves duplicates and loses nothing. `key`: two SQL expressions. `where`: a
    condition for the rows to merge, "" for all that have a key. Raises DBAPIError.
    """
    columns = [name for name in REQUIRED[table] if name in facts[table]]
    condition = " AND ".join([f"{expression} IS NOT NULL" for expression in key] + [where] * bool(where))
    best = [f"{name} DESC NULLS LAST" for name in columns if name in (*_LEVELS, *TOTALS)]
    best += ["id", "ctid"] if "id" in columns else ["ctid"]
    pair = f"PARTITION BY {', '.join(key)}"
    windows = f"pair AS ({pair}), advanced AS ({pair} ORDER BY {', '.join(best)})"

    def ranked(more: Sequence[str], joined: str = "t.tableoid = k.part AND t.ctid = k.row_ctid") -> str:
        """The rows numbered within each key, the most advanced first, joined on the condition `joined`."""
        counted = "row_number() OVER advanced AS n, count(*) OVER pair AS rows"
        chosen = ", ".join(["tableoid AS part", "ctid AS row_ctid", counted, *more])
        return f"(SELECT {chosen} FROM {table} WHERE {condition} WINDOW {windows}) k WHERE {joined}"

    raised = [name for name in columns if name in _GREATEST]
    values = {name: f"max({name}) OVER pair" for name in raised}
    values |= {name: f"min({name}) OVER pair" for name in columns if name in _LEAST}
    statements = []
    if values:
        best_of_pair = ranked([f"{value} AS {name}" for name, value in values.items()])
        statements.append(f"UPDATE {table} t SET {_assigned(values)} FROM {best_of_pair} AND k.n = 1 AND k.rows > 1;")
    guards = ["AND k.n > 1", *(f"AND k.has_{name}" for name in raised)]
    for child, pairs in _children(connection, table, facts):
        kept = [f"{o} AS old_{n}, first_value({o}) OVER advanced AS kept_{n}" for n, (_, o) in enumerate(pairs)]
        moved = ", ".join(f"{theirs} = k.kept_{n}" for n, (theirs, _) in enumerate(pairs))
        same = " AND ".join(f"c.{theirs} = k.old_{n}" for n, (theirs, _) in enumerate(pairs))
        statements.append(f"UPDATE {child} c SET {moved} FROM {ranked(kept, same)} AND k.n > 1;")
        same = " AND ".join(f"c.{reference} = t.{referred}" for reference, referred in pairs)
        guards.append(f"AND NOT EXISTS (SELECT FROM {child} c WHERE {same})")
    has = [f"first_value({n}) OVER advanced IS NOT DISTINCT FROM max({n}) OVER pair AS has_{n}" for n in raised]
    statements.append(f"DELETE FROM {table} t USING {ranked(has)} {' '.join(guards)};")
    others = [name for name in facts[table] if name not in REQUIRED[table]]
    totals = [name for name in columns if name in TOTALS]
    return (*_explained(table, key, condition, totals, others), *statements)


def _assigned(names: Mapping[str, str] | Sequence[str]) -> str:
    return ", ".join(f"{name} = k.{name}" for name in names)


def _explained(
    table: str, key: Sequence[str], condition: str, totals: Sequence[str], others: Sequence[str]
) -> Iterator[str]:
    """What is kept, what is not, and how to add up instead."""
    yield f"-- {table}: keeps the most advanced row of each user and specialization, with the highest level and the"
    yield "-- greatest of each total. Rows that refer to a deleted row will refer to the kept one"
    if others:
        yield f"-- Other columns keep the values of that row: {', '.join(others)}"
    if totals:
        sums = ", ".join(f"sum({name}) AS {name}" for name in totals)
        same = " AND ".join(f"{expression} = k.key_{n}" for n, expression in enumerate(key))
        keys = ", ".join(f"{expression} AS key_{n}" for n, expression in enumerate(key))
        grouped = f"SELECT {keys}, {sums} FROM {table} WHERE {condition} GROUP BY 1, 2 HAVING count(*) > 1"
        part = "If each row holds a part (two requests made a row each), first run this without the --:"
        yield f"-- Right for copies. {part}"
        yield f"-- UPDATE {table} SET {_assigned(totals)} FROM ({grouped}) k WHERE {same};"


def _children(
    connection: Connection, table: str, facts: Mapping[str, Facts]
) -> list[tuple[str, list[tuple[str, str]]]]:
    """The tables that refer to these rows: pairs of their column and this table's."""
    found = [
        (child, list(zip(mine, theirs, strict=True)))
        for child, mine, theirs in connection.execute(_REFERRING, {"table": table})
    ]
    by_license = (PROGRESSIONS, [("user_license_id", "id")])
    known = "user_license_id" in facts.get(PROGRESSIONS, {}) and "id" in facts[table]
    return [*found, by_license] if table == LICENSES and known and by_license not in found else found


_FIRST_DECISIONS = (
    f"DELETE FROM {LEDGER} t USING (SELECT id, first_value(id) OVER (PARTITION BY command_id ORDER BY id) AS keep "
    f"FROM {LEDGER}) k WHERE t.id = k.id AND k.id <> k.keep;"
)

# Whether an index of this name exists, whether one is being made, and the columns by which the table is partitioned.
_INDEX = text("""
    SELECT to_regclass(:name) IS NOT NULL,
           EXISTS (SELECT FROM pg_stat_progress_create_index WHERE index_relid = to_regclass(:name)), (
        SELECT array_agg(a.attname::text) FROM pg_partitioned_table p
        JOIN pg_attribute a ON a.attrelid = p.partrelid AND a.attnum = ANY(p.partattrs)
        WHERE p.partrelid = to_regclass(:table))
""")

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
