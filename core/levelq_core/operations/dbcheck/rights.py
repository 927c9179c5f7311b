"""Whether this role may do what a worker does: its rights on the tables, and one row written as a test."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from levelq_core.database.schema import IDENTITY, LEDGER, LICENSES, OUTBOX, PROGRESS, PROGRESSIONS, QUARANTINE, Schema
from levelq_core.database.sqlstate import in_words, sqlstate_of

from .finding import Finding, QueryCheck
from .limits import CUT

# What a worker needs; docs/how-to/grant-rights.md has the statements.
NEEDED: Mapping[str, Sequence[str]] = {
    PROGRESS: ("SELECT", "INSERT", "UPDATE", "DELETE"),
    LICENSES: ("SELECT", "INSERT", "UPDATE", "DELETE"),
    PROGRESSIONS: ("SELECT", "INSERT"),
    LEDGER: ("SELECT", "INSERT"),
    OUTBOX: ("SELECT", "UPDATE", "DELETE"),
    QUARANTINE: ("SELECT", "INSERT"),
    IDENTITY: ("SELECT",),
}
_READ_ONLY = "25006"


def check_rights(connection: Connection, schema: Schema) -> Iterator[Finding]:
    """Yield the rights that this role lacks on levelq's tables, and on those that their foreign keys lead to."""
    tables = [table for table in schema.columns if table not in schema.kinds]
    needed = [(table, right) for table in tables for right in NEEDED.get(table, ())]
    yield from _ON_TABLES.find(connection, tables=[t for t, _ in needed], rights=[right for _, right in needed])
    parents = sorted({(parent.table, parent.column) for found in schema.parents.values() for parent in found})
    yield from _ON_PARENTS.find(connection, tables=[t for t, _ in parents], columns=[c for _, c in parents])


def unreadable(connection: Connection, schema: Schema) -> set[str]:
    """The tables that this role may not read."""
    return set(connection.execute(_UNREADABLE, {"tables": list(schema.columns)}).scalars())


def check_write(connection: Connection) -> Iterator[Finding]:
    """Write a row into the quarantine, which the caller rolls back: this shows a full disk, which no catalog does."""
    try:
        connection.execute(_WRITE)
    except DBAPIError as error:
        state = sqlstate_of(error)
        if connection.invalidated or state in CUT:
            raise
        if state != _READ_ONLY:  # check_server names that one
            yield Finding("error", f"a row that was written as a test was refused: {in_words(error)}")


# The rights that are lacking on each table; one column is enough, because applications may grant single columns.
_ON_TABLES = QueryCheck(
    """
    SELECT quote_ident(current_user) AS role, name, string_agg(needed, ', ' ORDER BY n) AS rights
    FROM unnest(CAST(:tables AS text[]), CAST(:rights AS text[])) WITH ORDINALITY AS wanted(name, needed, n)
    WHERE NOT CASE WHEN needed = 'DELETE' THEN has_table_privilege(to_regclass(name), needed)
                   ELSE has_any_column_privilege(to_regclass(name), needed) END
    GROUP BY name ORDER BY min(n)
    """,
    "role {role} lacks {rights} on {name}, which a worker needs",
    "GRANT {rights} ON {name} TO {role};",
)

# The same for the users' table: its row is locked FOR KEY SHARE before a row that refers to the user is made.
_ON_PARENTS = QueryCheck(
    """
    SELECT quote_ident(current_user) AS role, name, string_agg(needed, ' and ' ORDER BY needed) AS rights,
           string_agg(format('%s (%s)', needed, field), ', ' ORDER BY needed) AS granted
    FROM unnest(CAST(:tables AS text[]), CAST(:columns AS text[])) WITH ORDINALITY AS wanted(name, field, n)
    CROSS JOIN (VALUES ('SELECT'), ('UPDATE')) AS k(needed)
    WHERE NOT has_any_column_privilege(to_regclass(name), needed)
    GROUP BY name, field, n ORDER BY n
    """,
    "role {role} lacks {rights} on {name}, whose rows a worker locks FOR KEY SHARE",
    "GRANT {granted} ON {name} TO {role};",
)

_UNREADABLE = text("""
    SELECT name FROM unnest(CAST(:tables AS text[])) AS wanted(name)
    WHERE NOT has_any_column_privilege(to_regclass(name), 'SELECT')
""")

# With an id, so that no number of the sequence is used up.
_WRITE = text(f"""
    INSERT INTO {QUARANTINE} (id, specialization, reason, raw, length, sha256)
    VALUES (0, 'CHECK', 'levelq db check', '', 0, sha256(''))
""")
