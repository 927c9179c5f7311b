"""Views and the like that have the name of a table, and tables that the search path does not find."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Connection, text


def not_tables(connection: Connection, names: Iterable[str]) -> dict[str, str]:
    """Of these names, those that are not tables, and what they are ("a view"). A partitioned table is a table."""
    return {row.name: row.kind for row in connection.execute(_NOT_TABLES, {"names": list(names)})}


def elsewhere(connection: Connection, names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Of these names, which the search path does not find: the schemas that have such a table, quoted for SQL."""
    return {name: tuple(schemas) for name, schemas in connection.execute(_ELSEWHERE, {"names": list(names)})}


_NOT_TABLES = text("""
    SELECT wanted.name, CASE c.relkind WHEN 'v' THEN 'a view' WHEN 'm' THEN 'a materialized view'
        WHEN 'f' THEN 'a foreign table' ELSE 'no table' END AS kind
    FROM unnest(CAST(:names AS text[])) AS wanted(name)
    JOIN pg_class c ON c.oid = to_regclass(wanted.name) AND c.relkind NOT IN ('r', 'p')
""")

# The search path also leaves out a schema that this role may not use.
_ELSEWHERE = text("""
    SELECT c.relname, array_agg(quote_ident(n.nspname) ORDER BY n.nspname)
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relname = ANY(CAST(:names AS text[])) AND c.relkind IN ('r', 'p') AND n.nspname !~ '^pg_'
    GROUP BY c.relname
""")
