"""The times that levelq writes into rows: those that it requires, and the application's own beside them."""

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
    """The times of a row that is made: by column, the SQL expression."""
    extra = schema.times.get(table, ExtraTimes()).on_insert
    return {name: schema.column(table, name).now for name in (*_ON_INSERT[table], *extra)}


def updated_times(schema: Schema, table: str) -> dict[str, str]:
    """The times that every update of a row sets, whatever it is about."""
    extra = schema.times.get(table, ExtraTimes()).on_update
    return {name: schema.column(table, name).now for name in (*_ON_UPDATE[table], *extra)}
