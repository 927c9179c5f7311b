"""How rejected commands and quarantined entries are sent to their lanes once more, or discarded.

A page of them is locked, examined, pushed, noted there and in the audit, and committed. If that breaks off after the
push, to push the same once more changes nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Generic, TypeVar

from sqlalchemy import Connection, Engine, text

from levelq_core.database.schema import schema_of
from levelq_core.domain.record import Lane
from levelq_core.errors import QueueUnavailable
from levelq_core.lanes.client import Lanes
from levelq_core.operations import audit
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
        chosen = [one for one in plan.of("send", "done") if one.verdict == "send" or one.source.settled != "retried"]
        line = _audit_line(f"{self.group} retry", (one.source.lane for one in chosen), self._actor)
        became: dict[int, Planned[Source]] = {}
        for page in _pages(chosen):
            with self._engine.begin() as connection:
                _set_limits(connection, self._settings)
                found, is_away = self._send_page(connection, page, send)
                became |= {one.source.id: one for one in found}
                if news := [one for one in found if is_news(one)]:
                    self._note_sent(connection, [one.source.id for one in news])
                    line.write(connection, {**self._sent_detail(list(became.values())), "force": self._force})
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
                _set_limits(connection, settings)
                ids = cls._discard(connection, [one.id for one in page])
                gone += [one for one in page if one.id in ids]
                if ids:
                    line.write(connection, {"discarded": len(gone), **cls._discarded_detail(gone)})
        return len(gone)

    def _send_page(
        self, connection: Connection, page: Sequence[Planned[Source]], send: Send
    ) -> tuple[list[Planned[Source]], bool]:
        """Lock the rows, examine them and send those that can be; and whether Redis does not answer."""
        found = self._examine_again(connection, page)
        chosen = [one for one in found if one.verdict == "send"]
        errors = send([one.source.command() for one in chosen]) if chosen else []
        sent = {one.source.id: one.after(error) for one, error in zip(chosen, errors, strict=True)}
        is_away = any(isinstance(error, QueueUnavailable) for error in errors)
        return [sent.get(one.source.id, one) for one in found], is_away

    def _examine_again(self, connection: Connection, page: Sequence[Planned[Source]]) -> list[Planned[Source]]:
        lock(connection, self.rows.table, [one.source.id for one in page])
        keys: Any = tuple(one.source.key for one in page)
        return self._examine(connection, self.rows.read(connection, Selection(keys), len(page), oldest_first=True))

    @abstractmethod
    def _examine(self, connection: Connection, found: Sequence[Source]) -> list[Planned[Source]]:
        """What to do with each of these rows, which are in the order of their ids."""

    @abstractmethod
    def _note_sent(self, connection: Connection, ids: Sequence[int]) -> None:
        """Note in these rows, or by deleting them, that they were sent."""

    @classmethod
    @abstractmethod
    def _discard(cls, connection: Connection, ids: Sequence[int]) -> Collection[int]:
        """Discard these rows; the ids of those that were not settled before."""

    @abstractmethod
    def _sent_detail(self, became: Sequence[Planned[Source]]) -> Mapping[str, object]:
        """For the audit: what was sent, and under which ids."""

    @classmethod
    @abstractmethod
    def _discarded_detail(cls, gone: Sequence[Source]) -> Mapping[str, object]:
        """For the audit: what was discarded."""


def is_news(one: Planned[Any]) -> bool:
    """Whether it was sent by this run, or by one that broke off before it could note that."""
    return one.verdict == "sent" or (one.verdict == "done" and one.source.settled != "retried")


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


def _set_limits(connection: Connection, settings: Settings) -> None:
    """The limits of a transaction that sends commands; its commit survives a crash."""
    connection.execute(_LIMITS, {"lock_ms": str(settings.lock_ms), "statement_ms": str(settings.statement_ms)})


_LIMITS = text("""
    SELECT set_config('lock_timeout', :lock_ms, true), set_config('statement_timeout', :statement_ms, true),
           CASE WHEN current_setting('synchronous_commit') = 'off'
                THEN set_config('synchronous_commit', 'on', true) END
""")
