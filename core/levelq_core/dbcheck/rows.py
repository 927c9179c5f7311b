"""The rows: each pair once, and its two levels in step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

from sqlalchemy import Connection, text

from levelq_core.history import Pair, out_of_step
from levelq_core.schema import LEDGER, LICENSES, PAIR_KEYS, PROGRESSIONS, REQUIRED, Schema

from .columns import Facts
from .finding import Finding

SHOWN = 5  # examples in one finding


def sync_command(pair: Pair) -> str:
    """The levelq command that puts a pair in step again: to the higher level, or to the one there is."""
    higher = (pair.license_level or 0) > (pair.progress_level or 0)
    return f"levelq sync {pair.user_id} {pair.specialization} --source {'license' if higher else 'progress'}"


def check_key(connection: Connection, table: str, facts: Mapping[str, Facts], schema: Schema) -> Iterator[Finding]:
    """Yield duplicates first, then the unique constraint they were in the way of."""
    key = PAIR_KEYS.get(table)
    if key is None or key in schema.unique.get(table, frozenset()) or not key <= set(facts[table]):
        return
    columns = [name for name in REQUIRED[table] if name in key]
    yield from _check_duplicates(connection, table, columns, facts)
    index = f"{table}_levelq_key"
    # An attempt that failed leaves an index of this name that guards nothing.
    failed = (f"DROP INDEX CONCURRENTLY {index};",) if connection.execute(_EXISTS, {"name": index}).scalar() else ()
    mend = f"CREATE UNIQUE INDEX CONCURRENTLY {index} ON {table} ({', '.join(columns)});"
    problem = f"{table} has no unique constraint on ({', '.join(columns)}): workers refuse to start"
    yield Finding("error", problem, (*failed, mend))


def check_null_levels(connection: Connection, table: str, facts: Facts) -> Iterator[Finding]:
    """Yield the rows of progress or licenses whose level is NULL, which levelq counts as 1, as one finding."""
    if not facts["current_level"].nullable:
        return
    number = connection.execute(text(f"SELECT count(*) FROM {table} WHERE current_level IS NULL")).scalar_one()
    if number:
        rows = "1 row" if number == 1 else f"{number:,} rows"
        problem = f"{table}.current_level is NULL in {rows}: counted as 1 until a level-up, yet out of step with a 1"
        yield Finding("warning", problem, (f"UPDATE {table} SET current_level = 1 WHERE current_level IS NULL;",))


def check_levels(connection: Connection) -> Iterator[Finding]:
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
    yield Finding("warning", problem, (*dict.fromkeys(map(sync_command, first)), *more))


def _level(level: int | None) -> str:
    return "none" if level is None else str(level)


def _check_duplicates(
    connection: Connection, table: str, columns: Sequence[str], facts: Mapping[str, Facts]
) -> Iterator[Finding]:
    key = ", ".join(columns)
    statement = (
        f"SELECT {key}, count(*), count(*) OVER () FROM {table} GROUP BY {key} HAVING count(*) > 1 "
        f"ORDER BY {key} LIMIT {SHOWN}"
    )
    rows = connection.execute(text(statement)).all()
    if not rows:
        return
    examples = ", ".join(f"{' '.join(map(str, row[:-2]))} ({row[-2]} rows)" for row in rows)
    more = ", ..." if rows[0][-1] > SHOWN else ""
    kept = "the first" if table == LEDGER else "the highest level"
    problem = f"{table}: more than one row for ({key}): {examples}{more}; look at them first: {kept} will be kept"
    order = "id" if table == LEDGER else "current_level DESC NULLS LAST, id"
    yield Finding("error", problem, merged(table, key, order, facts))


def merged(table: str, key: str, order: str, facts: Mapping[str, Facts], where: str = "true") -> tuple[str, ...]:
    """Keep the first row of each key in this order; what refers to the others follows, and no highest level is lost.

    `key` and `order` are lists of SQL expressions. `where` picks the rows this is about.
    """
    kept = f"SELECT id, first_value(id) OVER (PARTITION BY {key} ORDER BY {order}) AS keep FROM {table} WHERE {where}"
    delete = f"DELETE FROM {table} t USING ({kept}) k WHERE t.id = k.id AND k.id <> k.keep;"
    if table != LICENSES:
        return (delete,)
    highest = f"SELECT id, max(max_achieved_level) OVER (PARTITION BY {key}) AS highest FROM {table} WHERE {where}"
    raised = (
        f"UPDATE {table} t SET max_achieved_level = k.highest FROM ({highest}) k "
        "WHERE t.id = k.id AND t.max_achieved_level IS DISTINCT FROM k.highest;"
    )
    moved = (
        f"UPDATE {PROGRESSIONS} p SET user_license_id = k.keep FROM ({kept}) k "
        "WHERE p.user_license_id = k.id AND k.id <> k.keep;"
    )
    return (raised, moved, delete) if PROGRESSIONS in facts else (raised, delete)


_EXISTS = text("SELECT to_regclass(:name) IS NOT NULL")
