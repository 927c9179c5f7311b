"""Forget a user: cancel the waiting commands, then erase the rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from levelq_core.database.sqlstate import in_words, sqlstate_of
from levelq_core.errors import ConfigurationError
from levelq_core.keys import Partition
from levelq_core.lanes import scan
from levelq_core.lanes.lane_editor import LaneEditor
from levelq_core.lanes.pauses import pause_of
from levelq_core.lanes.wakeups import Waker
from levelq_core.operations import audit, erasing
from levelq_core.operations.erasing import FORGOTTEN, Erased
from levelq_core.operations.wording import count
from levelq_core.settings import Settings

from .canceller import Cancelled, Canceller
from .waiting_lanes import Scope, Waiting

_ADVICE: dict[str | None, str] = {
    "55P03": "other code holds this user's rows: end its transaction",
    "23503": "rows of the application refer to this user's: delete those first",
}


class UserData(NamedTuple):
    """What levelq holds of a user."""

    waiting: Waiting
    rows: Erased
    pauses: int  # of this user's lanes

    @property
    def total(self) -> int:
        """Entries, rows and pauses."""
        return self.waiting.total + self.rows.total + self.pauses

    def in_words(self) -> Iterator[str]:
        """What `run` does about it, one line each: a verb, and what it is done to."""
        rows = self.rows
        for line in self.waiting.in_words():
            yield f"cancel  {line}"
        if self.pauses:
            yield f"resume  {count(self.pauses, 'paused lane')}"
        deleted = (("progress row", rows.progress), ("license row", rows.licenses), ("progression", rows.progressions))
        yield f"delete  {', '.join(count(number, what) for what, number in deleted)}"
        cleared = (("ledger row", rows.ledger), ("quarantine row", rows.quarantine), ("audit line", rows.audit))
        yield f"clear   {', '.join(count(number, what) for what, number in cleared)}; command ids and numbers stay"
        yield f"clear   the author in {count(rows.authored, 'row')} of other users"


class Forgetting:
    """Forgets one user. Raises RedisError, DBAPIError, WrongDatabase; the next run finishes one that broke off."""

    def __init__(self, engine: Engine, lanes: LaneEditor, waker: Waker, settings: Settings, user_id: int) -> None:
        self._engine = engine
        self._lanes = lanes
        self._settings = settings
        self._user_id = user_id
        self._canceller = Canceller(engine, lanes, waker, settings)

    def look(self) -> UserData:
        """Count what there is. Raises ConfigurationError if a waiting command cannot be read, and so not be erased."""
        waiting = self._canceller.look(Scope(user_id=self._user_id))
        waiting.require_readable()
        with self._engine.connect() as connection:
            rows = erasing.count(connection, self._user_id)
        lanes = self._lanes
        found = (pause_of(lanes.redis, lanes.keys, each, self._user_id) for each in self._partitions())
        return UserData(waiting, rows, sum(pause is not None for pause in found))

    def done_in_words(self, cancelled: Cancelled, erased: Erased) -> str:
        """What `run` has done, on one line."""
        deleted = erased.progress + erased.licenses + erased.progressions
        rows = f"{count(deleted, 'row')} deleted, {count(erased.total - deleted, 'row')} cleared"
        return f"user {self._user_id} is forgotten: {count(cancelled.cancelled, 'command')} cancelled, {rows}"

    def run(self, *, actor: str | None = None) -> tuple[Cancelled, Erased]:
        """Erase it. One audit line records that a user was forgotten and how many rows went, but not which user.

        `actor`: who acts, unless it is the account of this process.
        """
        cancelled = self._canceller.run(Scope(user_id=self._user_id))
        Waiting(newer=cancelled.newer, unreadable=cancelled.unreadable).require_readable()
        for partition in self._partitions():
            self._lanes.resume(partition, self._user_id)

        def record(connection: Connection, erased: Erased) -> None:
            detail = cancelled.detail() | erased._asdict()
            audit.record(connection, "forget", audit.user_target(FORGOTTEN), detail, actor=actor)

        lock_ms = self._settings.transaction_ms  # as long as a batch of a worker may hold the rows
        try:
            return cancelled, erasing.erase(self._engine, self._user_id, lock_ms=lock_ms, record=record)
        except DBAPIError as error:
            state = sqlstate_of(error)
            if state not in _ADVICE:
                raise
            raise ConfigurationError(
                f"user {self._user_id}: {in_words(error)}; {_ADVICE[state]}, and run this again: the waiting commands "
                "are cancelled, the tables are unchanged"
            ) from error

    def _partitions(self) -> set[Partition]:
        return scan.partitions(self._lanes.redis, self._settings)
