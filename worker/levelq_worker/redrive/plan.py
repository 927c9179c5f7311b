"""What would be sent once more, what would not, and why: the records that commands and the console show."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Generic, Literal, NamedTuple, TypeVar
from uuid import UUID

from sqlalchemy import Connection, text

from levelq_core.domain.commands import Command
from levelq_core.domain.record import Lane
from levelq_core.errors import LevelqError, NotDurable
from levelq_core.operations import audit
from levelq_core.operations.readings.quarantine import KeptEntry
from levelq_core.operations.readings.records import Reading
from levelq_core.operations.readings.rejected import RejectedCommand
from levelq_core.settings import Settings

PAGE = 1_000  # commands in one transaction
VARIABLE = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|\d+")  # what differs in messages of one cause

# Pushes commands to their lanes and wakes drains, as Producer.send_many does; returns for each None or its error.
Send = Callable[[Sequence[Command]], Sequence[LevelqError | None]]

# `done`: sent by an earlier run. After the run `sent`, or `left`: Redis did not take it.
Verdict = Literal["send", "refused", "done", "sent", "left"]
Source = TypeVar("Source", RejectedCommand, KeptEntry)


class Planned(Reading, Generic[Source]):
    """What a retry does with one rejected command or quarantined entry, and why.

    `command_id` is the id under which it is sent; None if the entry holds no command.
    """

    source: Source
    command_id: UUID | None
    verdict: Verdict
    why: str

    def after(self, error: LevelqError | None) -> Planned[Source]:
        """What became of it, once it was sent."""
        if error is None or isinstance(error, NotDurable):
            return self.model_copy(update={"verdict": "sent", "why": "" if error is None else str(error)})
        return self.model_copy(update={"verdict": "left", "why": str(error)})


class Plan(NamedTuple, Generic[Source]):
    """A retry, oldest first; `more`: the selection holds others beyond the limit."""

    entries: list[Planned[Source]]
    more: bool

    def of(self, *verdicts: Verdict) -> list[Planned[Source]]:
        """Those with one of these verdicts."""
        return [planned for planned in self.entries if planned.verdict in verdicts]


def audit_line(action: str, lanes: Iterable[Lane], actor: str | None) -> audit.RunLine:
    """The line of a run, which names the user or the lane if there is only one."""
    found = set(lanes)
    users = {lane.user_id for lane in found}
    target = f"{len(users)} users"
    if len(users) == 1:
        name = next(iter(found)).specialization if len(found) == 1 else None
        target = audit.user_target(next(iter(users)), name)
    return audit.RunLine(action, target, actor=actor)


T = TypeVar("T")


def pages(found: Sequence[T]) -> Iterator[Sequence[T]]:
    """Parts of at most PAGE."""
    for first in range(0, len(found), PAGE):
        yield found[first : first + PAGE]


def alike(found: Iterable[T], words: Callable[[T], str]) -> list[list[T]]:
    """Groups whose words differ at most in numbers and ids, the largest first: those have one cause."""
    groups: dict[str, list[T]] = {}
    for one in found:
        groups.setdefault(VARIABLE.sub("N", words(one)), []).append(one)
    return sorted(groups.values(), key=len, reverse=True)


def set_limits(connection: Connection, settings: Settings) -> None:
    """The limits of a transaction that sends commands; its commit survives a crash."""
    connection.execute(_LIMITS, {"lock_ms": str(settings.lock_ms), "statement_ms": str(settings.statement_ms)})


_LIMITS = text("""
    SELECT set_config('lock_timeout', :lock_ms, true), set_config('statement_timeout', :statement_ms, true),
           CASE WHEN current_setting('synchronous_commit') = 'off'
                THEN set_config('synchronous_commit', 'on', true) END
""")
