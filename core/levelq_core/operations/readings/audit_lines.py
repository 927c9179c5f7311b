"""The audit as operators read it: who did what, when, and from where."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection

from levelq_core.database.table_names import AUDIT
from levelq_core.operations.audit import user_target

from .records import Reading, Time
from .row_list import Conditions, RowList
from .selection import check_text, last_id_before_since

_UNSAID = (None, "")
_MOST_DETAIL = 200  # characters of one value


class AuditLine(Reading):
    """One act. `actor`: account or login, and database user; `origin`: host and program; `target`: what it was done to.

    `detail` holds numbers and ids, None if there are none.
    """

    id: int
    at: Time
    actor: str
    origin: str
    action: str
    target: str
    detail: dict[str, Any] | None

    def detail_in_words(self) -> str:
        """The detail on one line: of many ids only how many, and nothing of what is empty or false."""
        said = {} if self.detail is None else self.detail
        return ", ".join(
            f"{name} {_short(value)}" for name, value in said.items() if value is not False and value not in _UNSAID
        )


class Acts(NamedTuple):
    """Which acts: what is not given does not restrict.

    `action`: as a line has it, or its first word: `rejected` finds `rejected retry`.
    """

    since: datetime | None = None
    until: datetime | None = None
    action: str | None = None
    user_id: int | None = None


def _conditions(connection: Connection, acts: Acts, before: int | None) -> Conditions:
    since, until, action, user_id = acts
    check_text("action", action)
    by_index = {
        "target": (OF_TARGET, None if user_id is None else user_target(user_id)),
        "before": ("id < :before", before),
        "first": ("id > :first", since and last_id_before_since(connection, AUDIT, "at", since)),
    }
    others = {
        "since": ("at >= :since", since),
        "until": ("at < :until", until),
        "action": ("(action = :action OR starts_with(action, :action || ' '))", action),
    }
    return Conditions.of(by_index, others)


def _lines(_: Connection, rows: Sequence[Any]) -> list[AuditLine]:
    return [AuditLine.model_validate(dict(row)) for row in rows]


def _short(value: object) -> str:
    return f"({len(value)})" if isinstance(value, dict | list) else str(value)[:_MOST_DETAIL]


AUDIT_LINES = RowList(AUDIT, "id, at, actor, origin, action, target, detail", _conditions, _lines)

# Of a user in any specialization: `user 4` is not `user 42`. In the form that levelq_audit_target answers: what begins
# with the target and a blank is before the same with the next character.
OF_TARGET = "(target = :target OR target ~>=~ (:target || ' ') AND target ~<~ (:target || '!'))"
