"""Whether the database itself refuses levels out of step: what `levelq db enforce --report` prints."""

from __future__ import annotations

from contextlib import suppress
from typing import Literal

from sqlalchemy import Connection, text

from levelq_core.database import pair_trigger
from levelq_core.database.pair_trigger import State
from levelq_core.database.schema import LICENSES, PROGRESS, Schema, read
from levelq_core.errors import SchemaError

from .records import Reading

SENTENCES = {
    "on": "the database refuses levels out of step",
    "off": "the database does not refuse levels out of step (`levelq db enforce`)",
    "partly": "the database refuses levels out of step only in part",
}


class EnforcedTable(Reading):
    """Whether the triggers of one table are in force.

    `half there`: one of the two is missing. `disabled`: by ALTER TABLE ... DISABLE TRIGGER. `outdated`: made by another
    version of levelq, or before a table was renamed or moved.
    """

    table: str
    state: State


class Enforcement(Reading):
    """Whether the database forbids levels out of step: `on` only if it does so on both tables.

    `out_of_step`: the pairs whose two rows differ now, None if they were not counted.
    """

    state: Literal["on", "off", "partly"]
    tables: tuple[EnforcedTable, ...]
    out_of_step: int | None = None


def read_enforcement(connection: Connection, schema: Schema | None = None, *, pairs: bool = True) -> Enforcement:
    """Read whether it is in force, and with `pairs` count the pairs out of step, a second or two for a million.

    Raises SchemaError if one of the two tables is missing, DBAPIError.
    """
    schema = schema or read(connection)
    absent = [table for table in pair_trigger.COUPLED if table not in schema.columns]
    if absent:
        reasons = [f"{schema.absence(table)}. `levelq db upgrade` makes it" for table in absent]
        raise SchemaError("; ".join(reasons), reasons=reasons)
    found = pair_trigger.installed(connection, schema)
    tables = tuple(EnforcedTable(table=name, state=found.state(name)) for name in pair_trigger.COUPLED)
    state: Literal["on", "off", "partly"] = "partly"
    if tables[0].state == tables[1].state and tables[0].state in ("on", "off"):
        state = tables[0].state
    number = int(connection.execute(_DIFFERENT).scalar_one()) if pairs else None
    return Enforcement(state=state, tables=tables, out_of_step=number)


def is_enforced(connection: Connection) -> bool:
    """Whether it is in force on both tables; False if one of them is missing. Raises DBAPIError."""
    with suppress(SchemaError):
        return read_enforcement(connection, pairs=False).state == "on"
    return False


_DIFFERENT = text(f"""
    SELECT count(*) FROM {PROGRESS} p
    JOIN {LICENSES} l ON l.user_id = p.student_id AND l.specialization_type = p.specialization_id
    WHERE coalesce(p.current_level, 1) <> coalesce(l.current_level, 1)
""")
