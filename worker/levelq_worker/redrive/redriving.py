"""How rejected commands and quarantined entries are sent to their lanes once more, or discarded.

A page of them is locked, examined, pushed, noted there and in the audit, and committed. If that breaks off after the
push, to push the same once more changes nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar, Generic, Literal, TypeVar

from sqlalchemy import Connection, Engine, text

from levelq_core.database.schema import schema_of
from levelq_core.domain.record import Lane
from levelq_core.errors import QueueUnavailable
from levelq_core.lanes.client import Lanes
from levelq_core.operations import audit
from levelq_core.operations.connections import limit_act
from levelq_core.operations.identity import require_bound
from levelq_core.operations.readings.row_list import RowList
from levelq_core.operations.readings.selection import Selection
from levelq_core.settings import Settings

from .plan import Plan, Planned, Send, Source

PAGE = 1_000  # rows in one transaction
FORCE = "; --force sends it all the same"
T = TypeVar("T")


class Redriving(ABC, Generic[Source]):
    """Raises RedisError, DBAPIError, ConfigurationError; what was committed before stays.

    `force`: also what would come after newer commands of its lane, or be rejected again. `actor`: see audit.record.
    """

    name: ClassVar[str]  # of one row, in sentences
    group: ClassVar[str]  # of commands: the first word of the acts in the audit
    rows: ClassVar[RowList[Selection, Any]]
    untried: ClassVar[str] = "not tried: Redis did not answer"

    def __init__(
        self, engine: Engine, lanes: Lanes, settings: Settings, *, force: bool = False, actor: str | None = None
    ) -> None:
        self._engine = engine
        self._lanes = lanes
        self._settings = settings
        self._force = force
        self._actor = actor

    def look(self, selection: Selection, limit: int = PAGE) -> Plan[Source]:
        """What a retry would do with the oldest `limit` of a selection. Changes nothing."""
        with self._engine.connect() as connection:
            schema_of(connection)
            require_bound(connection, self._lanes)
            found = self.rows.read(connection, selection, limit + 1, oldest_first=True)
            return Plan(self._examine(connection, found[:limit]), len(found) > limit)

    def run(self, plan: Plan[Source], send: Send) -> Plan[Source]:
        """Send what a plan holds, each examined once more; what became of it."""
        chosen = plan.due()
        line = _audit_line(f"{self.group} retry", (one.source.lane for one in chosen), self._actor)
        became: dict[int, Planned[Source]] = {}
        for page in _pages(chosen):
            with self._engine.begin() as connection:
                limit_act(connection, lock_ms=self._settings.lock_ms, statement_ms=self._settings.statement_ms)
                found, is_away = self._send_page(connection, page, send)
                became |= {one.source.id: one for one in found}
                if ids := [one.source.id for one in found if is_news(one)]:
                    self._settle(connection, ids, "retried")
                    line.write(connection, self._sent(list(became.values())) | {"force": self._force})
            if is_away:
                break
        for one in chosen:
            became.setdefault(one.source.id, one.model_copy(update={"verdict": "left", "why": self.untried}))
        return Plan([became.get(one.source.id, one) for one in plan.entries], plan.more)

    @classmethod
    def discard(cls, engine: Engine, settings: Settings, rows: Sequence[Source], *, actor: str | None = None) -> int:
        """Discard rows without a retry; returns how many were not settled before. Raises DBAPIError."""
        chosen = [one for one in rows if one.settled is None]
        line = _audit_line(f"{cls.group} discard", (one.lane for one in chosen), actor)
        gone: list[Source] = []
        for page in _pages(chosen):
            with engine.begin() as connection:
                limit_act(connection, lock_ms=settings.lock_ms, statement_ms=settings.statement_ms)
                ids = cls._settle(connection, [one.id for one in page], "discarded")
                gone += [one for one in page if one.id in ids]
                if ids:
                    line.write(connection, cls._discarded(gone) | {"discarded": len(gone)})
        return len(gone)

    def _send_page(
        self, connection: Connection, page: Sequence[Planned[Source]], send: Send
    ) -> tuple[list[Planned[Source]], bool]:
        """Lock the rows, examine them and send those that can be; and whether Redis does not answer."""
        lock(connection, self.rows.table, [one.source.id for one in page])
        keys: Any = tuple(one.source.key for one in page)
        found = self._examine(connection, self.rows.read(connection, Selection(keys), len(page), oldest_first=True))
        open_then = {one.source.id for one in page if one.source.settled is None}
        found = [_unless_discarded(one) if one.source.id in open_then else one for one in found]
        chosen = [one for one in found if one.verdict == "send"]
        errors = send([one.source.command() for one in chosen]) if chosen else []
        sent = {one.source.id: one.after(error) for one, error in zip(chosen, errors, strict=True)}
        is_away = any(isinstance(error, QueueUnavailable) for error in errors)
        return [sent.get(one.source.id, one) for one in found], is_away

    @abstractmethod
    def _examine(self, connection: Connection, found: Sequence[Source]) -> list[Planned[Source]]:
        """What to do with each of these rows, which are in the order of their ids."""

    @classmethod
    @abstractmethod
    def _settle(cls, connection: Connection, ids: Sequence[int], how: Literal["retried", "discarded"]) -> set[int]:
        """Note what an operator did with these rows; the ids of those that were not settled before."""

    @abstractmethod
    def _sent(self, became: Sequence[Planned[Source]]) -> dict[str, object]:
        """For the audit: how many were sent, and which under which ids."""

    @classmethod
    @abstractmethod
    def _discarded(cls, gone: Sequence[Source]) -> dict[str, object]:
        """For the audit: which were discarded."""


def is_news(one: Planned[Any]) -> bool:
    """Whether it was sent by this run, or by one that broke off before it could note that."""
    return one.verdict == "sent" or (one.verdict == "done" and one.source.settled != "retried")


def _unless_discarded(one: Planned[Any]) -> Planned[Any]:
    if one.source.settled != "discarded":
        return one
    return one.model_copy(update={"verdict": "refused", "why": "it was discarded meanwhile"})


def lock(connection: Connection, table: str, ids: Sequence[int]) -> None:
    """Lock the rows of a page: no other operator retries or discards them meanwhile."""
    statement = f"SELECT FROM {table} WHERE id = ANY(CAST(:ids AS bigint[])) ORDER BY id FOR UPDATE"
    connection.execute(text(statement), {"ids": ids})


def _audit_line(action: str, lanes: Iterable[Lane], actor: str | None) -> audit.RunLine:
    """The line of a run, which names the user or the lane if there is only one."""
    found = set(lanes)
    users = {lane.user_id for lane in found}
    target = f"{len(users)} users"
    if len(users) == 1:
        name = next(iter(found)).specialization if len(found) == 1 else None
        target = audit.user_target(next(iter(users)), name)
    return audit.RunLine(action, target, actor=actor)


def _pages(found: Sequence[T]) -> Iterator[Sequence[T]]:
    for first in range(0, len(found), PAGE):
        yield found[first : first + PAGE]
