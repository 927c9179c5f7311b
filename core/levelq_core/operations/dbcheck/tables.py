"""The tables: they exist, on the search path, and are not views."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import Connection, text

from levelq_core.database.schema import LICENSES, PROGRESS, REQUIRED, Schema

from .finding import Finding


def check_tables(connection: Connection, schema: Schema) -> Iterator[Finding]:
    """Yield the tables that are absent, outside the search path, no tables, or rewritten by rules."""
    absent = [table for table in REQUIRED if table not in schema.columns and table not in schema.elsewhere]
    if absent:
        yield Finding("error", f"absent: table {', table '.join(absent)}", ("levelq db upgrade",))
    if schema.elsewhere:
        yield _outside(connection, schema)
    for table, kind in schema.kinds.items():
        move = (
            f"-- give levelq a table of that name: rename the {kind.partition(' ')[2]} {table}, and what it is made of"
        )
        yield Finding("error", f"{table} is {kind}, expected a table: it cannot hold a unique constraint", (move,))
    for table, rule in connection.execute(_RULES, {"tables": [PROGRESS, LICENSES]}):
        problem = f"{table} has the rule {rule}: PostgreSQL refuses INSERT ... ON CONFLICT, by which levelq makes rows"
        yield Finding("error", problem, (f"-- make a trigger that does the same, then: DROP RULE {rule} ON {table};",))


def _outside(connection: Connection, schema: Schema) -> Finding:
    """One finding for all tables, because one search path mends all. Only the user knows whose tables they are."""
    schemas = sorted({name for names in schema.elsewhere.values() for name in names})
    path = ", ".join([*schemas, *connection.execute(_SEARCH_PATH).scalars()])
    role, database = connection.execute(_WHO).one()
    problem = "; ".join(schema.absence(table) for table in REQUIRED if table in schema.elsewhere)
    return Finding(
        "error",
        problem,
        (
            "-- levelq does not know whose tables those are. If they are your application's, let its role find them:",
            *(f"-- GRANT USAGE ON SCHEMA {name} TO {role};" for name in schemas),
            f"-- ALTER ROLE {role} IN DATABASE {database} SET search_path = {path};",
            "-- If they belong to something else, make levelq's own with: levelq db upgrade",
        ),
    )


# Rules on INSERT and UPDATE, those of UPDATE also while they are disabled.
_RULES = text("""
    SELECT c.relname, quote_ident(r.rulename) FROM pg_rewrite r
    JOIN pg_class c ON c.oid = r.ev_class AND c.oid = to_regclass(c.relname) AND c.relkind IN ('r', 'p')
    WHERE c.relname = ANY(CAST(:tables AS text[])) AND (r.ev_type = '2' OR r.ev_type = '3' AND r.ev_enabled <> 'D')
    ORDER BY 1, 2
""")

_WHO = text("SELECT quote_ident(current_user), quote_ident(current_database())")

_SEARCH_PATH = text("SELECT quote_ident(name) FROM unnest(current_schemas(false)) AS path(name)")
