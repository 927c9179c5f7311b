"""The rows: each pair once, and its two levels in step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

from sqlalchemy import Connection, text

from levelq_core.database.column_spec import wanted
from levelq_core.database.schema import LEDGER, PAIR_KEYS, REQUIRED, Schema
from levelq_core.domain.catalog import Catalog
from levelq_core.operations.queries import out_of_step

from .columns import Facts
from .finding import Finding
from .limits import look_at_rows
from .merging import merged
from .pairs import pair_fixes

SHOWN = 5  # examples in one finding


def check_key(connection: Connection, table: str, facts: Mapping[str, Facts], schema: Schema) -> Iterator[Finding]:
    """Yield duplicates first, then the unique constraint they were in the way of.

    Nothing about columns of a wrong type: once they are mended, the next look finds what they hold.
    """
    key = PAIR_KEYS.get(table)
    if key is None or key in schema.unique.get(table, frozenset()) or not key <= set(facts[table]):
        return
    if any(facts[table][name].type not in wanted(table, name).types for name in key):
        return
    columns = [name for name in REQUIRED[table] if name in key]
    yield from look_at_rows(connection, table, lambda: _check_duplicates(connection, table, columns, facts))
    problem = f"{table} has no unique constraint on ({', '.join(columns)}): workers refuse to start"
    yield Finding("error", problem, _unique_index(connection, table, columns))


def _unique_index(connection: Connection, table: str, columns: Sequence[str]) -> tuple[str, ...]:
    index = f"{table}_levelq_key"
    partitioned_by = connection.execute(_PARTITIONED_BY, {"table": table}).scalar()
    lacking = sorted(set(partitioned_by or ()) - set(columns))
    if lacking:
        named, key = ", ".join(lacking), ", ".join(columns)
        return (f"-- {table} is partitioned by {named}, which such a constraint would have to include: use ({key})",)
    concurrently = " CONCURRENTLY" if partitioned_by is None else ""  # which partitioned tables do not allow
    # An attempt that failed leaves an index of this name that guards nothing.
    there = connection.execute(_EXISTS, {"name": index}).scalar()
    failed = (f"DROP INDEX{concurrently} {index};",) if there else ()
    return (*failed, f"CREATE UNIQUE INDEX{concurrently} {index} ON {table} ({', '.join(columns)});")


def check_null_levels(connection: Connection, table: str, facts: Facts) -> Iterator[Finding]:
    """Yield the rows of progress or licenses whose level is NULL, which levelq counts as 1, as one finding."""
    if not facts["current_level"].nullable:
        return
    number = connection.execute(text(f"SELECT count(*) FROM {table} WHERE current_level IS NULL")).scalar_one()
    if number:
        rows = "1 row" if number == 1 else f"{number:,} rows"
        problem = f"{table}.current_level is NULL in {rows}: counted as 1 until a level-up, yet out of step with a 1"
        yield Finding("warning", problem, (f"UPDATE {table} SET current_level = 1 WHERE current_level IS NULL;",))


def check_levels(connection: Connection, schema: Schema, catalog: Catalog) -> Iterator[Finding]:
    """Yield the pairs out of step, if any, as one finding."""
    found = out_of_step(connection)
    first = list(islice(found, SHOWN))
    if not first:
        return
    number = len(first) + sum(1 for _ in found)
    examples = ", ".join(
        f"{p.user_id} {p.specialization} ({_level(p.progress_level)}, {_level(p.license_level)})" for p in first
    )
    more = ("levelq check",) if number > SHOWN else ()
    pairs = "1 pair" if number == 1 else f"{number:,} pairs"
    problem = f"levels out of step (progress, license) in {pairs}: {examples}{', ...' if more else ''}"
    yield Finding("warning", problem, (*dict.fromkeys(pair_fixes(connection, first, schema, catalog)), *more))


def _level(level: int | None) -> str:
    return "none" if level is None else str(level)


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
    fix = _first_decisions() if table == LEDGER else merged(connection, table, (columns[0], columns[1]), facts)
    yield Finding("error", problem, fix)


def _first_decisions() -> tuple[str, ...]:
    kept = f"SELECT id, first_value(id) OVER (PARTITION BY command_id ORDER BY id) AS keep FROM {LEDGER}"
    return (f"DELETE FROM {LEDGER} t USING ({kept}) k WHERE t.id = k.id AND k.id <> k.keep;",)


_EXISTS = text("SELECT to_regclass(:name) IS NOT NULL")

_PARTITIONED_BY = text("""
    SELECT array_agg(a.attname::text) FROM pg_partitioned_table p
    JOIN pg_attribute a ON a.attrelid = p.partrelid AND a.attnum = ANY(p.partattrs)
    WHERE p.partrelid = to_regclass(:table)
""")
