"""The columns of one table: there, of a suitable type, and such that levelq's inserts succeed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from sqlalchemy import Connection, text

from levelq_core.database.column_spec import NULLS, fault_of, wanted
from levelq_core.database.row_times import is_written
from levelq_core.database.schema import PAIR, REQUIRED, UNIQUE_KEYS, Column
from levelq_core.domain.catalog import Catalog

from .finding import Finding
from .retyping import retyped, unhindered
from .sequences import check_row_numbers

MET_LENGTH = 200  # the totals of a progression as JSON, every one of them of 19 digits

Facts = Mapping[str, Column]


def check_columns(connection: Connection, table: str, facts: Facts, catalog: Catalog) -> Iterator[Finding]:
    """Yield what is wrong with a table's columns."""
    for name in REQUIRED[table]:
        fact = facts.get(name)
        if fact is None:
            yield Finding("error", f"{table} has no column {name}", _added(table, name, facts))
        elif (problem := fault_of(table, name, fact)) is not None:
            yield Finding("error", problem, retyped(connection, table, name, fact))
        elif name == "id":
            yield from check_row_numbers(connection, table, fact)
        elif fact.length is not None:
            yield from _check_length(connection, table, name, fact.length, catalog)
    for name, fact in facts.items():
        if not fact.nullable:
            yield from _check_not_null(connection, table, name, fact)


def _added(table: str, name: str, facts: Facts) -> tuple[str, ...]:
    """The statement that adds a column. For a column with the owner of a row, the application must rename its own."""
    if name in (*UNIQUE_KEYS.get(table, ()), "user_license_id"):
        return (
            f"-- levelq does not know which column holds it. Give it this name, there and in your model: "
            f"ALTER TABLE {table} RENAME COLUMN <yours> TO {name};",
        )
    added = f"ALTER TABLE {table} ADD COLUMN {name} {wanted(table, name).declared};"
    if name == "max_achieved_level" and "current_level" in facts:
        return (added, f"UPDATE {table} SET {name} = current_level WHERE current_level > {name};")
    return (added,)


def _check_length(connection: Connection, table: str, name: str, length: int, catalog: Catalog) -> Iterator[Finding]:
    longest = max(catalog, key=len)
    where = f"{table}.{name} holds {length} characters"
    fix = f"ALTER TABLE {table} ALTER COLUMN {name} TYPE text;"
    if name in PAIR.get(table, ()) and length < len(longest):
        problem = f"{where}: commands for {longest} are rejected"
        yield Finding("warning", problem, unhindered(connection, table, name, fix, keys=False))
    if name == "requirements_met" and length < MET_LENGTH:
        problem = f"{where}: level-ups whose totals need more are rejected"
        yield Finding("error", problem, unhindered(connection, table, name, fix, keys=False))


def _check_not_null(connection: Connection, table: str, name: str, fact: Column) -> Iterator[Finding]:
    """Yield a finding for a NOT NULL column that levelq has no value for."""
    if name in NULLS.get(table, ()):
        fix = f"ALTER TABLE {table} ALTER COLUMN {name} DROP NOT NULL;"
        if fact.domain is not None:
            fix = f"-- {table}.{name}: its domain {fact.domain} forbids NULL: give the column another type"
        yield Finding("error", f"{table}.{name} is NOT NULL: levelq writes NULL where nothing is known", (fix,))
    elif name not in REQUIRED[table] and not fact.auto_value and not is_written(table, name, fact):
        problem = f"{table}.{name} is NOT NULL without a default, and levelq gives it no value: inserts fail"
        quoted, has_trigger = connection.execute(_NAME_AND_TRIGGER, {"name": name, "table": table}).one()
        # A template, not a statement: a guessed value could make a licence that is dead or costs nothing.
        template = (
            f"-- levelq does not know what {name} must hold in a row that it makes: take the default of your model, "
            "as in",
            "-- Column(default=...) or mapped_column(default=...) in SQLAlchemy, default=... of a Django field. "
            "Then run:",
            f"-- ALTER TABLE {table} ALTER COLUMN {quoted} SET DEFAULT <the default of your model>;",
        )
        if has_trigger:
            yield Finding("warning", f"{problem}, unless your trigger fills it", template)
        else:
            yield Finding("error", problem, template)


# A name as SQL needs it, and whether a trigger changes rows before they are inserted. Bits of tgtype: 1 for each row,
# 2 BEFORE, 4 INSERT.
_NAME_AND_TRIGGER = text("""
    SELECT quote_ident(:name), EXISTS (
        SELECT FROM pg_trigger WHERE tgrelid = to_regclass(:table) AND NOT tgisinternal AND tgenabled <> 'D'
            AND tgtype & 7 = 7)
""")
