"""Whether a command would be rejected again: the pure rules on the rows as they are now. Nothing is locked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from sqlalchemy import Connection, text

from levelq_core.database.schema import LICENSES, PROGRESS, Schema, schema_of
from levelq_core.database.table_names import TOTALS
from levelq_core.domain import rules
from levelq_core.domain.codec import encoded
from levelq_core.domain.commands import Command
from levelq_core.domain.record import Lane, lane_of
from levelq_core.domain.rules import NOTHING, State
from levelq_core.settings import Settings


class Prospect(NamedTuple):
    """Why a command would be rejected; `never`: whatever the rows hold, so it is not sent at all."""

    why: str
    never: bool


def prospects(connection: Connection, settings: Settings, commands: Sequence[Command]) -> list[Prospect | None]:
    """For each command, after those before it: why it would be rejected; None if the rules accept it.

    What only the database knows, its constraints and triggers, is not tried. Raises SchemaError, DBAPIError.
    """
    schema, catalog = schema_of(connection), settings.tracks
    states = _states(connection, schema, {lane_of(command) for command in commands})
    missing = _missing_users(connection, schema, states)
    found: list[Prospect | None] = []
    for command in commands:
        lane = lane_of(command)
        payload, record = encoded(lane, command)
        never = rules.lane_refusal(lane, catalog, schema.limits)
        never = never or rules.forbidden(record, catalog[lane.specialization], schema.limits)
        if never is None and len(payload) > settings.payload_limit:
            never = f"command: expected at most {settings.payload_limit} bytes, got {len(payload)}"
        if never is not None:
            found.append(Prospect(never, never=True))
        elif lane.user_id in missing:
            found.append(Prospect(f"user {lane.user_id} is not in {missing[lane.user_id]}", never=False))
        else:
            decision = rules.decide(states.get(lane, NOTHING), record, catalog[lane.specialization], schema.limits)
            found.append(None if decision.error is None else Prospect(decision.message, never=False))
            if decision.after is not None:
                states[lane] = decision.after
    return found


def _states(connection: Connection, schema: Schema, lanes: Iterable[Lane]) -> dict[Lane, State]:
    columns = schema.columns[PROGRESS]
    totals = ", ".join(columns[name].total(f"p.{name}") for name in TOTALS)
    wanted = list(lanes)
    rows = connection.execute(
        text(_STATES.format(totals=totals)),
        {"users": [lane.user_id for lane in wanted], "names": [lane.specialization for lane in wanted]},
    )
    return {Lane(name, user_id): (*levels_and_totals,) for user_id, name, *levels_and_totals in rows}


def _missing_users(connection: Connection, schema: Schema, states: dict[Lane, State]) -> dict[int, str]:
    """The users that the application's own table lacks, though a row that refers to it would be made."""
    missing: dict[int, str] = {}
    for table, position in ((PROGRESS, 0), (LICENSES, 1)):
        users = {lane.user_id for lane, state in states.items() if not state[position]}
        for parent in schema.parents.get(table, ()) if users else ():
            column, given = parent.column, "ANY(CAST(:ids AS bigint[]))"
            query = text(f"SELECT {column}::bigint FROM {parent.table} WHERE {column} = {given}")
            there = set(connection.execute(query, {"ids": list(users)}).scalars())
            missing |= dict.fromkeys(users - there, parent.table)
    return missing


# Both rows of each lane, in the order of a state; a level of 0: there is no such row.
_STATES = f"""
    SELECT k.user_id, k.name,
           CASE WHEN p.student_id IS NULL THEN 0 ELSE coalesce(p.current_level, 1)::bigint END,
           CASE WHEN l.user_id IS NULL THEN 0 ELSE coalesce(l.current_level, 1)::bigint END,
           CASE WHEN l.user_id IS NULL THEN 0 ELSE coalesce(l.max_achieved_level, l.current_level, 1)::bigint END,
           {{totals}}
    FROM unnest(CAST(:users AS bigint[]), CAST(:names AS text[])) AS k(user_id, name)
    LEFT JOIN {PROGRESS} p ON p.student_id = k.user_id AND p.specialization_id = k.name
    LEFT JOIN {LICENSES} l ON l.user_id = k.user_id AND l.specialization_type = k.name
"""
