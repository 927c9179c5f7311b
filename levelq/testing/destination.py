"""Where the commands of a producer for tests go instead of Redis."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from uuid import UUID

from levelq_core.domain.commands import Command
from levelq_core.domain.outcome import Outcome
from levelq_core.errors import LevelqError
from levelq_core.settings import Settings


class Destination(ABC):
    """What becomes of commands that were validated. `settings`: the environment's unless given."""

    def __init__(self, settings: Settings | None = None) -> None:
        # In place of a producer's, which makes connections: subclasses name this class before it.
        self.settings = settings or Settings.load()

    @abstractmethod
    def _take(self, commands: Sequence[Command]) -> Sequence[LevelqError | None]:
        """Take valid commands, in order; for each the error with which a real producer would refuse it, or None."""

    @abstractmethod
    def _known(self, command_id: UUID) -> Outcome | None:
        """The decision on a command, if there is one."""

    @abstractmethod
    def _answer(self, command_id: UUID) -> Outcome:
        """What a handle's `result` returns, or raises."""

    @abstractmethod
    def _was_sent(self, command_id: UUID) -> bool:
        """Whether the command was sent here."""
