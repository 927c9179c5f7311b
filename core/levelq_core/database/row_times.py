"""The times that levelq writes into rows: of required columns and of the application's optional ones."""

from __future__ import annotations

from .extra_times import ExtraTimes
from .schema import LICENSES, PROGRESS, PROGRESSIONS, Schema

_ON_INSERT = {
    PROGRESS: ("last_activity", "created_at", "updated_at"),
    LICENSES: ("started_at", "last_advanced_at"),
    PROGRESSIONS: ("advanced_at",),
}
_ON_UPDATE = {PROGRESS: ("last_activity", "updated_at"), LICENSES: ()}


def inserted_times(schema: Schema, table: str) -> dict[str, str]:
    """The times of a new row: the SQL expression by column."""
    extra = schema.times.get(table, ExtraTimes()).on_insert
    return {name: schema.column(table, name).now for name in (*_ON_INSERT[table], *extra)}


def updated_times(schema: Schema, table: str) -> dict[str, str]:
    """The times that every update of a row sets: the SQL expression by column."""
    extra = schema.times.get(table, ExtraTimes()).on_update
    return {name: schema.column(table, name).now for name in (*_ON_UPDATE[table], *extra)}
