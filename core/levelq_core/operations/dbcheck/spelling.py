"""Rows whose specialization levelq would not find, or does not know.

Nearly every row is spelt right, so the queries compare the name as it is before they fold it. They read each table
once, or the index of its pairs alone.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

from sqlalchemy import Connection, text

from levelq_core.database.schema import PAIR
from levelq_core.database.spelling import fold, folded
from levelq_core.domain.catalog import Catalog
from levelq_core.keys import SPECIALIZATION

from .columns import Facts
from .duplicates import SHOWN, merged
from .finding import Finding, counted

SMALL_BYTES = 4 * 2**20  # a table that is read whole by every reading: some 40,000 rows, 5 ms
MOST_NAMES = 100  # names outside the catalog that are read of each table


_SIZE = text("SELECT pg_relation_size(to_regclass(:table))")


class Misspelt(NamedTuple):
    """The misspelt rows of one table: the first of them, and how many there are."""

    table: str
    user_id: int
    spelt: str
    rows: int

    def __str__(self) -> str:
        return (
            f"{self.table}.{PAIR[self.table][1]}: {counted(self.rows, 'row')} not spelt as levelq spells them, "
            f"for example {self.spelt!r} of user {self.user_id}, expected {fold(self.spelt)!r}"
        )


def misspelt(
    connection: Connection,
    names: Collection[str],
    tables: Collection[str] = tuple(PAIR),
    *,
    newest: int | None = None,
) -> list[Misspelt]:
    """What is misspelt in these tables, of the specializations with these names. Raises DBAPIError.

    `newest`: how many rows, those with the greatest ids, to look at in a table over SMALL_BYTES; None: all.
    """
    found = []
    for table in tables:
        user, name = PAIR[table]
        rows = table
        if newest is not None and connection.execute(_SIZE, {"table": table}).scalar_one() > SMALL_BYTES:
            rows = f"(SELECT {user}, {name} FROM {table} ORDER BY id DESC LIMIT {newest:d}) AS newest"
        # The first misspelt row, and how many there are.
        query = text(f"""
            SELECT {user}::bigint, {name}::text, count(*) OVER () FROM {rows}
            WHERE CASE WHEN {name} = ANY(CAST(:names AS text[])) THEN false
                       ELSE {folded(name)} = ANY(CAST(:names AS text[])) END
            ORDER BY {user} LIMIT 1
        """)
        found += [Misspelt(table, *row) for row in connection.execute(query, {"names": list(names)})]
    return found


def check_spelling(
    connection: Connection, table: str, facts: Mapping[str, Facts], catalog: Catalog
) -> Iterator[Finding]:
    """Yield the misspelt rows of a table as one finding."""
    user, name = PAIR[table]
    right, names = folded(name), ", ".join(f"'{name}'" for name in catalog)
    for found in misspelt(connection, catalog, [table]):
        problem = f"{found}: levelq would not find them and make second rows at level 1; workers refuse to start"
        fix = [f"-- From now on your application must write {fold(found.spelt)!r} and look for it, too"]
        # Constraints may know the old spelling only, and foreign keys may keep it as it is.
        for of, constraint, definition in connection.execute(_CONSTRAINTS, {"table": table, "column": name}):
            fix.append(f"-- {of} has {constraint}: {definition}: it must allow the new spelling first")
        condition = f"{right} IN ({names})"
        pairs = f"SELECT FROM {table} WHERE {condition} GROUP BY {user}, {right} HAVING count(*) > 1"
        doubled = connection.execute(text(f"SELECT count(*) FROM ({pairs}) AS pairs")).scalar_one()
        if doubled:
            several = f"{counted(doubled, 'pair')} of user and specialization with several rows"
            problem += f"; {several}: look at them first, the most advanced will be kept"
            fix += merged(connection, table, (user, right), facts, condition)
        rename = f"UPDATE {table} SET {name} = {right} WHERE {name} <> {right} AND {condition};"
        yield Finding("error", problem, (*fix, rename))


def names_outside(connection: Connection, tables: Sequence[str], catalog: Catalog) -> dict[str | None, dict[str, int]]:
    """The names that are not in the catalog, with the number of their rows by table, the most frequent first.

    Raises DBAPIError.
    """
    found: dict[str | None, dict[str, int]] = {}
    for table in tables:
        name = PAIR[table][1]
        # Names that fold to none of the catalog's, NULL among them, and how many rows have each.
        query = text(f"""
            SELECT {name}::text, count(*) FROM {table}
            WHERE CASE WHEN {name} = ANY(CAST(:names AS text[])) THEN false
                       ELSE {folded(name)} = ANY(CAST(:names AS text[])) IS NOT TRUE END
            GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT {MOST_NAMES}
        """)
        for spelt, rows in connection.execute(query, {"names": list(catalog)}):
            found.setdefault(spelt, {})[table] = rows
    return {spelt: found[spelt] for spelt in sorted(found, key=lambda name: (-sum(found[name].values()), name or ""))}


def check_names(connection: Connection, tables: Sequence[str], catalog: Catalog) -> Iterator[Finding]:
    """Yield the rows of specializations that are not in the catalog as one finding, the most frequent first."""
    found = names_outside(connection, tables, catalog)
    first = list(found)[:SHOWN]
    if not first:
        return
    examples = ", ".join(
        f"{spelt!r} ({', '.join(f'{n:,} in {table}' for table, n in found[spelt].items())})" for spelt in first
    )
    more = ", ..." if len(found) > SHOWN else ""
    problem = f"rows of specializations that are not in the catalog, which levelq leaves alone: {examples}{more}"
    yield Finding("warning", problem, tuple(_advice(spelt) for spelt in first))


def _advice(spelt: str | None) -> str:
    if spelt is None:
        return "-- NULL names no specialization: fill it in, or leave the rows alone"
    right = fold(spelt)
    if re.fullmatch(SPECIALIZATION, right):
        return (
            f"-- {right}: if levelq should move it, add a table [{right}] to the file that LEVELQ_CATALOG names "
            "(`levelq catalog` shows what it holds now)"
        )
    possible = re.sub(r"[^A-Z0-9_]+", "_", right).strip("_0123456789")[:32] or "NAME"
    return (
        f"-- {spelt!r}: a specialization is a letter, then letters, digits and _, at most 32: "
        f"rename these rows if levelq should move them, to {possible} for example"
    )


_CONSTRAINTS = text("""
    SELECT c.conrelid::regclass::text, c.conname, pg_get_constraintdef(c.oid) FROM pg_constraint c
    JOIN pg_attribute a ON a.attrelid = to_regclass(:table) AND a.attname = :column
    WHERE c.conparentid = 0 AND (
        c.conrelid = a.attrelid AND a.attnum = ANY(c.conkey) AND c.contype IN ('c', 'f')
        OR c.confrelid = a.attrelid AND a.attnum = ANY(c.confkey) AND c.confupdtype <> 'c'
    ) ORDER BY c.confrelid = a.attrelid, 1, 2
""")
