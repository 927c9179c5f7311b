"""The relay's statements on the outbox table. Each is a transaction of its own, so no lock outlives it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from sqlalchemy import Engine, TextClause

from levelq_core.database import outbox_sql as outbox

PAGE = 5_000  # rows read at a time


class Row(NamedTuple):
    """An undecided command."""

    id: int
    user_id: int
    payload: bytes


class Marked(NamedTuple):
    """Rows that the transaction `xid` marked, in order of id. After `overdue_seconds` they are unconfirmed again."""

    xid: str
    rows: list[Row]
    overdue_seconds: int


class OutboxRows:
    """The outbox on one engine. Raises SQLAlchemy's DBAPIError."""

    def __init__(self, engine: Engine) -> None:
        # A mark is committed before anything is pushed, and no row is locked while the relay talks to Redis.
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")

    def _rows(self, statement: TextClause, **values: Any) -> list[Any]:
        with self._engine.connect() as connection:
            found = connection.execute(statement, values)
            return list(found) if found.returns_rows else []

    def unconfirmed_lanes(self, specialization: str, confirmed_xids: Collection[str]) -> dict[int, int]:
        """Users whose lanes may lack marked rows, the longest waiting first: how many marked rows each has."""
        values = {"specialization": specialization, "confirmed_xids": list(confirmed_xids)}
        return dict(map(tuple, self._rows(outbox.UNCONFIRMED, **values, most=PAGE)))

    def waiting(self, specialization: str, left_out: Collection[int]) -> Iterator[tuple[int, int]]:
        """(id, user) of rows never pushed, in order, without the lanes of the users that are left out."""
        after = 0
        while True:
            values = {"specialization": specialization, "after": after, "left_out": list(left_out)}
            page = self._rows(outbox.WAITING, **values, most=PAGE)
            yield from page
            if len(page) < PAGE:
                return
            after = page[-1][0]

    def mark(self, specialization: str, ids: Sequence[int], confirmed_xids: Collection[str]) -> Marked | None:
        """Mark rows for their first push, except in lanes with unconfirmed rows; None if none is left."""
        values = {"specialization": specialization, "ids": list(ids), "confirmed_xids": list(confirmed_xids)}
        return _marked(self._rows(outbox.MARK, **values))

    def mark_again(self, specialization: str, users: Sequence[int]) -> Marked | None:
        """Mark all marked rows of these lanes for another push; None if none is left."""
        return _marked(self._rows(outbox.MARK_AGAIN, specialization=specialization, users=list(users)))

    def unmark(self, rows: Sequence[Row]) -> None:
        """Remove one mark of rows that were not pushed."""
        self._rows(outbox.UNMARK, ids=[row.id for row in rows])

    def quarantine(self, row: Row, reason: str) -> None:
        """Move a row into the quarantine."""
        self._rows(outbox.QUARANTINE_ROW, id=row.id, reason=reason)

    def marked_lanes(self, specialization: str) -> Iterator[tuple[int, list[Row]]]:
        """All marked rows, a lane at a time, in order within each; read in pages."""
        for user_id, rows in groupby(self._marked(specialization), key=lambda row: row.user_id):
            yield user_id, list(rows)

    def _marked(self, specialization: str) -> Iterator[Row]:
        user_id, id_ = 0, 0
        while True:
            after = {"specialization": specialization, "user_id": user_id, "id": id_}
            page = self._rows(outbox.MARKED, **after, most=PAGE)
            for user_id, id_, payload in page:
                yield Row(id_, user_id, bytes(payload))
            if len(page) < PAGE:
                return

    def in_use(self, specialization: str) -> bool:
        """Whether commands of this specialization came through the lanes lately."""
        return bool(self._rows(outbox.IN_USE, specialization=specialization)[0][0])


def _marked(found: Sequence[Any]) -> Marked | None:
    if not found:
        return None
    rows = sorted(Row(id_, user_id, bytes(payload)) for id_, user_id, payload, _, _ in found)
    seconds = outbox.overdue_seconds(max(pushes for _, _, _, pushes, _ in found))
    return Marked(found[0][4], rows, seconds)
