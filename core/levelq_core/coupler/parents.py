"""The application's users tables, to which foreign keys lead: a batch locks their rows before it inserts rows."""

from __future__ import annotations

from typing import NamedTuple

from levelq_core.database.schema import Schema


class Parents(NamedTuple):
    """One users table, the foreign keys that lead to it by the table they start from, and how to lock its rows."""

    table: str
    lock: str
    constraints: dict[str, str]


def parents_of(schema: Schema) -> tuple[Parents, ...]:
    """The users tables of one schema, sorted: the order in which they are locked."""
    targets = sorted({(parent.table, parent.column) for found in schema.parents.values() for parent in found})
    return tuple(
        Parents(
            table,
            # The users that exist; the lock keeps their rows until levelq's are inserted. Cast to one type, because a
            # prepared statement fails for good once the types of its results change.
            f"""
                SELECT u.{column}::bigint FROM unnest(%b) WITH ORDINALITY AS k(user_id, n)
                JOIN {table} u ON u.{column} = k.user_id
                ORDER BY k.n FOR KEY SHARE OF u
            """,
            {
                child: parent.constraint
                for child, found in schema.parents.items()
                for parent in found
                if (parent.table, parent.column) == (table, column)
            },
        )
        for table, column in targets
    )
