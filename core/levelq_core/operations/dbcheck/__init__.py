"""What `levelq db check` finds: what a database lacks, or what makes it unsafe, each with what fixes it."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from sqlalchemy import Connection

from levelq_core.database.column_spec import wanted
from levelq_core.database.schema import PAIR, QUARANTINE, read
from levelq_core.domain.catalog import Catalog
from levelq_core.errors import SchemaError

from .columns import Facts, check_columns
from .duplicates import check_key
from .finding import Finding, Severity
from .limits import check_in_time, limit
from .pairs import check_enforcement, check_levels, check_null_levels, pair_fixes
from .rights import check_rights, check_write, unreadable
from .sequences import check_sequences, sequence_problems
from .server import check_read_only, check_server
from .spelling import check_names, check_spelling, misspelt
from .tables import CASCADE, OPEN_INDEX, UNLOGGED, check_tables

START_SECONDS = 10.0  # how long a start may wait for one look at a table's rows


def check(connection: Connection, catalog: Catalog | None = None, *, thorough: bool = True) -> list[Finding]:
    """Look for everything; findings come in the order in which they are best fixed.

    `catalog`: the default one unless given; its names must fit into the columns. `thorough`: look for as long as it
    takes, a second or two for a million rows; a worker that starts leaves out what only warns of rows, and gives each
    look START_SECONDS. Raises SQLAlchemy's DBAPIError if the database does not answer. Changes nothing but
    statement_timeout, for this transaction: a row that is written as a test is rolled back.
    """
    limit(connection, None if thorough else START_SECONDS)
    schema = read(connection)
    catalog = catalog or Catalog.default()
    found = [*check_server(connection, schema.encoding), *check_tables(connection, schema)]
    found += check_rights(connection, schema)
    closed = unreadable(connection, schema) | schema.kinds.keys()
    facts = {table: columns for table, columns in schema.columns.items() if table not in closed}
    for table, columns in facts.items():
        found += check_columns(connection, table, columns, catalog)
        found += check_key(connection, table, facts, schema)
    found += UNLOGGED.find(connection, tables=list(facts))
    found += check_sequences(connection)
    found += [*CASCADE.find(connection), *OPEN_INDEX.find(connection)]
    if not any(finding.severity == "error" for finding in found):
        found += check_in_time(connection, QUARANTINE, lambda: check_write(connection))
    comparable = [table for table, names in PAIR.items() if _comparable(facts.get(table, {}), table, names)]
    if len(comparable) == len(PAIR):
        found += check_enforcement(connection, schema)
    respelt: list[Finding] = []
    for table in comparable:
        spelling = partial(check_spelling, connection, table, facts, catalog)
        respelt += check_in_time(connection, f"the spelling in {table}", spelling)
    if not thorough:
        return [*found, *respelt]
    for table in comparable:
        if facts[table]["current_level"].nullable:
            found += check_null_levels(connection, table)
    if not respelt and len(comparable) == len(PAIR):  # else half of a pair is found once it is renamed
        found += check_levels(connection, schema, catalog)
    return [*found, *respelt, *check_names(connection, comparable, catalog)]


def require_spelling(connection: Connection, catalog: Catalog, *, newest: int | None = None) -> None:
    """Raise SchemaError if rows are there that levelq would not find. Raises DBAPIError.

    `newest`: how many rows of a large table to look at; None: all.
    """
    found = misspelt(connection, catalog, newest=newest)
    if found:
        raise SchemaError(f"{'; '.join(map(str, found))}. `levelq db check` prints the statements that fix it")


def _comparable(facts: Facts, table: str, names: Iterable[str]) -> bool:
    """Whether the columns of a pair are there, of types that compare with the other table's."""
    needed = (*names, "current_level")
    return all(name in facts and facts[name].type in wanted(table, name).types for name in needed)


__all__ = [
    "Finding", "Severity", "check", "check_read_only", "pair_fixes", "require_spelling", "sequence_problems",
]  # fmt: skip
