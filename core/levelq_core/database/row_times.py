"""The times that levelq writes into rows: of required columns and of an application's optional ones.

An application's `user_licenses` and `license_progressions` may have `created_at` and `updated_at`, which its own code
sets. levelq sets them too, if they are plain timestamps that this role may write.
"""

from __future__ import annotations

from .column_spec import TIMES, Column
from .schema import LICENSES, PROGRESS, PROGRESSIONS, Schema

_CREATED, _UPDATED = "created_at", "updated_at"
_ON_INSERT = {
    PROGRESS: ("last_activity", _CREATED, _UPDATED),
    LICENSES: ("started_at", "last_advanced_at"),
    PROGRESSIONS: ("advanced_at",),
}
_ON_UPDATE = {PROGRESS: ("last_activity", _UPDATED), LICENSES: ()}


def is_written(table: str, name: str, column: Column) -> bool:
    """Whether levelq writes the time into this column, though it does not require it."""
    named = table in (LICENSES, PROGRESSIONS) and name in (_CREATED, _UPDATED)
    return named and column.type in TIMES and not column.generated


def inserted_times(schema: Schema, table: str) -> dict[str, str]:
    """The times of a new row: the SQL expression by column."""
    columns = schema.columns[table]
    extra = [n for n in sorted(columns) if is_written(table, n, columns[n]) and columns[n].insertable]
    return {name: columns[name].now for name in (*_ON_INSERT[table], *extra)}


def updated_times(schema: Schema, table: str) -> dict[str, str]:
    """The times that every update of a row sets: the SQL expression by column."""
    columns = schema.columns[table]
    extra = [n for n in columns if n == _UPDATED and is_written(table, n, columns[n]) and columns[n].updatable]
    return {name: columns[name].now for name in (*_ON_UPDATE[table], *extra)}
