"""The audit as operators read it: who did what, when, and from where."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Engine, text

from levelq_core.database.table_names import AUDIT
from levelq_core.operations.audit import user_target
from levelq_core.operations.connections import require_engine

from .records import Reading, Time
from .selection import last_id_before_since

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
    `id` of the last line of this page. Raises SQLAlchemy's errors.
    """
    require_engine(engine)
    target = None if user_id is None else user_target(user_id)
    conditions: list[str] = []
    values: dict[str, Any] = {"limit": limit}
    with engine.connect() as connection:
        for condition, name, value in (
            ("at >= :since", "since", since),
            ("at < :until", "until", until),
            ("(action = :action OR starts_with(action, :action || ' '))", "action", action),
            ("(target = :target OR starts_with(target, :target || ' '))", "target", target),
            ("id < :before", "before", before),
            ("id > :first", "first", since and last_id_before_since(connection, AUDIT, "at", since)),
        ):
            if value is not None:
                conditions.append(condition)
                values[name] = value
        rows = connection.execute(text(_LINES.format(" AND ".join(conditions or ["true"]))), values).mappings()
        return tuple(AuditLine.model_validate(dict(row)) for row in rows)


def _short(value: object) -> str:
    return f"({len(value)})" if isinstance(value, dict | list) else str(value)[:_MOST_DETAIL]


_LINES = f"SELECT id, at, actor, origin, action, target, detail FROM {AUDIT} WHERE {{}} ORDER BY id DESC LIMIT :limit"
