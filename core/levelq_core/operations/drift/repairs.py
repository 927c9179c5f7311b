"""How a pair out of step is repaired: which side is copied, or why none can be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from sqlalchemy import Connection, text

from levelq_core.database.schema import LICENSES, PAIR, PROGRESS, Schema
from levelq_core.database.spelling import fold, folded
from levelq_core.domain import rules
from levelq_core.domain.catalog import Catalog
from levelq_core.domain.codec import record_of
from levelq_core.domain.commands import MAX_USER_ID, SyncLevels, build
from levelq_core.domain.record import SOURCES, Lane
from levelq_core.domain.rules import Limits
from levelq_core.errors import InvalidCommand
from levelq_core.operations.queries import Pair

Policy = Literal["progress", "license", "higher"]
Kind = Literal["", "unnamed", "misspelt", "unknown_name", "no_user", "no_level"]


class Repair(NamedTuple):
    """The command that repairs a pair. Without one, `obstacle` is the reason, and `kind` its kind."""

    command: SyncLevels | None
    obstacle: str = ""
    kind: Kind = ""

    @property
    def is_unknown(self) -> bool:
        """Whether the name is not in the catalog, or spelt otherwise: levelq does not see such a row."""
        return self.kind in ("unnamed", "misspelt", "unknown_name")


def repairs(
    connection: Connection,
    pairs: Sequence[Pair],
    schema: Schema,
    catalog: Catalog,
    policy: Policy | None = None,
    *,
    reason: str = "",
    spelling: bool = True,
) -> list[Repair]:
    """For each pair the command that the rules would apply, or why there is none.

    `progress` and `license` copy that side: a pair without it cannot be repaired. `higher` copies the higher level, and
    makes a missing row from the one that is there; None copies the lower where the higher cannot be. `reason` goes into
    the commands. `spelling`: look for rows that are spelt otherwise. Raises DBAPIError.
    """
    limits = Limits() if schema.missing(keys=False) else schema.limits
    respelt = _respelt(connection, pairs) if spelling else set()
    gone = _without_user(connection, pairs, schema)
    return [_repair(pair, catalog, limits, _obstacle(pair, catalog, respelt, gone), policy, reason) for pair in pairs]


def _obstacle(
    pair: Pair, catalog: Catalog, respelt: set[tuple[int, str]], gone: Mapping[tuple[str, int], str]
) -> Repair | None:
    """Why no command can repair it, whichever side is copied."""
    user, name = pair.user_id, pair.specialization
    if user is None or name is None:
        why = "levelq reads no row without a user or a specialization: fill it in, or delete the row"
        return Repair(None, why, "unnamed")
    right = fold(name)
    if right in catalog and (right != name or (user, right) in respelt):
        why = "it has a row that is spelt otherwise; `levelq db check` prints what renames it"
        return Repair(None, why, "misspelt")
    if name not in catalog:
        why = "not in the catalog, so levelq leaves it alone; `levelq db check` says what to do"
        return Repair(None, why, "unknown_name")
    missing = LICENSES if pair.license_level is None else PROGRESS if pair.progress_level is None else ""
    if (missing, user) in gone:
        why = f"user {user} is not in {gone[missing, user]}, so no row can be made: delete the other row"
        return Repair(None, why, "no_user")
    return None


def _repair(
    pair: Pair, catalog: Catalog, limits: Limits, obstacle: Repair | None, policy: Policy | None, reason: str
) -> Repair:
    if obstacle is not None:
        return obstacle
    higher = int((pair.license_level or 0) > (pair.progress_level or 0))
    both = (SOURCES[higher], SOURCES[1 - higher])
    refusals = []
    for source in both if policy is None else both[:1] if policy == "higher" else (policy,):
        command, refusal = _command(pair, source, catalog, limits, reason)
        if refusal is None:
            return Repair(command)
        refusals.append(refusal)
    what = "either level" if policy is None else "that level" if policy == "higher" else f"the {policy}'s level"
    return Repair(None, f"levelq cannot copy {what} ({refusals[0]}): fix the row by hand", "no_level")


def _command(
    pair: Pair, source: str, catalog: Catalog, limits: Limits, reason: str
) -> tuple[SyncLevels | None, str | None]:
    """The command, and why it would be rejected; None if it would be applied."""
    name = pair.specialization
    try:
        command = build(SyncLevels, user_id=pair.user_id, specialization=name, source=source, reason=reason)
    except InvalidCommand as error:
        return None, str(error)
    refusal = rules.lane_refusal(Lane(command.specialization, command.user_id), catalog, limits)
    if refusal is not None:
        return command, refusal
    state = (pair.progress_level or 0, pair.license_level or 0, pair.license_level or 0, 0, 0, 0, 0, 0)
    decided = rules.decide(state, record_of(command), catalog[command.specialization], limits)
    return command, decided.message if decided.error else None


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
