"""The audit as operators read it: who did what, when, and from where."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Engine, text

from levelq_core.database.table_names import AUDIT
from levelq_core.operations.audit import user_target
from levelq_core.operations.connections import require_engine

from .records import Reading, Time
from .selection import Search, check_text, last_id_before_since

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


class AuditPage(Reading):
    """One page. `before`: for the next one; None if there is none. It may be there although few lines or none fit."""

    rows: tuple[AuditLine, ...]
    before: int | None = None


def audit_lines(
    engine: Engine,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    action: str | None = None,
    user_id: int | None = None,
    limit: int = 50,
    before: int | None = None,
) -> tuple[AuditLine, ...]:
    """The acts of operators, the newest first: what `levelq audit` prints. Changes nothing.

    `action`: as a line has it, or its first word: `rejected` finds `rejected retry`. `before`: for the next page, the
    `id` of the last line of this page. Raises InvalidArgument for an action that no line can have, and SQLAlchemy's
    errors.
    """
    require_engine(engine)
    check_text("action", action)
    with engine.connect() as connection:
        by_index, others, values = _conditions(connection, since, until, action, user_id, before)
        conditions = " AND ".join(by_index + others or ["true"])
        statement = text(f"SELECT {_COLUMNS} FROM {AUDIT} WHERE {conditions} ORDER BY id DESC LIMIT :limit")
        return _lines(connection.execute(statement, values | {"limit": limit}).mappings())


def audit_page(
    engine: Engine,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    action: str | None = None,
    user_id: int | None = None,
    limit: int = 50,
    before: int | None = None,
) -> AuditPage:
    """The same for a page of a console, which must be there soon: it looks at the newest 5,000 lines only.

    Of a user, at their newest 5,000. `before`: that of the page before. Raises InvalidArgument for an action that no
    line can have, and SQLAlchemy's errors.
    """
    require_engine(engine)
    check_text("action", action)
    with engine.connect() as connection:
        search = Search(AUDIT, *_conditions(connection, since, until, action, user_id, before))
        rows = search.rows(connection, _COLUMNS, limit)
        return AuditPage(rows=_lines(rows), before=search.before(connection, rows, limit))


def _conditions(
    connection: Connection,
    since: datetime | None,
    until: datetime | None,
    action: str | None,
    user_id: int | None,
    before: int | None,
) -> tuple[list[str], list[str], dict[str, Any]]:
    """Those that an index answers, those that are looked for line by line, and the values of both."""
    by_index: list[str] = []
    others: list[str] = []
    values: dict[str, Any] = {}
    for found, condition, name, value in (
        (by_index, OF_TARGET, "target", None if user_id is None else user_target(user_id)),
        (by_index, "id < :before", "before", before),
        (by_index, "id > :first", "first", since and last_id_before_since(connection, AUDIT, "at", since)),
        (others, "at >= :since", "since", since),
        (others, "at < :until", "until", until),
        (others, "(action = :action OR starts_with(action, :action || ' '))", "action", action),
    ):
        if value is not None:
            found.append(condition)
            values[name] = value
    return by_index, others, values


def _lines(rows: Iterable[Any]) -> tuple[AuditLine, ...]:
    return tuple(AuditLine.model_validate(dict(row)) for row in rows)


def _short(value: object) -> str:
    return f"({len(value)})" if isinstance(value, dict | list) else str(value)[:_MOST_DETAIL]


_COLUMNS = "id, at, actor, origin, action, target, detail"

# Of a user in any specialization: `user 4` is not `user 42`. In the form that levelq_audit_target answers: what begins
# with the target and a blank is before the same with the next character.
OF_TARGET = "(target = :target OR target ~>=~ (:target || ' ') AND target ~<~ (:target || '!'))"
