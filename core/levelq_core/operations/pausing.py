"""Pause and resume: producers go on, drains leave what is paused alone. See docs/explanation/lanes.md."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import NamedTuple

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from levelq_core.database.engine import unreachable
from levelq_core.errors import InvalidArgument, SchemaError
from levelq_core.keys import Partition
from levelq_core.lanes.lane_editor import LaneEditor
from levelq_core.lanes.pauses import MOST_ACTOR, MOST_REASON, pause_of
from levelq_core.lanes.wakeups import Waker
from levelq_core.settings import Settings

from . import audit
from .identity import require_bound
from .readings.pauses import ActivePause, PausedPart, grouped
from .wording import one_line


class PauseScope(NamedTuple):
    """Whole specializations, or one user's lanes in them; None: all of the namespace."""

    specializations: Sequence[str] | None = None
    user_id: int | None = None

    @property
    def target(self) -> str:
        """How the audit names it."""
        names = None if self.specializations is None else ", ".join(self.specializations)
        return names or "everything" if self.user_id is None else audit.user_target(self.user_id, names)


class PauseChange(NamedTuple):
    """The pauses of a scope before an act, and those that the act made."""

    before: list[ActivePause]
    now: list[ActivePause]


class Pausing:
    """Pauses and resumes. Each act may be repeated; one that broke off midway is finished by the next.

    `engine`: where acts are written down, None if there is no database. `actor`: who acts, unless it is the account of
    this process. `unwritten`: why the last act is not in levelq_audit; a pause must work without the database.

    Raises RedisError, WrongDatabase, and ConfigurationError for a layout that cannot be read.
    """

    def __init__(
        self, engine: Engine | None, lanes: LaneEditor, waker: Waker, settings: Settings, actor: str | None = None
    ) -> None:
        self._engine = engine
        self._lanes = lanes
        self._waker = waker
        self._settings = settings
        self._account = actor
        self._actor = one_line(actor or f"{audit.account()}@{socket.gethostname()}")[:MOST_ACTOR]
        self.unwritten: str | None = None

    def pause(self, scope: PauseScope, lasting: timedelta | None = None, reason: str = "") -> PauseChange:
        """Pause it, until it is resumed unless `lasting` is given. A pause that there is gets this end and reason.

        Claims that drains have in hand stay theirs: `in_hand` counts them. Raises InvalidArgument for a long reason.
        """
        reason = one_line(reason)
        if len(reason) > MOST_REASON:
            message = f"reason: expected at most {MOST_REASON} characters, got {len(reason)}"
            raise InvalidArgument(message, field="reason", value=reason)
        self._require_bound()
        for_ms = 0 if lasting is None else int(lasting.total_seconds() * 1000)
        before: list[PausedPart] = []
        now: list[PausedPart] = []
        for partition in self._parts(scope):
            was, is_now = self._lanes.pause(partition, scope.user_id, for_ms, self._actor, reason)
            now.append((partition, scope.user_id, is_now))
            before += [] if was is None else [(partition, scope.user_id, was)]
        change = PauseChange(grouped(before), grouped(now))
        seconds = None if lasting is None else int(lasting.total_seconds())
        self._record("pause", scope, {"for_seconds": seconds, "reason": reason})
        return change

    def look(self, scope: PauseScope) -> list[ActivePause]:
        """The pauses of a scope. Changes nothing."""
        parts = [(each, scope.user_id) for each in self._parts(scope)]
        found = [(*part, pause_of(self._lanes.redis, self._lanes.keys, *part)) for part in parts]
        return grouped((partition, user, pause) for partition, user, pause in found if pause is not None)

    def resume(self, scope: PauseScope) -> PauseChange:
        """End its pauses, make its parked lanes due and wake drains. Without a user, pauses of single users stay."""
        self._require_bound()
        before: list[PausedPart] = []
        for partition in self._parts(scope):
            was = self._lanes.resume(partition, scope.user_id)
            before += [] if was is None else [(partition, scope.user_id, was)]
            self._sweep(partition)
        if before:
            self._record("resume", scope, {"partitions": len(before)})
        else:
            self.unwritten = None  # nothing was done
        return PauseChange(grouped(before), [])

    def in_hand(self, scope: PauseScope) -> int:
        """How many of its lanes drains hold; those of dead workers are taken back when their claims run out."""
        held = 0
        for partition in self._parts(scope):
            if self._lanes.claims(partition, scope.user_id):
                self._sweep(partition)
                held += self._lanes.claims(partition, scope.user_id)
        return held

    def _sweep(self, partition: Partition) -> None:
        wake, _ = self._lanes.sweep(partition)
        if wake:
            self._waker.wake(partition)

    def _parts(self, scope: PauseScope) -> Iterator[Partition]:
        """The partitions of a scope, read again at the end: a change of shards may have begun meanwhile."""
        seen: set[Partition] = set()
        while fresh := self._known(scope) - seen:
            seen |= fresh
            yield from sorted(fresh)

    def _known(self, scope: PauseScope) -> set[Partition]:
        registered = self._lanes.partitions()
        names = scope.specializations or {*self._settings.tracks, *(each.specialization for each in registered)}
        found: set[Partition] = set()
        for name, layout in self._lanes.read_layouts(names).require().items():
            opening = layout.next_step if layout.next_shards else layout
            if scope.user_id is not None:
                found.update(layout.holding(name, scope.user_id), opening.holding(name, scope.user_id))
            else:
                found.update(layout.all_partitions(name), opening.all_partitions(name))
                found.update(each for each in registered if each.specialization == name)
        return found

    def _require_bound(self) -> None:
        self.unwritten = None
        self._with_database(lambda connection: require_bound(connection, self._lanes))

    def _record(self, action: str, scope: PauseScope, detail: dict[str, object]) -> None:
        if self.unwritten is None:
            self._with_database(
                lambda connection: audit.record(connection, action, scope.target, detail, actor=self._account)
            )

    def _with_database(self, use: Callable[[Connection], object]) -> None:
        """Use the database if it answers; else keep why it does not."""
        try:
            if self._engine is not None:
                with self._engine.begin() as connection:
                    use(connection)
        except DBAPIError as error:
            self.unwritten = str(unreachable(self._settings, error))
        except SchemaError as error:
            self.unwritten = str(error)
