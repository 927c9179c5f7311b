"""Levels: pairs out of step and levels that are NULL, and how to put them right."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

from sqlalchemy import Connection, text

from levelq_core.database import pair_trigger
from levelq_core.database.schema import Schema
from levelq_core.domain.catalog import Catalog
from levelq_core.operations.drift.repairs import repairs
from levelq_core.operations.queries import Pair, out_of_step

from .duplicates import SHOWN
from .finding import Finding, counted


def check_null_levels(connection: Connection, table: str) -> Iterator[Finding]:
    """Yield the rows of progress or licenses whose level is NULL, which levelq counts as 1, as one finding."""
    number = connection.execute(text(f"SELECT count(*) FROM {table} WHERE current_level IS NULL")).scalar_one()
    if number:
        where = f"{table}.current_level is NULL in {counted(number, 'row')}"
        fix = f"UPDATE {table} SET current_level = 1 WHERE current_level IS NULL;"
        yield Finding("warning", f"{where}: counted as 1 until a level-up, yet out of step with a 1", (fix,))


def check_levels(connection: Connection, schema: Schema, catalog: Catalog) -> Iterator[Finding]:
    """Yield the pairs out of step, if any, as one finding."""
    found = out_of_step(connection)
    first = list(islice(found, SHOWN))
    if first:
        number = len(first) + sum(1 for _ in found)
        examples = ", ".join(
            f"{p.user_id} {p.specialization} ({_level(p.progress_level)}, {_level(p.license_level)})" for p in first
        )
        rest, more = (", ...", ("levelq check",)) if number > SHOWN else ("", ())
        problem = f"levels out of step (progress, license) in {counted(number, 'pair')}: {examples}{rest}"
        yield Finding("warning", problem, (*dict.fromkeys(pair_fixes(connection, first, schema, catalog)), *more))


def check_enforcement(connection: Connection, schema: Schema) -> Iterator[Finding]:
    """Yield a warning if the triggers of `levelq db enforce` are there, but not in force on both tables."""
    found = pair_trigger.installed(connection, schema)
    states = {table: found.state(table) for table in pair_trigger.COUPLED}
    if set(states.values()) not in ({"on"}, {"off"}):
        where = ", ".join(f"{state} on {table}" for table, state in states.items())
        yield Finding("warning", f"{pair_trigger.NAME}: {where}: levels can drift apart", ("levelq db enforce",))


def _level(level: int | None) -> str:
    return "none" if level is None else str(level)


def pair_fixes(connection: Connection, pairs: Sequence[Pair], schema: Schema, catalog: Catalog) -> list[str]:
    """For each pair: the `levelq sync` that fixes it, or a comment (beginning with --) why there is none.

    A command is printed only if the rules would apply it. Raises DBAPIError.
    """
    fixes = []
    for pair, (command, obstacle, _) in zip(pairs, repairs(connection, pairs, schema, catalog), strict=True):
        fix = f"-- {pair.specialization!r} of user {pair.user_id}: {obstacle}"
        if command is not None:
            fix = f"levelq sync {command.user_id} {command.specialization} --source {command.source}"
        fixes.append(fix)
    return fixes
