"""Levels: pairs out of step and levels that are NULL, and how to put them right."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Decimal
from itertools import islice
from typing import Any

from sqlalchemy import Connection, text

from levelq_core.database import pair_trigger
from levelq_core.database.schema import LICENSES, PAIR, PROGRESS, Schema
from levelq_core.database.spelling import fold, folded
from levelq_core.domain import rules
from levelq_core.domain.catalog import Catalog
from levelq_core.domain.codec import record_of
from levelq_core.domain.commands import MAX_USER_ID, SyncLevels, build
from levelq_core.domain.record import SOURCES, Lane
from levelq_core.domain.rules import Limits
from levelq_core.errors import InvalidCommand
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
    pairs = [Pair(_whole(p.user_id), p.specialization, _whole(p[2]), _whole(p[3])) for p in pairs]
    limits = Limits() if schema.missing() else schema.limits
    respelt = _respelt(connection, pairs)
    gone = _without_user(connection, pairs, schema)
    return [_fix(pair, catalog, limits, respelt, gone) for pair in pairs]


def _whole(number: Any) -> Any:
    """A whole number of a numeric column as an integer."""
    return int(number) if isinstance(number, Decimal) and number == number.to_integral() else number


def _fix(
    pair: Pair, catalog: Catalog, limits: Limits, respelt: set[tuple[int, str]], gone: dict[tuple[str, int], str]
) -> str:
    user, name = pair.user_id, pair.specialization
    where = f"-- {name!r} of user {user}"
    if user is None or name is None:
        return f"{where}: levelq reads no row without a user or a specialization: fill it in, or delete the row"
    right = fold(name)
    if right in catalog and (right != name or (user, right) in respelt):
        return f"{where}: it has a row that is spelt otherwise; `levelq db check` prints what renames it"
    if name not in catalog:
        return f"{where}: not in the catalog, so levelq leaves it alone; `levelq db check` says what to do"
    missing = LICENSES if pair.license_level is None else PROGRESS if pair.progress_level is None else ""
    if (missing, user) in gone:
        return f"{where}: user {user} is not in {gone[missing, user]}, so no row can be made: delete the other row"
    higher = int((pair.license_level or 0) > (pair.progress_level or 0))
    refusals = []
    for source in (SOURCES[higher], SOURCES[1 - higher]):
        refusal = _refusal(pair, source, catalog, limits)
        if refusal is None:
            return f"levelq sync {user} {name} --source {source}"
        refusals.append(refusal)
    return f"{where}: levelq cannot copy either level ({refusals[0]}): fix the row by hand"


def _refusal(pair: Pair, source: str, catalog: Catalog, limits: Limits) -> str | None:
    """Why this sync would be rejected; None if it would be applied."""
    try:
        command = build(SyncLevels, user_id=pair.user_id, specialization=pair.specialization, source=source)
    except InvalidCommand as error:
        return str(error)
    refusal = rules.lane_refusal(Lane(command.specialization, command.user_id), catalog, limits)
    if refusal is not None:
        return refusal
    state = (pair.progress_level or 0, pair.license_level or 0, pair.license_level or 0, 0, 0, 0, 0, 0)
    decided = rules.decide(state, record_of(command), catalog[command.specialization], limits)
    return decided.message if decided.error else None


def _users(pairs: Sequence[Pair]) -> list[int]:
    """The users of these pairs, without what is no user id."""
    return [pair.user_id for pair in pairs if isinstance(pair.user_id, int) and 1 <= pair.user_id <= MAX_USER_ID]


def _respelt(connection: Connection, pairs: Sequence[Pair]) -> set[tuple[int, str]]:
    """The pairs without a row that have one in another spelling."""
    users = _users([pair for pair in pairs if None in pair[2:]])
    found: set[tuple[int, str]] = set()
    for table, (user, name) in PAIR.items() if users else ():
        statement = text(f"""
            SELECT DISTINCT {user}::bigint, {folded(name)} FROM {table}
            WHERE {user} = ANY(CAST(:users AS bigint[])) AND {name} <> {folded(name)}
        """)
        found.update((row[0], row[1]) for row in connection.execute(statement, {"users": users}))
    return found


def _without_user(connection: Connection, pairs: Sequence[Pair], schema: Schema) -> dict[tuple[str, int], str]:
    """Missing rows that a foreign key forbids, because the user does not exist: by table and user, the parent."""
    found: dict[tuple[str, int], str] = {}
    for table, level in ((PROGRESS, 2), (LICENSES, 3)):
        users = _users([pair for pair in pairs if pair[level] is None])
        for parent in schema.parents.get(table, ()) if users else ():
            statement = text(f"""
                SELECT k.id::bigint FROM unnest(CAST(:users AS bigint[])) AS k(id)
                WHERE NOT EXISTS (SELECT FROM {parent.table} u WHERE u.{parent.column} = k.id)
            """)
            for user in connection.execute(statement, {"users": users}).scalars():
                found[table, user] = parent.table
    return found
