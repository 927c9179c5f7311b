"""Which rows of the ledger or of the quarantine an operator means, and the SQL conditions that say so."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text

from levelq_core.errors import InvalidArgument
from levelq_core.operations.queries import last_id_before
from levelq_core.untrusted_text import quoted

MOST_SEARCHED = 5_000  # rows that one page looks at: some 20 ms where they are in memory
ERRORS = ("validation_error", "database_error", "cancelled")  # of ledger rows
_SLACK = timedelta(hours=1)  # a row's time is that of its transaction's begin: a longer one may be missed


@dataclass(frozen=True)
class Selection:
    """What is not given does not restrict.

    `ids`: command ids, or row ids of the quarantine; rows that are named so count even if they are settled. `reason`: a
    part of the message, in any case. `since` and `until`: times with a zone. `settled`: also rejections that were
    retried, discarded or cancelled. Raises InvalidArgument for an error or a text that no row can have.
    """

    ids: tuple[UUID, ...] | tuple[int, ...] = ()
    user_id: int | None = None
    specialization: str | None = None
    error: str | None = None
    reason: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    settled: bool = False

    def __post_init__(self) -> None:
        if self.error is not None and self.error not in ERRORS:
            message = f"error: expected one of {', '.join(ERRORS)}, got {self.error!r}"
            if self.error == "conflict":
                message += ": the ledger keeps no row of a conflict, only the command that first had the id"
            raise InvalidArgument(message, field="error", value=self.error)
        check_text("specialization", self.specialization)
        check_text("reason", self.reason)

    def conditions(
        self, connection: Connection, table: str, moment: str, reason: str
    ) -> tuple[list[str], dict[str, Any]]:
        """The conditions and their values; `moment` and `reason` are columns. A time becomes a range of ids, too."""
        by_index, others, values = self.divided(connection, table, moment, reason)
        return by_index + others, values

    def divided(
        self, connection: Connection, table: str, moment: str, reason: str
    ) -> tuple[list[str], list[str], dict[str, Any]]:
        """The same, divided into what an index answers and what has to be looked for row by row."""
        by_index: list[str] = []
        found: list[str] = []
        values: dict[str, Any] = {}
        if self.user_id is not None:
            by_index.append("user_id = :user")
            values["user"] = self.user_id
        for condition, name, value in (
            ("specialization = :specialization", "specialization", self.specialization),
            ("error = :error", "error", self.error),
            (f"strpos(lower({reason}), lower(:reason)) > 0", "reason", self.reason),
            (f"{moment} >= :since", "since", self.since),
            (f"{moment} < :until", "until", self.until),
        ):
            if value is not None:
                found.append(condition)
                values[name] = value
        if self.since is not None:
            by_index.append("id > :first")
            values["first"] = last_id_before_since(connection, table, moment, self.since)
        if self.until is not None:
            by_index.append("id <= :last")
            values["last"] = last_id_before(connection, table, moment, _shifted(self.until, _SLACK))
        return by_index, found, values


def check_text(name: str, given: str | None) -> None:
    """Raise InvalidArgument for a text that PostgreSQL cannot hold, so that no row has it."""
    if given is not None and re.search("[\0\ud800-\udfff]", given):
        message = f"{name}: expected a text in UTF-8 without NUL, got {quoted(given)}"
        raise InvalidArgument(message, field=name, value=given)


class Search:
    """Searches the newest rows of a table for those that fit, MOST_SEARCHED at most, so that it ends soon.

    `by_index`: conditions that an index answers; `others`: those that are looked for row by row; `values`: of both.
    """

    def __init__(self, table: str, by_index: list[str], others: list[str], values: dict[str, Any]) -> None:
        self._searched = f"FROM {table} WHERE {' AND '.join(by_index or ['true'])} ORDER BY id DESC LIMIT :searched"
        self._others = " AND ".join(others or ["true"])
        self._values = values | {"searched": MOST_SEARCHED}

    def rows(self, connection: Connection, columns: str, limit: int) -> list[Any]:
        """The first `limit` rows that fit, the newest first. Raises DBAPIError."""
        statement = f"SELECT {columns} FROM (SELECT * {self._searched}) AS searched WHERE {self._others}"
        rows = connection.execute(text(f"{statement} ORDER BY id DESC LIMIT :limit"), self._values | {"limit": limit})
        return list(rows.mappings())

    def before(self, connection: Connection, rows: list[Any], limit: int) -> int | None:
        """Where the next page begins: below this id; None if nothing is left to be searched. Raises DBAPIError."""
        if len(rows) == limit:
            return int(rows[-1]["id"])
        statement = text(f"SELECT min(id), count(*) FROM (SELECT id {self._searched}) AS searched")
        lowest, searched = connection.execute(statement, self._values).one()
        return int(lowest) if searched == MOST_SEARCHED else None


def last_id_before_since(connection: Connection, table: str, moment: str, since: datetime) -> int:
    """An id below those of all rows since then, of transactions that were no longer than an hour."""
    return last_id_before(connection, table, moment, _shifted(since, -_SLACK))


def _shifted(moment: datetime, by: timedelta) -> datetime:
    try:
        return moment + by
    except OverflowError:
        return moment
