"""Rows whose specialization is spelt otherwise than levelq spells it: `player`, `Player`, or with blanks around it.

levelq folds names to upper case and compares exactly. It would not find such a row, and would make a second one at
level 1. So `levelq db check` prints what renames them, workers refuse to start on them, and no second row is made.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from sqlalchemy import Connection, TextClause, text

from levelq_core.domain.record import Lane

from .table_names import LICENSES, PROGRESS

NAMES_READ = 100
NAMES = {PROGRESS: ("student_id", "specialization_id"), LICENSES: ("user_id", "specialization_type")}


class Misspelt(NamedTuple):
    """The misspelt rows of one table: the first of them, and how many there are."""

    table: str
    user_id: int
    spelt: str
    rows: int

    def __str__(self) -> str:
        number = "1 row" if self.rows == 1 else f"{self.rows:,} rows"
        right = fold(self.spelt)
        return (
            f"{self.table}.{NAMES[self.table][1]}: {number} not spelt as levelq spells them, "
            f"for example {self.spelt!r} of user {self.user_id}, expected {right!r}"
        )


class Outside(NamedTuple):
    """A name that is not in the catalog as it is spelt (None for NULL), and how many rows have it, by table."""

    spelt: str | None
    rows: dict[str, int]


def fold(name: str) -> str:
    """A name as levelq spells it."""
    return "".join(c.upper() if c.isascii() else c for c in name.strip(" \t\n\r\f\v"))


def folded(column: str) -> str:
    """The SQL expression for a name as levelq spells it; C, as a Turkish server makes another letter of an i."""
    return rf"""upper(btrim({column}, E' \t\n\r\f\x0b') COLLATE "C")"""


def misspelt(connection: Connection, names: Collection[str], tables: Collection[str] = tuple(NAMES)) -> list[Misspelt]:
    """What is misspelt in these tables, of the specializations with these names.

    Reads each table once, or the index of its pairs alone: 0.2 s for a million rows. Raises DBAPIError.
    """
    found = []
    for table in tables:
        row = connection.execute(_first(table), {"names": list(names)}).one_or_none()
        if row is not None:
            found.append(Misspelt(table, *row))
    return found


def outside(connection: Connection, names: Collection[str], tables: Collection[str] = tuple(NAMES)) -> list[Outside]:
    """The names in these tables that fold to none of `names`, the most frequent first, NAMES_READ at most of a table.

    Reads each table once, like `misspelt`. Raises DBAPIError.
    """
    found: dict[str | None, Outside] = {}
    for table in tables:
        for spelt, rows in connection.execute(_outside(table), {"names": list(names), "most": NAMES_READ}):
            found.setdefault(spelt, Outside(spelt, {})).rows[table] = rows
    return sorted(found.values(), key=lambda name: (-sum(name.rows.values()), name.spelt or ""))


def twins(connection: Connection, names: Collection[str], table: str) -> int:
    """How many pairs of user and specialization have rows in several spellings. Raises DBAPIError."""
    user, name = NAMES[table]
    statement = text(f"""
        SELECT count(*) FROM (
            SELECT FROM {table} WHERE {folded(name)} = ANY(CAST(:names AS text[]))
            GROUP BY {user}, {folded(name)} HAVING count(*) > 1) pairs
    """)
    return int(connection.execute(statement, {"names": list(names)}).scalar_one())


def misspelt_message(lane: Lane, spelt: str) -> str:
    """Why no row is made for a lane whose row is there under another spelling."""
    return (
        f"user {lane.user_id} has a row spelt {spelt!r}, expected {lane.specialization!r}: "
        "`levelq db check` prints the statements that fix it"
    )


def _first(table: str) -> TextClause:
    # Nearly every row is spelt right: those are told by one comparison, before anything is folded.
    user, name = NAMES[table]
    names = "CAST(:names AS text[])"
    return text(f"""
        SELECT {user}::bigint, {name}::text, count(*) OVER () FROM {table}
        WHERE CASE WHEN {name} = ANY({names}) THEN false ELSE {folded(name)} = ANY({names}) END
        ORDER BY {user} LIMIT 1
    """)


def _outside(table: str) -> TextClause:
    name = NAMES[table][1]
    names = "CAST(:names AS text[])"
    return text(f"""
        SELECT {name}::text, count(*) FROM {table}
        WHERE CASE WHEN {name} = ANY({names}) THEN false ELSE {folded(name)} = ANY({names}) IS NOT TRUE END
        GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT :most
    """)
