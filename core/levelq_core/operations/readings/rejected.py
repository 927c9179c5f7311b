"""Rejected commands: what each held, why it was rejected, and what became of it since."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal
from uuid import UUID

from pydantic import Field
from sqlalchemy import Connection, Engine, text

from levelq_core.coupler.ledger import COMMAND_COLUMNS, record_in
from levelq_core.database.table_names import LEDGER, OPEN_REJECTION
from levelq_core.domain.codec import command_of
from levelq_core.domain.commands import Command, retry_id
from levelq_core.domain.record import Lane
from levelq_core.operations.connections import require_engine

from .records import Reading, Time
from .selection import Search, Selection

ALL = Selection()


class Retry(Reading):
    """The command that retries another one. `undecided`: it waits in its lane, or Redis lost it."""

    command_id: UUID
    status: Literal["applied", "rejected", "undecided"]
    message: str = ""


class RejectedCommand(Reading):
    """One rejected command. `id` is that of its ledger row; user 0: it was forgotten.

    The numbers are those of the command, `level` and `mode` as in the ledger. `settled`: `retried` or `discarded`, None
    while it is open. `retry` is None if no retry of it is known.
    """

    id: int
    command_id: UUID
    user_id: int
    specialization: str
    kind: str
    error: str
    message: str
    at: Time
    xp: int
    sessions: int
    projects: int
    theory_hours: int
    practice_hours: int
    level: int | None
    mode: str | None
    reason: str
    advanced_by: int | None
    source: str
    settled: str | None
    retry: Retry | None = None
    digest: bytes = Field(exclude=True, repr=False)

    @property
    def lane(self) -> Lane:
        """The lane it belongs to."""
        return Lane(self.specialization, self.user_id)

    @property
    def retry_id(self) -> UUID:
        """The id of its retry."""
        return retry_id(self.command_id)

    def facts(self) -> Iterator[tuple[str, Any]]:
        """What is known of it, each with a label; None, 0 and "" where there is nothing to say."""
        yield "command", self.command_id
        yield "kind", " ".join(filter(None, (self.kind, self.mode)))
        for name in ("level", "xp", "sessions", "projects", "theory_hours", "practice_hours"):
            yield name.replace("_", " "), getattr(self, name)
        yield "author", self.advanced_by
        yield "reason", self.reason
        yield "why", f"{self.error}: {self.message}"
        yield "from", self.source
        yield "settled", self.settled
        if self.retry is not None:
            yield "retried as", f"{self.retry.command_id}: {self.retry.status} {self.retry.message}"

    def retried(self) -> Command:
        """A new command of the same content. Raises InvalidCommand for what this version no longer allows."""
        return command_of(self.lane, record_in(self), self.retry_id)


class RejectedPage(Reading):
    """One page. `before`: for the next one; None if there is none. It may be there although few rows or none fit."""

    rows: tuple[RejectedCommand, ...]
    before: int | None = None


def rejected(
    engine: Engine, selection: Selection = ALL, *, limit: int = 50, before: int | None = None
) -> tuple[RejectedCommand, ...]:
    """Rejected commands, the newest first: what `levelq rejected list` prints. Changes nothing.

    `before`: for the next page, the `id` of the last one of this page. Raises SQLAlchemy's errors.
    """
    require_engine(engine)
    with engine.connect() as connection:
        return tuple(read(connection, selection, limit, before=before))


def rejected_page(
    engine: Engine, selection: Selection = ALL, *, limit: int = 50, before: int | None = None
) -> RejectedPage:
    """The same for a page of a console, which must be there soon: it looks at the newest 5,000 rejections only.

    Of a user, at their newest 5,000 rows of the ledger. `before`: that of the page before. Raises SQLAlchemy's errors.
    """
    require_engine(engine)
    with engine.connect() as connection:
        if selection.ids:
            return RejectedPage(rows=tuple(read(connection, selection, limit, before=before)))
        by_index, others, values = selection.divided(connection, LEDGER, "applied_at", "message")
        # The rejections are few among the rows of all users, and have an index; among those of one user they have none.
        (by_index if selection.user_id is None else others).append(_status(selection))
        if before is not None:
            by_index.append("id < :before")
            values["before"] = before
        search = Search(LEDGER, by_index, others, values)
        rows = search.rows(connection, _COLUMNS, limit)
        return RejectedPage(rows=tuple(_with_retries(connection, rows)), before=search.before(connection, rows, limit))


def read(
    connection: Connection, selection: Selection, limit: int, *, before: int | None = None, oldest_first: bool = False
) -> list[RejectedCommand]:
    """The same on a connection; `oldest_first`: in the ledger's order, the first `limit`."""
    conditions, values = selection.conditions(connection, LEDGER, "applied_at", "message")
    if selection.ids:
        conditions += ["command_id = ANY(CAST(:ids AS uuid[]))", "status = 'rejected'"]
    else:
        conditions.append(_status(selection))
    if before is not None:
        conditions.append("id < :before")
    order = "ASC" if oldest_first else "DESC"
    where = " AND ".join(conditions)
    statement = text(f"SELECT {_COLUMNS} FROM {LEDGER} WHERE {where} ORDER BY id {order} LIMIT :limit")
    given = {**values, "ids": list(selection.ids), "before": before, "limit": limit}
    rows = connection.execute(statement, given).mappings().all()
    return _with_retries(connection, rows)


def _status(selection: Selection) -> str:
    return "status = 'rejected'" if selection.settled or selection.error == "cancelled" else OPEN_REJECTION


def _with_retries(connection: Connection, rows: Sequence[Any]) -> list[RejectedCommand]:
    retries = retries_of(connection, [row["command_id"] for row in rows])
    return [_rejected(row, retries.get(row["command_id"])) for row in rows]


def retries_of(connection: Connection, command_ids: Iterable[UUID]) -> dict[UUID, Retry]:
    """The retries of these commands that are decided, by the id of the command that each retries."""
    originals = {retry_id(command_id): command_id for command_id in command_ids}
    rows = connection.execute(_DECIDED, {"ids": list(originals)})
    return {
        originals[row.command_id]: Retry(command_id=row.command_id, status=row.status, message=row.message)
        for row in rows
    }


def settle(connection: Connection, ids: Sequence[int], how: Literal["retried", "discarded"]) -> set[int]:
    """Note in these ledger rows what an operator did; returns their ids. None is discarded that was settled before.

    Raises DBAPIError.
    """
    return set(connection.execute(_SETTLE, {"ids": list(ids), "how": how}).scalars())


def _rejected(row: Any, retry: Retry | None) -> RejectedCommand:
    if retry is None and row["settled"] == "retried":
        retry = Retry(command_id=retry_id(row["command_id"]), status="undecided")
    return RejectedCommand.model_validate({**row, "retry": retry})


_COLUMNS = f"""
    id, command_id, user_id, specialization, error, coalesce(message, '') AS message, applied_at AS at, digest,
           source, settled, {COMMAND_COLUMNS.replace(" reason", " coalesce(reason, '') AS reason")}
"""

_DECIDED = text(f"""
    SELECT command_id, status, coalesce(message, '') AS message FROM {LEDGER}
    WHERE command_id = ANY(CAST(:ids AS uuid[]))
""")

_SETTLE = text(f"""
    UPDATE {LEDGER} SET settled = :how
    WHERE id = ANY(CAST(:ids AS bigint[])) AND (settled IS NULL OR :how = 'retried')
    RETURNING id
""")
