"""Which rows of the ledger or of the quarantine an operator means, and the SQL conditions that say so."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import Connection

from levelq_core.errors import InvalidArgument
from levelq_core.operations.queries import last_id_before
from levelq_core.untrusted_text import quoted

from .row_list import Conditions

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
        self, connection: Connection, table: str, before: int | None, *, ids: str, moment: str, reason: str
    ) -> Conditions:
        """Those of a table. `ids`: the condition with the ids; `moment` and `reason`: columns.

        A time becomes a range of row ids, too.
        """
        first = last = None
        if self.since is not None:
            first = last_id_before_since(connection, table, moment, self.since)
        if self.until is not None:
            last = last_id_before(connection, table, moment, _shifted(self.until, _SLACK))
        by_index = {
            "ids": (ids, list(self.ids) or None),
            "user": ("user_id = :user", self.user_id),
            "first": ("id > :first", first),
            "last": ("id <= :last", last),
            "before": ("id < :before", before),
        }
        others = {
            "specialization": ("specialization = :specialization", self.specialization),
            "error": ("error = :error", self.error),
            "reason": (f"strpos(lower({reason}), lower(:reason)) > 0", self.reason),
            "since": (f"{moment} >= :since", self.since),
            "until": (f"{moment} < :until", self.until),
        }
        return Conditions.of(by_index, others)


def check_text(name: str, given: str | None) -> None:
    """Raise InvalidArgument for a text that PostgreSQL cannot hold, so that no row has it."""
    if given is not None and re.search("[\0\ud800-\udfff]", given):
        message = f"{name}: expected a text in UTF-8 without NUL, got {quoted(given)}"
        raise InvalidArgument(message, field=name, value=given)


def last_id_before_since(connection: Connection, table: str, moment: str, since: datetime) -> int:
    """An id below those of all rows since then, of transactions that were no longer than an hour."""
    return last_id_before(connection, table, moment, _shifted(since, -_SLACK))


def _shifted(moment: datetime, by: timedelta) -> datetime:
    try:
        return moment + by
    except OverflowError:
        return moment
