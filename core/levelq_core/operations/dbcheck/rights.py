"""Whether this role may do what a worker does: its rights on the tables, and one row written as a test."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from levelq_core.database.schema import (
    IDENTITY,
    LEDGER,
    LICENSES,
    OUTBOX,
    PROGRESS,
    PROGRESSIONS,
    QUARANTINE,
    Parent,
    Schema,
)
from levelq_core.database.sqlstate import in_words, sqlstate_of

from .finding import Finding
from .limits import CUT

# What a worker needs; docs/how-to/grant-rights.md has the statements.
NEEDED: Mapping[str, tuple[str, ...]] = {
    PROGRESS: ("SELECT", "INSERT", "UPDATE", "DELETE"),
    LICENSES: ("SELECT", "INSERT", "UPDATE", "DELETE"),
    PROGRESSIONS: ("SELECT", "INSERT"),
    LEDGER: ("SELECT", "INSERT"),
    OUTBOX: ("SELECT", "UPDATE", "DELETE"),
    QUARANTINE: ("SELECT", "INSERT"),
    IDENTITY: ("SELECT",),
}
_READ_ONLY = "25006"


def unreadable(connection: Connection, schema: Schema) -> set[str]:
    """The tables that this role may not read."""
    return {table for table in schema.columns if "SELECT" in _lacks(connection, table, ("SELECT",))}


def check_rights(connection: Connection, schema: Schema) -> Iterator[Finding]:
    """Yield the rights that this role lacks on our tables, and on those that their foreign keys lead to."""
    for table in (table for table in schema.columns if table not in schema.kinds):
        lacks = _lacks(connection, table, NEEDED.get(table, ()))
        if lacks:
            role, rights = _role(connection), ", ".join(lacks)
            problem = f"role {role} lacks {rights} on {table}, which a worker needs"
            yield Finding("error", problem, (f"GRANT {rights} ON {table} TO {role};",))
    parents = {parent for found in schema.parents.values() for parent in found}
    for parent in sorted({(parent.table, parent.column): parent for parent in parents}.values(), key=_name):
        yield from _check_parent(connection, parent)


def _name(parent: Parent) -> tuple[str, str]:
    return parent.table, parent.column


def _check_parent(connection: Connection, parent: Parent) -> Iterator[Finding]:
    """Before a row that refers to a user is made, the user's row is locked FOR KEY SHARE."""
    lacks = _lacks(connection, parent.table, ("SELECT", "UPDATE"))
    if lacks:
        role = _role(connection)
        rights = ", ".join(f"{right} ({parent.column})" for right in lacks)
        problem = f"role {role} lacks {' and '.join(lacks)} on {parent.table}, whose rows a worker locks FOR KEY SHARE"
        yield Finding("error", problem, (f"GRANT {rights} ON {parent.table} TO {role};",))


def _lacks(connection: Connection, table: str, rights: tuple[str, ...]) -> list[str]:
    rows = connection.execute(_RIGHTS, {"table": table, "rights": list(rights)})
    return [right for right, has in rows if not has]


def _role(connection: Connection) -> str:
    return str(connection.execute(text("SELECT quote_ident(current_user)")).scalar_one())


def check_write(connection: Connection) -> Iterator[Finding]:
    """Write a row into the quarantine, which the caller takes back: a full disk shows then, which no catalog says."""
    try:
        connection.execute(_WRITE)
    except DBAPIError as error:
        state = sqlstate_of(error)
        if connection.invalidated or state in CUT:
            raise
        if state != _READ_ONLY:  # check_server names that one
            yield Finding("error", f"a row that was written as a test was refused: {in_words(error)}")


# Which of these rights this role has; one column is enough, because applications may grant single columns.
_RIGHTS = text("""
    SELECT wanted, CASE WHEN wanted = 'DELETE' THEN has_table_privilege(to_regclass(:table), wanted)
                   ELSE has_any_column_privilege(to_regclass(:table), wanted) END
    FROM unnest(CAST(:rights AS text[])) WITH ORDINALITY AS k(wanted, n) ORDER BY n
""")

# With an id, so that no number of the sequence is used up.
_WRITE = text(f"""
    INSERT INTO {QUARANTINE} (id, specialization, reason, raw, length, sha256)
    VALUES (0, 'CHECK', 'levelq db check', '', 0, sha256(''))
""")
