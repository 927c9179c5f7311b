"""Rejected commands: what each held, why it was rejected, and what became of it since."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal
from uuid import UUID

from pydantic import Field
from sqlalchemy import Connection, text

from levelq_core.coupler.ledger import COMMAND_COLUMNS, record_in
from levelq_core.database.table_names import LEDGER, OPEN_REJECTION
from levelq_core.domain.codec import command_of
from levelq_core.domain.commands import Command, retry_id
from levelq_core.domain.record import Lane

from .records import Reading, Time
from .row_list import Conditions, RowList
from .selection import Selection


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
    def key(self) -> UUID:
        """The id by which operators name it."""
        return self.command_id

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

    def command(self) -> Command:
        """A new command of the same content. Raises InvalidCommand for what this version no longer allows."""
        return command_of(self.lane, record_in(self), self.retry_id)


def _conditions(connection: Connection, selection: Selection, before: int | None) -> Conditions:
    named = "command_id = ANY(CAST(:ids AS uuid[]))"
    found = selection.conditions(connection, LEDGER, before, ids=named, moment="applied_at", reason="message")
    is_any = selection.ids or selection.settled or selection.error == "cancelled"
    # The rejections are few among the rows of all users, and have an index; among those of one user they have none.
    (found.by_index if selection.user_id is None else found.others).append(
        "status = 'rejected'" if is_any else OPEN_REJECTION
    )
    return found


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


def _rejected(row: Any, retry: Retry | None) -> RejectedCommand:
    if retry is None and row["settled"] == "retried":
        retry = Retry(command_id=retry_id(row["command_id"]), status="undecided")
    return RejectedCommand.model_validate({**row, "retry": retry})


_COLUMNS = f"""
    id, command_id, user_id, specialization, error, coalesce(message, '') AS message, applied_at AS at, digest,
           source, settled, {COMMAND_COLUMNS.replace(" reason", " coalesce(reason, '') AS reason")}
"""

REJECTED = RowList(LEDGER, _COLUMNS, _conditions, _with_retries)

_DECIDED = text(f"""
    SELECT command_id, status, coalesce(message, '') AS message FROM {LEDGER}
    WHERE command_id = ANY(CAST(:ids AS uuid[]))
""")
