"""Rows that operators list, the newest first: rejected commands, quarantined entries, lines of the audit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

from sqlalchemy import Connection, Engine, text

from levelq_core.operations.connections import require_engine

MOST_SEARCHED = 5_000  # rows that one page looks at: some 20 ms where they are in memory

Named = Mapping[str, tuple[str, Any]]  # by the name of its value: a condition, and the value
Wanted = TypeVar("Wanted")
Row = TypeVar("Row")


class Conditions(NamedTuple):
    """`by_index`: those that an index answers; `others`: those that are looked for row by row; `values`: of both."""

    by_index: list[str]
    others: list[str]
    values: dict[str, Any]

    @classmethod
    def of(cls, by_index: Named, others: Named) -> Conditions:
        """Those whose value is not None."""
        given = [{name: one for name, one in part.items() if one[1] is not None} for part in (by_index, others)]
        texts = [[condition for condition, _ in part.values()] for part in given]
        return cls(texts[0], texts[1], {name: value for part in given for name, (_, value) in part.items()})


class RowPage(NamedTuple, Generic[Row]):
    """One page. `before`: for the next one; None if there is none. It may be there although few rows or none fit."""

    rows: tuple[Row, ...]
    before: int | None = None


@dataclass(frozen=True)
class RowList(Generic[Wanted, Row]):
    """What can be listed of one table. Its methods raise SQLAlchemy's errors, and change nothing.

    `conditions`: those of the rows that are wanted, and whose ids are below a number, if one is given. `records`: makes
    the records. `before`, of the methods: for the next page, the `id` of the last row of this page.
    """

    table: str
    columns: str
    conditions: Callable[[Connection, Wanted, int | None], Conditions]
    records: Callable[[Connection, Sequence[Any]], list[Row]]

    def newest(self, engine: Engine, wanted: Wanted, *, limit: int = 50, before: int | None = None) -> tuple[Row, ...]:
        """The newest `limit` rows: what the command line prints."""
        require_engine(engine)
        with engine.connect() as connection:
            return tuple(self.read(connection, wanted, limit, before=before))

    def page(self, engine: Engine, wanted: Wanted, *, limit: int = 50, before: int | None = None) -> RowPage[Row]:
        """The same for a page of a console, which must be there soon.

        It looks at the newest 5,000 only of the rows that the conditions of `by_index` leave. `before`: that of the
        page before.
        """
        require_engine(engine)
        with engine.connect() as connection:
            by_index, others, values = self.conditions(connection, wanted, before)
            values |= {"searched": MOST_SEARCHED, "limit": limit}
            searched = f"FROM {self.table} WHERE {_all(by_index)} ORDER BY id DESC LIMIT :searched"
            statement = f"SELECT {self.columns} FROM (SELECT * {searched}) AS searched WHERE {_all(others)}"
            found = connection.execute(text(f"{statement} ORDER BY id DESC LIMIT :limit"), values).mappings().all()
            rows = tuple(self.records(connection, found))
            if len(rows) == limit:
                return RowPage(rows, int(found[-1]["id"]))
            statement = f"SELECT min(id), count(*) FROM (SELECT id {searched}) AS searched"
            lowest, number = connection.execute(text(statement), values).one()
            return RowPage(rows, int(lowest) if number == MOST_SEARCHED else None)

    def read(
        self,
        connection: Connection,
        wanted: Wanted,
        limit: int,
        *,
        before: int | None = None,
        oldest_first: bool = False,
    ) -> list[Row]:
        """Those of `newest` on a connection; `oldest_first`: in the order of their ids, the first `limit`."""
        by_index, others, values = self.conditions(connection, wanted, before)
        order = "ASC" if oldest_first else "DESC"
        where = _all(by_index + others)
        statement = text(f"SELECT {self.columns} FROM {self.table} WHERE {where} ORDER BY id {order} LIMIT :limit")
        return self.records(connection, connection.execute(statement, values | {"limit": limit}).mappings().all())


def _all(conditions: Sequence[str]) -> str:
    return " AND ".join(conditions or ["true"])
