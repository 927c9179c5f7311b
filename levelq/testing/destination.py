"""Where the commands of a producer for tests go instead of Redis."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import NamedTuple
from uuid import UUID

from levelq_core.domain.commands import Command
from levelq_core.domain.outcome import Outcome
from levelq_core.errors import LevelqError, ProducerClosed
from levelq_core.settings import Settings


class Taken(NamedTuple):
    """What became of one send: what its handle's `result` calls, and the error of a send that was refused."""

    answer: Callable[[], Outcome]
    error: LevelqError | None = None


class Destination(ABC):
    """What becomes of commands that were validated. `settings`: the environment's unless given."""

    def __init__(self, settings: Settings | None = None) -> None:
        # In place of a producer's, which makes connections: subclasses name this class before it.
        self.settings = Settings.of(settings)
        self._closed = False

    def _require_open(self) -> None:
        """Raise ProducerClosed if the producer was closed."""
        if self._closed:
            raise ProducerClosed

    @abstractmethod
    def _take(self, commands: Sequence[Command]) -> Sequence[Taken]:
        """Take valid commands, in order."""

    @abstractmethod
    def _known(self, command_id: UUID) -> Outcome | None:
        """The decision on a command, if there is one."""

    @abstractmethod
    def _answer(self, command_id: UUID) -> Outcome:
        """What the `result` of a handle on a command of other code returns, or raises."""

    @abstractmethod
    def _was_sent(self, command_id: UUID) -> bool:
        """Whether the command was sent here."""
