"""Rows whose specialization levelq would not find, or does not know."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from sqlalchemy import Connection, text

from levelq_core.database.spelling import NAMES, Outside, fold, folded, misspelt, outside, twins
from levelq_core.domain.catalog import Catalog

from .columns import Facts
from .finding import Finding
from .merging import merged

SHOWN = 5  # names in one finding
_NAME = re.compile(r"[A-Z][A-Z0-9_]{0,31}")  # as a catalog may have it


def check_spelling(
    connection: Connection, table: str, facts: Mapping[str, Facts], catalog: Catalog
) -> Iterator[Finding]:
    """Yield the misspelt rows of a table as one finding."""
    user, name = NAMES[table]
    for found in misspelt(connection, catalog, [table]):
        problem = f"{found}: levelq would not find them and make second rows at level 1; workers refuse to start"
        right = folded(name)
        names = ", ".join(f"'{name}'" for name in catalog)
        fix = [
            f"-- From now on your application must write {fold(found.spelt)!r} and look for it, too",
            *_bound(connection, table),
        ]
        pairs = twins(connection, catalog, table)
        if pairs:
            number = "1 pair" if pairs == 1 else f"{pairs:,} pairs"
            problem += (
                f"; {number} of user and specialization with several rows: look at them first, "
                "the most advanced will be kept"
            )
            fix += merged(connection, table, (user, right), facts, where=f"{right} IN ({names})")
        rename = f"UPDATE {table} SET {name} = {right} WHERE {name} <> {right} AND {right} IN ({names});"
        yield Finding("error", problem, (*fix, rename))


def check_names(connection: Connection, tables: Sequence[str], catalog: Catalog) -> Iterator[Finding]:
    """Yield the rows of specializations that are not in the catalog as one finding."""
    found = outside(connection, catalog, tables)
    if not found:
        return
    examples = ", ".join(
        f"{name.spelt!r} ({', '.join(f'{n:,} in {table}' for table, n in name.rows.items())})" for name in found[:SHOWN]
    )
    more = ", ..." if len(found) > SHOWN else ""
    problem = f"rows of specializations that are not in the catalog, which levelq leaves alone: {examples}{more}"
    yield Finding("warning", problem, tuple(_advice(name) for name in found[:SHOWN]))


def _advice(name: Outside) -> str:
    if name.spelt is None:
        return "-- NULL names no specialization: fill it in, or leave the rows alone"
    right = fold(name.spelt)
    if _NAME.fullmatch(right):
        return (
            f"-- {right}: if levelq should move it, add a table [{right}] to the file that LEVELQ_CATALOG names "
            "(`levelq catalog` shows what it holds now)"
        )
    possible = re.sub(r"[^A-Z0-9_]+", "_", right).strip("_0123456789")[:32] or "NAME"
    return (
        f"-- {name.spelt!r}: a specialization is a letter, then letters, digits and _, at most 32: "
        f"rename these rows if levelq should move them, to {possible} for example"
    )


def _bound(connection: Connection, table: str) -> list[str]:
    """Constraints on the name, which may know the old spelling only, and foreign keys that keep it as it is."""
    found = connection.execute(_CONSTRAINTS, {"table": table, "column": NAMES[table][1]})
    return [f"-- {of} has {name}: {definition}: it must allow the new spelling first" for of, name, definition in found]


_CONSTRAINTS = text("""
    SELECT c.conrelid::regclass::text, c.conname, pg_get_constraintdef(c.oid) FROM pg_constraint c
    JOIN pg_attribute a ON a.attrelid = to_regclass(:table) AND a.attname = :column
    WHERE c.conparentid = 0 AND (
        c.conrelid = a.attrelid AND a.attnum = ANY(c.conkey) AND c.contype IN ('c', 'f')
        OR c.confrelid = a.attrelid AND a.attnum = ANY(c.confkey) AND c.confupdtype <> 'c'
    ) ORDER BY c.confrelid = a.attrelid, 1, 2
""")
