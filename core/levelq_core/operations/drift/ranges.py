"""Compare the two tables in ranges of users: one short statement for each, never a long snapshot or a sort of all rows.

A statement sees one committed snapshot. So a pair is not found only because an application's transaction is between
its two writes.
"""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import Connection, TextClause, text

from levelq_core.database.schema import LICENSES, PAIR, PROGRESS, Schema
from levelq_core.database.spelling import folded
from levelq_core.operations.queries import Pair

SIZE = 5_000  # pairs in one range: some 15 ms of the server's time
FIRST = -(2**63)


class Position(NamedTuple):
    """Behind which user a range begins; and the specialization, where ranges are by name, too."""

    after: int = FIRST
    name: str | None = None


START = Position()


class Range(NamedTuple):
    """How many pairs were compared, those out of step by user, and where the next range begins; None at the end."""

    pairs: int
    differing: list[Pair]
    next: Position | None


class PairRanges:
    """The ranges of one database, read from indexes that begin with the user, else with the specialization.

    Without either, as before the unique constraints are made, all is one range. `merged`: compare what there will be
    once misspelt names are folded and several rows of a pair merged. A level that is NULL counts as 1.
    """

    def __init__(self, schema: Schema, *, merged: bool = False) -> None:
        self._compare = _comparison(merged)
        led = [[(table, column) in schema.leading for column in columns] for table, columns in PAIR.items()]
        self._by_name = not all(by_user for by_user, _ in led)
        self._whole = not all(map(any, led)) or (merged and self._by_name)  # of one pair, names may differ
        self._names: list[str] | None = None

    def read(self, connection: Connection, position: Position = START, size: int = SIZE) -> Range:
        """Compare the next `size` pairs, and those of the last user among them. Raises DBAPIError."""
        if self._whole:
            return self._read(connection, position, None)
        if self._by_name:
            names = self._all_names(connection)
            name = next((name for name in names if name >= (position.name or "")), None)
            if name is None:
                return Range(0, [], None)
            position = Position(position.after if name == position.name else FIRST, name)
        values = {"after": position.after, "name": position.name, "size": size}
        upto = connection.execute(_BOUND[position.name is not None], values).scalar_one()
        found = self._read(connection, position, upto)
        if upto is not None:
            return found._replace(next=Position(int(upto), position.name))
        if self._by_name:
            following = next((name for name in names if name > (position.name or "")), None)
            return found if following is None else found._replace(next=Position(FIRST, following))
        return found

    def _read(self, connection: Connection, position: Position, upto: int | None) -> Range:
        values = {"after": position.after, "upto": upto, "name": position.name}
        statement = self._compare[(upto is not None, position.name is not None)]
        pairs, *columns = connection.execute(statement, values).one()
        differing = [Pair.read(row) for row in zip(*columns, strict=True)] if columns[0] else []
        return Range(pairs, sorted(differing, key=lambda pair: pair[:2]), None)

    def _all_names(self, connection: Connection) -> list[str]:
        if self._names is None:
            self._names = sorted(set(connection.execute(_NAMES).scalars()))
        return self._names


def _condition(user: str, name: str, *, bounded: bool, named: bool) -> str:
    parts = [
        f"{user} > CAST(:after AS bigint)",
        f"{user} <= CAST(:upto AS bigint)" * bounded,
        f"{name} = :name" * named,
    ]
    return " AND ".join(filter(None, parts))


def _comparison(merged: bool) -> dict[tuple[bool, bool], TextClause]:
    """By whether a range has an end, and whether it is of one specialization: how many pairs, and those that differ."""

    def side(table: str, *, bounded: bool, named: bool) -> str:
        user, name = PAIR[table]
        where = _condition(user, name, bounded=bounded, named=named)
        spelt, level = f'{name} COLLATE "C"', "coalesce(current_level, 1)"
        if merged:
            return (
                f"SELECT {user} AS u, {folded(name)} AS s, max({level}) AS n FROM {table} WHERE {where} GROUP BY 1, 2"
            )
        return f"SELECT {user} AS u, {spelt} AS s, {level} AS n FROM {table} WHERE {where}"

    found = ", ".join(f"array_agg({column}) FILTER (WHERE differs)" for column in ("u", "s", "p", "l"))
    return {
        (bounded, named): text(f"""
            SELECT count(*), {found}
            FROM (SELECT coalesce(p.u, l.u) AS u, coalesce(p.s, l.s) AS s, p.n AS p, l.n AS l,
                         p.n IS DISTINCT FROM l.n AS differs
                  FROM ({side(PROGRESS, bounded=bounded, named=named)}) p
                  FULL JOIN ({side(LICENSES, bounded=bounded, named=named)}) l ON l.u = p.u AND l.s = p.s) AS pairs
        """)
        for bounded in (True, False)
        for named in (True, False)
    }


def _bound(named: bool) -> TextClause:
    """The last user of a range: none has more than `size` rows of a table, beside those of its last user."""
    ends = (
        f"(SELECT {user} FROM {table} WHERE {_condition(user, name, bounded=False, named=named)} "
        f"ORDER BY {user} OFFSET :size - 1 LIMIT 1)"
        for table, (user, name) in PAIR.items()
    )
    return text(f"SELECT least({', '.join(ends)})")


_BOUND = {named: _bound(named) for named in (True, False)}

# Each name once, by a search of the index for each.
_NAMES = text(
    " UNION ".join(
        f"""(WITH RECURSIVE names AS (
            SELECT min({name}) AS name FROM {table}
            UNION ALL
            SELECT (SELECT min({name}) FROM {table} WHERE {name} > names.name) FROM names WHERE name IS NOT NULL
        ) SELECT name::text FROM names WHERE name IS NOT NULL)"""
        for table, (_, name) in PAIR.items()
    )
)
