"""What would be sent once more, what would not, and why: the records that commands and the console show."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, Literal, NamedTuple, TypeVar
from uuid import UUID

from levelq_core.domain.commands import Command
from levelq_core.errors import LevelqError, NotDurable
from levelq_core.operations.readings.quarantine import KeptEntry
from levelq_core.operations.readings.records import Reading
from levelq_core.operations.readings.rejected import RejectedCommand

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

    def due(self) -> list[Planned[Source]]:
        """Those that a run sends, and those that an earlier run sent and could not note."""
        return [one for one in self.of("send", "done") if one.verdict == "send" or one.source.settled != "retried"]


T = TypeVar("T")


def alike(found: Iterable[T], words: Callable[[T], str]) -> list[list[T]]:
    """Groups whose words differ at most in numbers and ids, the largest first: those have one cause."""
    groups: dict[str, list[T]] = {}
    for one in found:
        groups.setdefault(VARIABLE.sub("N", words(one)), []).append(one)
    return sorted(groups.values(), key=len, reverse=True)
