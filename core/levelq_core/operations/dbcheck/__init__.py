"""What `levelq db check` finds: what a database lacks, or what makes it unsafe, each with what mends it."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from sqlalchemy import Connection

from levelq_core.database.column_spec import wanted
from levelq_core.database.schema import LICENSES, PROGRESS, QUARANTINE, read
from levelq_core.database.spelling import misspelt
from levelq_core.domain.catalog import Catalog
from levelq_core.errors import SchemaError

from .columns import Facts, check_columns
from .finding import Finding, Severity
from .limits import limit, look_at_rows
from .pairs import pair_fixes
from .references import check_cascade
from .rights import check_rights, check_write, unreadable
from .rows import check_key, check_levels, check_null_levels
from .sequences import check_sequences, sequence_problems
from .server import check_read_only, check_server
from .spelling import check_names, check_spelling
from .tables import check_tables

_LEVELS = {
    PROGRESS: {"student_id", "specialization_id", "current_level"},
    LICENSES: {"user_id", "specialization_type", "current_level"},
}


START_SECONDS = 10.0  # how long a start may wait for one look at a table's rows


def check(connection: Connection, catalog: Catalog | None = None, *, thorough: bool = True) -> list[Finding]:
    """Look for everything; findings come in the order in which they are best mended.

    `catalog`: the default one unless given; its names must fit into the columns. `thorough`: look for as long as it
    takes, a second or two for a million rows; a worker that starts leaves out what only warns of rows, and gives each
    look START_SECONDS. Raises SQLAlchemy's DBAPIError if the database cannot be asked. Changes nothing but
    statement_timeout, for this transaction: a row that is written as a test is taken back.
    """
    limit(connection, None if thorough else START_SECONDS)
    schema = read(connection)
    catalog = catalog or Catalog.default()
    found = list(check_server(connection, schema.encoding))
    found += check_tables(connection, schema)
    found += check_rights(connection, schema)
    closed = unreadable(connection, schema) | schema.kinds.keys()
    facts = {table: columns for table, columns in schema.columns.items() if table not in closed}
    for table, columns in facts.items():
        found += check_columns(connection, table, columns, catalog)
        found += check_key(connection, table, facts, schema)
    found += check_sequences(connection)
    found += check_cascade(connection)
    if not any(finding.severity == "error" for finding in found):
        found += look_at_rows(connection, QUARANTINE, lambda: check_write(connection))
    comparable = [table for table, names in _LEVELS.items() if _comparable(facts.get(table, {}), table, names)]
    respelt: list[Finding] = []
    for table in comparable:
        spelling = partial(check_spelling, connection, table, facts, catalog)
        respelt += look_at_rows(connection, f"the spelling in {table}", spelling)
    if not thorough:
        return [*found, *respelt]
    found += [finding for table in comparable for finding in check_null_levels(connection, table, facts[table])]
    if not respelt and len(comparable) == len(_LEVELS):  # else half of a pair is found once it is renamed
        found += check_levels(connection, schema, catalog)
    return [*found, *respelt, *check_names(connection, comparable, catalog)]


def require_spelling(connection: Connection, catalog: Catalog) -> None:
    """Raise SchemaError if rows are there that levelq would not find. Raises DBAPIError."""
    found = misspelt(connection, catalog)
    if found:
        raise SchemaError(f"{'; '.join(map(str, found))}. `levelq db check` prints the statements that fix it")


def _comparable(facts: Facts, table: str, names: Iterable[str]) -> bool:
    """Whether these columns are there, of types that compare with the other table's."""
    return all(name in facts and facts[name].type in wanted(table, name).types for name in names)


__all__ = [
    "Finding",
    "Severity",
    "check",
    "check_read_only",
    "pair_fixes",
    "require_spelling",
    "sequence_problems",
]
