"""The application's own triggers on the tables that batches write: what makes batches slow, or refuses a user."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import Connection, text

from levelq_core.database.table_names import LICENSES, PAIR_TRIGGERS, PROGRESS, PROGRESSIONS
from levelq_core.untrusted_text import printable

MOST_NAMED = 5
_WRITTEN = (PROGRESS, LICENSES, PROGRESSIONS)


def trigger_notes(connection: Connection, *, slow: bool, refused: bool) -> Iterator[str]:
    """A line for each trigger that is switched off, and for each that may run in batches if it may be a cause.

    `slow`: batches are; `refused`: a lane is parked by an error that a trigger may have raised. MOST_NAMED lines at
    most. Raises DBAPIError.
    """
    values = {"tables": list(_WRITTEN), "own": list(PAIR_TRIGGERS), "most": MOST_NAMED, "suspected": slow or refused}
    what = "in batches" if slow else "in batches, and refuse them"
    for row in connection.execute(_TRIGGERS, values):
        name, table, called = (printable(word) for word in (row.name, row.table, row.called))
        if row.enabled:
            off = f"ALTER TABLE {table} DISABLE TRIGGER {name}"
            yield f"trigger {name} on {table} may run {called} {what}; if it is the cause, switch it off: {off}"
        else:
            on = f"ALTER TABLE {table} ENABLE TRIGGER {name}"
            yield f"trigger {name} on {table} is switched off; to switch it on: {on}"


# Those of inserts and updates (4 and 16 in tgtype), which batches make, but of replicas. Those of constraints are
# internal; levelq's own are reported by `levelq db check`.
_TRIGGERS = text("""
    SELECT quote_ident(t.tgname) AS name, format('%I.%I', n.nspname, c.relname) AS table,
           t.tgfoid::regprocedure::text AS called, t.tgenabled <> 'D' AS enabled
    FROM unnest(CAST(:tables AS text[])) AS wanted(name) JOIN pg_trigger t ON t.tgrelid = to_regclass(wanted.name)
    JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE NOT t.tgisinternal AND t.tgtype & 20 <> 0 AND NOT t.tgname = ANY(CAST(:own AS text[]))
        AND (t.tgenabled = 'D' OR :suspected AND t.tgenabled <> 'R')
    ORDER BY enabled, t.tgname, t.tgrelid LIMIT :most
""")
