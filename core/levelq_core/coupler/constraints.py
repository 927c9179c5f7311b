"""The constraint that an error names, read from the database's catalog when the error comes.

Not at start: an application may have changed it since, and a batch without errors pays nothing.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import psycopg

from levelq_core.database.cursors import Cursor
from levelq_core.database.schema import LICENSES, PROGRESS, PROGRESSIONS

CHECK, FOREIGN_KEY = "c", "f"


class Constraint(NamedTuple):
    """A constraint of one of the three tables; of a domain, `columns` are those of that type.

    `condition`: a check's, as SQL. `predictable`: the check will see exactly what an UPDATE writes, because no trigger
    before it, no rule, no generated column and no child table comes between, and it names the columns that it reads.
    `target`, `target_column`: the table and column that a foreign key of one column leads to, as SQL.
    """

    kind: str
    table: str
    columns: tuple[str, ...]
    types: tuple[str, ...]
    condition: str | None
    predictable: bool
    target: str | None
    target_column: str | None


def find(cursor: Cursor[Any], error: psycopg.Error) -> Constraint | None:
    """The constraint that an error of class 23 names; None unless it is of the three tables or of their types."""
    diag = error.diag
    if diag.constraint_name is None:
        return None
    tables, row = [PROGRESS, LICENSES, PROGRESSIONS], None
    if diag.table_name is not None:
        named = (PROGRESS, LICENSES, diag.constraint_name, diag.schema_name, diag.table_name, tables)
        row = cursor.execute(_OF_TABLE, named).fetchone()
    elif diag.datatype_name is not None:
        typed = (diag.constraint_name, diag.schema_name, diag.datatype_name, tables)
        row = cursor.execute(_OF_DOMAIN, typed).fetchone()
    if row is None:
        return None
    kind, table, columns, types, *rest = row
    return Constraint(kind, table, tuple(columns), tuple(types), *rest)


# By name, of the table as the search path finds it. What fires before levelq's UPDATE of a table may change the locked
# row: its own triggers BEFORE, and for licenses every trigger of progress but levelq's, which change no row. Bits of
# tgtype: 2 BEFORE, 16 UPDATE.
_OF_TABLE = """
    SELECT c.contype::text, r.relname::text, k.names, k.types, pg_get_expr(c.conbin, c.conrelid),
           r.relkind = 'r' AND NOT r.relhassubclass AND NOT r.relispartition AND NOT r.relhasrules AND k.plain
               AND cardinality(k.names) = cardinality(c.conkey)
               AND NOT EXISTS (SELECT FROM pg_trigger t WHERE NOT t.tgisinternal AND t.tgenabled <> 'D'
                               AND t.tgname <> 'levelq_pair_in_step' AND t.tgtype & 16 = 16
                               AND CASE WHEN t.tgrelid = r.oid THEN t.tgtype & 2 = 2
                               ELSE t.tgrelid = to_regclass(%s) AND r.relname = %s END),
           CASE WHEN cardinality(c.confkey) = 1 THEN c.confrelid::regclass::text END, quote_ident(p.attname)
    FROM pg_constraint c
    JOIN pg_class r ON r.oid = c.conrelid AND r.oid = to_regclass(r.relname)
    CROSS JOIN LATERAL (
        SELECT coalesce(array_agg(a.attname::text ORDER BY a.attnum), '{}') AS names,
               coalesce(array_agg(format_type(a.atttypid, a.atttypmod) ORDER BY a.attnum), '{}') AS types,
               coalesce(bool_and(a.attgenerated = ''), true) AS plain
        FROM pg_attribute a WHERE a.attrelid = c.conrelid AND a.attnum = ANY(c.conkey)
    ) AS k
    LEFT JOIN pg_attribute p ON p.attrelid = c.confrelid AND p.attnum = c.confkey[1]
    WHERE c.conname = %s AND c.conrelid = to_regclass(format('%%I.%%I', %s::text, %s::text)) AND r.relname = ANY(%s)
"""

# A domain's check, with the columns of the three tables that are of its type.
_OF_DOMAIN = """
    SELECT c.contype::text, '', array_agg(a.attname::text), array_agg(format_type(a.atttypid, a.atttypmod)),
           NULL, false, NULL, NULL
    FROM pg_constraint c
    JOIN pg_attribute a ON a.atttypid = c.contypid AND a.attnum > 0 AND NOT a.attisdropped
    JOIN pg_class r ON r.oid = a.attrelid AND r.oid = to_regclass(r.relname)
    WHERE c.conname = %s AND c.contypid = to_regtype(format('%%I.%%I', %s::text, %s::text)) AND r.relname = ANY(%s)
    GROUP BY c.oid, c.contype
"""
