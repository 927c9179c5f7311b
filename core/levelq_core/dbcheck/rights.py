"""Whether this role may do what a worker does."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from sqlalchemy import Connection, text

from levelq_core.schema import LEDGER, LICENSES, OUTBOX, PROGRESS, PROGRESSIONS, QUARANTINE, REQUIRED, Schema

from .finding import Finding

# What a worker does with each table, as the documented grants allow it.
_RIGHTS = {
    PROGRESS: ("SELECT", "INSERT", "UPDATE", "DELETE"),
    LICENSES: ("SELECT", "INSERT", "UPDATE", "DELETE"),
    PROGRESSIONS: ("SELECT", "INSERT"),
    LEDGER: ("SELECT", "INSERT"),
    OUTBOX: ("SELECT", "UPDATE", "DELETE"),
    QUARANTINE: ("SELECT", "INSERT"),
}


def check_rights(connection: Connection, schema: Schema) -> Iterator[Finding]:
    """Yield what this role may not do with the tables, and with the users that foreign keys lead to."""
    tables = [table for table in REQUIRED if table in schema.columns and table not in schema.kinds]
    needed = [(table, right) for table in tables for right in _RIGHTS.get(table, ())]
    users = {parent.table: parent.column for parents in schema.parents.values() for parent in parents}
    needed += [(table, right) for table in sorted(users) for right in ("SELECT", "UPDATE")]
    parameters = {"tables": [table for table, _ in needed], "rights": [right for _, right in needed]}
    role = connection.execute(_ROLE).scalar_one()
    for table, rows in groupby(connection.execute(_DENIED, parameters), key=lambda row: str(row.name)):
        rights = [str(row.right) for row in rows]
        # Of the users only locks are needed, which take the right to change one column.
        least = [f"UPDATE ({users[table]})" if table in users and right == "UPDATE" else right for right in rights]
        problem = f"{table}: role {role} may not {', '.join(rights)} there, and workers must"
        yield Finding("error", problem, (f"GRANT {', '.join(least)} ON {table} TO {role};",))


def unreadable(connection: Connection, schema: Schema) -> set[str]:
    """The tables that this role may not read at all."""
    tables = list(schema.columns)
    rows = connection.execute(_DENIED, {"tables": tables, "rights": ["SELECT"] * len(tables)})
    return {row.name for row in rows}


_ROLE = text("SELECT quote_ident(current_user)")

# Of these pairs of table and right: which this role lacks. A right on columns counts, which are checked when used.
_DENIED = text("""
    SELECT wanted.name, wanted.right
    FROM unnest(CAST(:tables AS text[]), CAST(:rights AS text[])) WITH ORDINALITY AS wanted(name, "right", n)
    JOIN pg_class c ON c.oid = to_regclass(wanted.name)
    WHERE NOT has_table_privilege(c.oid, wanted.right)
        AND NOT CASE WHEN wanted.right = 'DELETE' THEN false ELSE has_any_column_privilege(c.oid, wanted.right) END
    ORDER BY wanted.n
""")
