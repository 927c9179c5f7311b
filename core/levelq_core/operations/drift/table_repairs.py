"""What `levelq db check` prints to put rows of one table right, done for some users at a time.

Rows of several spellings are renamed, several rows of a pair merged, levels that are NULL filled in. The statements are
those of db check, limited to these users; the rows are locked first, in levelq's order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

from sqlalchemy import Connection, text

from levelq_core.database.schema import PAIR, UNIQUE_KEYS, Schema
from levelq_core.database.spelling import folded
from levelq_core.domain.catalog import Catalog
from levelq_core.operations.dbcheck.duplicates import merged, unique_index

RowKind = Literal["misspelt", "duplicates", "null_level"]


class Faulty(NamedTuple):
    """Rows of one user, or of none, to put right: how many, and what is shown of them."""

    user_id: int | None
    rows: int
    shown: str


class TableRepair(NamedTuple):
    """One kind of fault in one table. `statements`: what puts the rows of a condition right."""

    kind: RowKind
    table: str
    action: str
    faulty: list[Faulty]
    statements: Callable[[Connection, str], Sequence[str]]

    @property
    def rows(self) -> int:
        """How many rows or pairs are to be put right."""
        return sum(faulty.rows for faulty in self.faulty)

    def run(self, connection: Connection, users: Sequence[int | None]) -> None:
        """Put the rows of these users right, in the caller's transaction. Raises DBAPIError."""
        user, name = PAIR[self.table]
        known = ", ".join(str(each) for each in users if each is not None) or "NULL"
        condition = f"({user} IN ({known}){f' OR {user} IS NULL' * (None in users)})"
        order = f'{name} COLLATE "C", {user}'
        connection.exec_driver_sql(f"SELECT FROM {self.table} WHERE {condition} ORDER BY {order} FOR UPDATE")
        for statement in self.statements(connection, condition):
            if statement.endswith(";") and not statement.startswith("--"):
                connection.exec_driver_sql(statement)


def find(connection: Connection, schema: Schema, catalog: Catalog) -> Iterator[TableRepair]:
    """Yield the faults of both tables in the order in which they are to be put right. Raises DBAPIError."""
    for table in PAIR:
        repairs = [_misspelt(table, schema, catalog), _null_levels(table)]
        if not schema.has_key(table):  # behind misspelt: what is renamed is merged there
            repairs.insert(1, _duplicates(table, schema))
        for repair, query, values in repairs:
            repair.faulty.extend(Faulty(*row) for row in connection.execute(text(query), values))
            if repair.faulty:
                yield repair


def index_statements(connection: Connection, schema: Schema) -> dict[str, Sequence[str]]:
    """By table without its unique constraint, the statements that make it, to be run outside a transaction."""
    tables = [table for table in PAIR if not schema.has_key(table)]
    return {table: unique_index(connection, table, UNIQUE_KEYS[table]) for table in tables}


def blocks_writers(statements: Sequence[str]) -> bool:
    """Whether writers wait while these make an index: that of a partitioned table."""
    return "CONCURRENTLY" not in statements[-1]


_Found = tuple[TableRepair, str, dict[str, Any]]  # with the query for the faulty rows, and its values


def _misspelt(table: str, schema: Schema, catalog: Catalog) -> _Found:
    user, name = PAIR[table]
    right = folded(name)
    known = f"{right} IN ({', '.join(map(repr, catalog))})"

    def statements(connection: Connection, condition: str) -> Sequence[str]:
        condition = f"{known} AND {condition}"
        merging = merged(connection, table, (user, right), schema.columns, condition)
        return (*merging, f"UPDATE {table} SET {name} = {right} WHERE {name} <> {right} AND {condition};")

    query = f"""
        SELECT {user}::bigint, count(*), min(coalesce('user ' || {user}, 'no user') || ' ' || quote_literal({name}))
        FROM {table}
        WHERE CASE WHEN {name} = ANY(CAST(:names AS text[])) THEN false
                   ELSE {right} = ANY(CAST(:names AS text[])) END
        GROUP BY 1 ORDER BY 1
    """
    action = "rename to upper case, which your application must write from now on; merge with a row spelt right"
    return TableRepair("misspelt", table, action, [], statements), query, {"names": list(catalog)}


def _duplicates(table: str, schema: Schema) -> _Found:
    user, name = PAIR[table]

    def statements(connection: Connection, condition: str) -> Sequence[str]:
        return merged(connection, table, (user, name), schema.columns, condition)

    query = f"""
        SELECT u, count(*), min('user ' || u || ' ' || s || ' (' || rows || ' rows)') FROM (
            SELECT {user}::bigint AS u, {name}::text AS s, count(*) AS rows FROM {table}
            WHERE {user} IS NOT NULL AND {name} IS NOT NULL GROUP BY {user}, {name} HAVING count(*) > 1
        ) AS pairs GROUP BY 1 ORDER BY 1
    """
    action = "merge into the most advanced row, with the greatest of each total; rows that refer to it follow"
    return TableRepair("duplicates", table, action, [], statements), query, {}


def _null_levels(table: str) -> _Found:
    user, name = PAIR[table]

    def statements(connection: Connection, condition: str) -> Sequence[str]:
        return (f"UPDATE {table} SET current_level = 1 WHERE current_level IS NULL AND {condition};",)

    query = f"""
        SELECT {user}::bigint, count(*), min('user ' || {user} || ' ' || {name}) FROM {table}
        WHERE current_level IS NULL AND {user} IS NOT NULL AND {name} IS NOT NULL GROUP BY 1 ORDER BY 1
    """
    return TableRepair("null_level", table, "set to 1, as which levelq counts them", [], statements), query, {}
