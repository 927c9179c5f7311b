"""Optional time columns: `created_at` and `updated_at` of an application's `user_licenses` or `license_progressions`.

The application's own code sets them. levelq sets them too, if they are plain timestamps that this role may write.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from sqlalchemy import Connection, text

from .column_spec import TIMES, Column
from .table_names import LICENSES, PROGRESSIONS

CREATED, UPDATED = "created_at", "updated_at"


class ExtraTimes(NamedTuple):
    """The columns of one table that an insert sets, and those that an update sets."""

    on_insert: tuple[str, ...] = ()
    on_update: tuple[str, ...] = ()


def is_written(table: str, name: str, column: Column) -> bool:
    """Whether levelq gives this column the time, though it does not require it."""
    named = table in (LICENSES, PROGRESSIONS) and name in (CREATED, UPDATED)
    return named and column.type in TIMES and not column.generated


def read_extra_times(connection: Connection, columns: Mapping[str, Mapping[str, Column]]) -> dict[str, ExtraTimes]:
    """The optional time columns that each table has and this role may write."""
    found: dict[str, ExtraTimes] = {}
    names = {"tables": [LICENSES, PROGRESSIONS], "names": [CREATED, UPDATED]}
    for table, name, may_insert, may_update in connection.execute(_GRANTED, names):
        if is_written(table, name, columns[table][name]):
            inserts, updates = found.get(table, ExtraTimes())
            inserts += (name,) if may_insert else ()
            updates += (name,) if may_update and name == UPDATED else ()
            found[table] = ExtraTimes(inserts, updates)
    return found


# What this role may do with these columns: an application may have granted only the columns that levelq requires.
_GRANTED = text("""
    SELECT c.relname, a.attname, has_column_privilege(c.oid, a.attnum, 'INSERT'),
           has_column_privilege(c.oid, a.attnum, 'UPDATE')
    FROM unnest(CAST(:tables AS text[])) AS wanted(name)
    JOIN pg_class c ON c.oid = to_regclass(wanted.name)
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
        AND a.attname = ANY(CAST(:names AS text[]))
    ORDER BY c.relname, a.attname
""")
