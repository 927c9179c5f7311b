"""What `levelq db check` finds: what a database lacks, or what makes it unsafe, each with what mends it."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Connection

from levelq_core.catalog import Catalog
from levelq_core.schema import LICENSES, PROGRESS, REQUIRED, read

from .columns import Facts, check_columns, facts_of
from .finding import Finding, Severity
from .rows import check_key, check_levels, sync_command
from .server import check_server
from .wanted import wanted

_LEVELS = {
    PROGRESS: {"student_id", "specialization_id", "current_level"},
    LICENSES: {"user_id", "specialization_type", "current_level"},
}


def check(connection: Connection, catalog: Catalog | None = None) -> list[Finding]:
    """Look for everything; findings come in the order in which they are best mended.

    `catalog`: the default one unless given; its names must fit into the columns. Raises SQLAlchemy's
    DBAPIError if the database cannot be asked. Changes nothing.
    """
    schema = read(connection)
    facts = facts_of(connection)
    found = list(check_server(connection))
    if len(facts) < len(REQUIRED):
        absent = [table for table in REQUIRED if table not in facts]
        found.append(Finding("error", f"absent: table {', table '.join(absent)}", ("levelq db upgrade",)))
    for table, columns in facts.items():
        found += check_columns(connection, table, columns, catalog or Catalog.default())
        found += check_key(connection, table, facts, schema)
    if all(_comparable(facts.get(table, {}), table, names) for table, names in _LEVELS.items()):
        found += check_levels(connection)
    return found


def _comparable(facts: Facts, table: str, names: Iterable[str]) -> bool:
    """Whether these columns are there, of types that compare with the other table's."""
    return all(name in facts and facts[name].type in wanted(table, name).types for name in names)


__all__ = ["Finding", "Severity", "check", "sync_command"]
