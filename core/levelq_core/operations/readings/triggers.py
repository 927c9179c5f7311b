"""The application's own triggers on the tables that batches write: what makes batches slow, or refuses a user."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import Connection, text

from levelq_core.database.table_names import LICENSES, PAIR_TRIGGERS, PROGRESS, PROGRESSIONS
from levelq_core.untrusted_text import MOST_SHOWN, printable

MOST_NAMED = 5
_WRITTEN = (PROGRESS, LICENSES, PROGRESSIONS)


def trigger_notes(connection: Connection, *, suspected: bool) -> Iterator[str]:
    """A line for each trigger that is switched off, and with `suspected` for each that runs. Raises DBAPIError."""
    values = {"tables": list(_WRITTEN), "own": list(PAIR_TRIGGERS), "most": MOST_NAMED, "suspected": suspected}
    for row in connection.execute(_TRIGGERS, values):
        name, table, called = (printable(word, MOST_SHOWN) for word in (row.name, row.table, row.called))
        if row.enabled:
            off = f"ALTER TABLE {table} DISABLE TRIGGER {name}"
            yield f"trigger {name} on {table} runs {called} in each batch; to switch it off until it is mended: {off}"
        else:
            on = f"ALTER TABLE {table} ENABLE TRIGGER {name}"
            yield f"trigger {name} on {table} is switched off; to switch it on: {on}"


# Those of constraints are internal; levelq's own are reported by `levelq db check`.
_TRIGGERS = text("""
    SELECT quote_ident(t.tgname) AS name, t.tgrelid::regclass::text AS table, t.tgfoid::regprocedure::text AS called,
           t.tgenabled IN ('O', 'A') AS enabled
    FROM unnest(CAST(:tables AS text[])) AS wanted(name) JOIN pg_trigger t ON t.tgrelid = to_regclass(wanted.name)
    WHERE NOT t.tgisinternal AND NOT t.tgname = ANY(CAST(:own AS text[])) AND (:suspected OR t.tgenabled = 'D')
    ORDER BY t.tgenabled = 'D', t.tgname, t.tgrelid LIMIT :most
""")
