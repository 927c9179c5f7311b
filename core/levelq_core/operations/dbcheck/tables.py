"""The tables: they exist, on the search path, are no views, and keep their rows; nothing rewrites or blocks writes."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import Connection, text

from levelq_core.database.schema import LEDGER, LICENSES, PROGRESS, PROGRESSIONS, REQUIRED, Schema
from levelq_core.database.table_names import OPEN_REJECTION

from .finding import Finding, QueryCheck


def check_tables(connection: Connection, schema: Schema) -> Iterator[Finding]:
    """Yield the tables that are absent, outside the search path, no tables, or rewritten by rules."""
    absent = [table for table in REQUIRED if table not in schema.columns and table not in schema.elsewhere]
    if absent:
        yield Finding("error", f"absent: table {', table '.join(absent)}", ("levelq db upgrade",))
    if schema.elsewhere:
        yield _outside(connection, schema)
    for table, kind in schema.kinds.items():
        noun = kind.partition(" ")[2]
        move = f"-- give levelq a table of that name: rename the {noun} {table}, and what it is made of"
        yield Finding("error", f"{table} is {kind}, expected a table: it cannot hold a unique constraint", (move,))
    yield from _RULES.find(connection, tables=[PROGRESS, LICENSES])


def _outside(connection: Connection, schema: Schema) -> Finding:
    """One finding for all tables, because one search path fixes all. Only the user knows whose tables they are."""
    schemas = sorted({name for names in schema.elsewhere.values() for name in names})
    role, database, found = connection.execute(_SEARCH_PATH).one()
    fix = (
        "-- levelq does not know whose tables those are. If they are your application's, let its role find them:",
        *(f"-- GRANT USAGE ON SCHEMA {name} TO {role};" for name in schemas),
        f"-- ALTER ROLE {role} IN DATABASE {database} SET search_path = {', '.join([*schemas, *found])};",
        "-- If they belong to something else, make levelq's own with: levelq db upgrade",
    )
    return Finding("error", "; ".join(schema.absence(table) for table in REQUIRED if table in schema.elsewhere), fix)


_SEARCH_PATH = text("""
    SELECT quote_ident(current_user), quote_ident(current_database()),
           ARRAY(SELECT quote_ident(name) FROM unnest(current_schemas(false)) AS path(name))
""")

# Rules on INSERT and UPDATE; one on UPDATE counts even while it is disabled.
_RULES = QueryCheck(
    """
    SELECT c.relname AS table, quote_ident(r.rulename) AS rule FROM pg_rewrite r
    JOIN pg_class c ON c.oid = r.ev_class AND c.oid = to_regclass(c.relname) AND c.relkind IN ('r', 'p')
    WHERE c.relname = ANY(CAST(:tables AS text[])) AND (r.ev_type = '2' OR r.ev_type = '3' AND r.ev_enabled <> 'D')
    ORDER BY 1, 2
    """,
    "{table} has the rule {rule}: PostgreSQL refuses INSERT ... ON CONFLICT, by which levelq makes rows",
    "-- make a trigger that does the same, then: DROP RULE {rule} ON {table};",
)

# Tables that a crash empties.
UNLOGGED = QueryCheck(
    """
    SELECT name FROM unnest(CAST(:tables AS text[])) WITH ORDINALITY AS wanted(name, n)
    JOIN pg_class c ON c.oid = to_regclass(name) AND c.relpersistence = 'u' ORDER BY n
    """,
    "{name} is UNLOGGED: a crash of the server empties it",
    "ALTER TABLE {name} SET LOGGED;",
)

# A ledger that had its column added later lacks the index.
OPEN_INDEX = QueryCheck(
    f"""
    SELECT FROM pg_attribute WHERE attrelid = to_regclass('{LEDGER}') AND attname = 'settled' AND NOT EXISTS (
        SELECT FROM pg_index WHERE indrelid = attrelid AND pg_get_expr(indpred, indrelid) LIKE '%settled%')
    """,
    f"{LEDGER} has no index of its open rejections: `levelq status` and `levelq rejected` read many rows",
    f"CREATE INDEX {LEDGER}_open ON {LEDGER} (id) WHERE {OPEN_REJECTION};",
    "warning",
)

# The foreign key from progressions to licenses, if it keeps an application from deleting its users. levelq's own table
# is recognized by its index; an application's key counts only if it stops a cascade of the application.
CASCADE = QueryCheck(
    f"""
    SELECT quote_ident(f.conname) AS constraint, quote_ident(a.attname) AS column,
           f.confrelid::regclass::text AS licenses, quote_ident(k.attname) AS key
    FROM pg_constraint f
    JOIN pg_attribute a ON a.attrelid = f.conrelid AND a.attnum = f.conkey[1]
    JOIN pg_attribute k ON k.attrelid = f.confrelid AND k.attnum = f.confkey[1]
    WHERE f.contype = 'f' AND f.conrelid = to_regclass('{PROGRESSIONS}') AND f.confrelid = to_regclass('{LICENSES}')
        AND cardinality(f.conkey) = 1 AND f.confdeltype IN ('a', 'r')
        AND (EXISTS (SELECT FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
                     WHERE i.indrelid = f.conrelid AND c.relname = '{PROGRESSIONS}_license')
             OR EXISTS (SELECT FROM pg_constraint u
                        WHERE u.conrelid = f.confrelid AND u.contype = 'f' AND u.confdeltype = 'c'))
    """,
    f"{PROGRESSIONS}.{{column}}: its foreign key {{constraint}} has no ON DELETE CASCADE: a license that has "
    "progressions cannot be deleted, nor a user whose deletion reaches it by a cascade",
    f"ALTER TABLE {PROGRESSIONS} DROP CONSTRAINT {{constraint}}, ADD CONSTRAINT {{constraint}} "
    "FOREIGN KEY ({column}) REFERENCES {licenses} ({key}) ON DELETE CASCADE;",
    "warning",
)
