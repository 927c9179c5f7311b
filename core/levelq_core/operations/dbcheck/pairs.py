"""How to put a pair of levels in step again: a `levelq sync` that will be applied, or why there is none."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from sqlalchemy import Connection, text

from levelq_core.database.schema import LICENSES, PROGRESS, Schema
from levelq_core.database.spelling import NAMES, fold, folded
from levelq_core.domain import rules
from levelq_core.domain.catalog import Catalog
from levelq_core.domain.codec import record_of
from levelq_core.domain.commands import MAX_USER_ID, SyncLevels, build
from levelq_core.domain.record import SOURCES, Lane
from levelq_core.domain.rules import Limits
from levelq_core.errors import InvalidCommand
from levelq_core.operations.queries import Pair

_RENAMES = "`levelq db check` prints what renames it"


def pair_fixes(connection: Connection, pairs: Sequence[Pair], schema: Schema, catalog: Catalog) -> list[str]:
    """For each pair: the `levelq sync` that mends it, or a comment (beginning with --) that says why there is none.

    A command is printed only if the rules would apply it. Raises DBAPIError.
    """
    pairs = [_whole(pair) for pair in pairs]
    limits = Limits() if schema.missing() else schema.limits
    respelt = _respelt(connection, pairs)
    gone = _without_user(connection, pairs, schema)
    return [_fix(pair, catalog, limits, respelt, gone) for pair in pairs]


def _whole(pair: Pair) -> Pair:
    """Numbers of numeric columns as integers, where they are whole."""

    def whole(number: Any) -> Any:
        return int(number) if isinstance(number, Decimal) and number == number.to_integral() else number

    return Pair(whole(pair.user_id), pair.specialization, whole(pair.progress_level), whole(pair.license_level))


def _fix(
    pair: Pair, catalog: Catalog, limits: Limits, respelt: set[tuple[int, str]], gone: dict[tuple[str, int], str]
) -> str:
    user, name = pair.user_id, pair.specialization
    where = f"-- {name!r} of user {user}"
    if user is None or name is None:
        return f"{where}: levelq reads no row without a user or a specialization: fill it in, or delete the row"
    right = fold(name)
    if right in catalog and (right != name or (user, right) in respelt):
        return f"{where}: it has a row that is spelt otherwise; {_RENAMES}"
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


def _is_id(user: object) -> bool:
    return isinstance(user, int) and 1 <= user <= MAX_USER_ID


def _respelt(connection: Connection, pairs: Sequence[Pair]) -> set[tuple[int, str]]:
    """The pairs without a row that have one in another spelling."""
    users = {pair.user_id for pair in pairs if None in pair[2:] and _is_id(pair.user_id)}
    found: set[tuple[int, str]] = set()
    for table, (user, name) in NAMES.items() if users else ():
        statement = text(f"""
            SELECT DISTINCT {user}::bigint, {folded(name)} FROM {table}
            WHERE {user} = ANY(CAST(:users AS bigint[])) AND {name} <> {folded(name)}
        """)
        found.update((row[0], row[1]) for row in connection.execute(statement, {"users": list(users)}))
    return found


def _without_user(connection: Connection, pairs: Sequence[Pair], schema: Schema) -> dict[tuple[str, int], str]:
    """Missing rows that a foreign key forbids, because the user does not exist: by table and user, the parent."""
    found: dict[tuple[str, int], str] = {}
    for table, lacks in ((PROGRESS, "progress_level"), (LICENSES, "license_level")):
        users = [p.user_id for p in pairs if getattr(p, lacks) is None and _is_id(p.user_id)]
        for parent in schema.parents.get(table, ()) if users else ():
            statement = text(f"""
                SELECT k.id::bigint FROM unnest(CAST(:users AS bigint[])) AS k(id)
                WHERE NOT EXISTS (SELECT FROM {parent.table} u WHERE u.{parent.column} = k.id)
            """)
            absent = connection.execute(statement, {"users": users}).scalars()
            found.update({(table, user): parent.table for user in absent})
    return found
