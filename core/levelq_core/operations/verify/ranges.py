"""What is verified, and where a range of users, or a page of ids, ends.

The rows of a range must fit into memory and into a short transaction. So it ends before the user with whom one of the
tables would exceed the number of rows. A single user with more rows is a range alone, and `crowded`: the rows are read
from the tables, not loaded.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from sqlalchemy import Connection, text

from levelq_core.database.schema import LEDGER, LICENSES, PROGRESS, PROGRESSIONS
from levelq_core.operations.queries import last_id_before

from .temp_tables import IDS, TOUCHED

FIRST, LAST = -(2**63), 2**63 - 1  # of a bigint
BEGINNING = datetime.fromtimestamp(0, UTC)  # before anything was decided

# For --since: a row takes its id after its time, which is when the transaction began.
MARGIN = timedelta(minutes=10)
# The most ranges without one of the indexes, because each of them then reads a whole table.
MOST_WITHOUT_INDEX = 16

_INDEXED = (
    (LEDGER, "id", "id"),
    (LEDGER, "user_id", "user_id, id"),
    (PROGRESS, "student_id", "student_id"),
    (LICENSES, "user_id", "user_id"),
    (PROGRESSIONS, "user_license_id", "user_license_id, id"),
)

# The columns among these that no valid, complete index begins with, and whether the table has partitions.
_MISSING = text("""
    SELECT wanted.relname, wanted.attname, c.relkind = 'p'
    FROM unnest(CAST(:tables AS text[]), CAST(:columns AS text[])) WITH ORDINALITY AS wanted(relname, attname, n)
    JOIN pg_class c ON c.oid = to_regclass(wanted.relname)
    WHERE NOT EXISTS (
        SELECT FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
        JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_am m ON m.oid = x.relam
        WHERE i.indrelid = c.oid AND i.indisvalid AND i.indpred IS NULL AND a.attname = wanted.attname
            AND m.amname = 'btree')
    ORDER BY wanted.n
""")


class Scope(NamedTuple):
    """Which rows are verified.

    `after`, `last`: the ledger rows with greater ids, up to the greatest id when the lanes had been read. `rows`: how
    many rows of each table a range has. `since`: only users with such ledger rows. `unique`: the ledger's unique
    constraint exists. `slow`: the missing indexes, if ranges are larger without them.
    """

    after: int
    last: int
    rows: int
    since: bool
    unique: bool
    slow: list[str]


class Users(NamedTuple):
    """The users above `low`, up to `high`; `crowded`: one user, with more ledger rows than are loaded."""

    low: int
    high: int
    crowded: bool


def scope_of(connection: Connection, since: datetime | None, rows: int, *, unique: bool) -> Scope:
    """What to verify, as the database is now. Ranges have `rows` rows, or more if each of them reads a whole table."""
    missing = _missing_indexes(connection)
    total = connection.execute(text(f"SELECT count(*) FROM {LEDGER}")).scalar_one() if missing else 0
    last = connection.execute(text(f"SELECT max(id) FROM {LEDGER}")).scalar_one()
    needed = total // MOST_WITHOUT_INDEX + 1
    after = 0 if since is None else _first_id(connection, since, missing)
    return Scope(after, last or 0, max(rows, needed), since is not None, unique, missing if needed > rows else [])


def _missing_indexes(connection: Connection) -> list[str]:
    """The statements that create the missing ones of the indexes that short ranges need."""
    values = {"tables": [table for table, _, _ in _INDEXED], "columns": [column for _, column, _ in _INDEXED]}
    keys = {(table, column): key for table, column, key in _INDEXED}
    return [
        f"CREATE INDEX {'' if partitioned else 'CONCURRENTLY '}ON {table} ({keys[table, column]})"
        for table, column, partitioned in connection.execute(_MISSING, values)
    ]


def _first_id(connection: Connection, since: datetime, missing: list[str]) -> int:
    """The id after which the ledger's rows were decided since then."""
    since = max(since, BEGINNING) - MARGIN
    if any(f" {LEDGER} (id)" in statement for statement in missing):
        found = connection.execute(text(f"SELECT min(id) FROM {LEDGER} WHERE applied_at >= :since"), {"since": since})
        first = found.scalar_one()
        return LAST - 1 if first is None else int(first) - 1
    return last_id_before(connection, LEDGER, "applied_at", since)


_NEXT_ID = text(f"SELECT id FROM {LEDGER} WHERE id > :low ORDER BY id OFFSET :rows LIMIT 1")


def next_id(connection: Connection, low: int, scope: Scope) -> int:
    """The id that ends the page of the ledger after `low`."""
    found = connection.execute(_NEXT_ID, {"low": low, "rows": scope.rows - 1}).scalar_one_or_none()
    return scope.last if found is None else min(int(found), scope.last)


def _nth(table: str, column: str, at_least: str = "") -> str:
    return f"(SELECT {column} FROM {table} WHERE {column} > :low{at_least} ORDER BY {column} OFFSET :rows LIMIT 1)"


_NEXT_USER = text(f"""
    SELECT {_nth(LEDGER, "user_id", " AND user_id > 0")}, {_nth(PROGRESS, "student_id")}, {_nth(LICENSES, "user_id")},
           {_nth(IDS, "user_id")}
""")
_NEXT_TOUCHED = text(f"""
    SELECT user_id FROM (
        SELECT user_id, sum(rows) OVER (ORDER BY user_id) AS upto FROM {TOUCHED} WHERE user_id > :low
    ) t WHERE upto > :rows ORDER BY user_id LIMIT 1
""")


def next_users(connection: Connection, low: int, scope: Scope) -> Users:
    """The next users above `low`, with at most as many rows of each table as a range may have."""
    statement = _NEXT_TOUCHED if scope.since else _NEXT_USER
    found = connection.execute(statement, {"low": low, "rows": scope.rows}).one_or_none()
    bounds = [int(user) for user in found or () if user is not None]
    if not bounds:
        return Users(low, LAST, crowded=False)
    user = min(bounds)
    if user - 1 > low:
        return Users(low, user - 1, crowded=False)
    return Users(low, user, crowded=found is not None and found[0] == user)
