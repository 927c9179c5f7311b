"""What a producer has for the threads of each process; event_loops.py has the same for event loops."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Self, TypeVar

from levelq_core.domain.commands import Command
from levelq_core.errors import ProducerClosed
from levelq_core.keys import Partition
from levelq_core.lanes.producer_lanes import ProducerLanes
from levelq_core.lanes.wakeups import Waker
from levelq_core.redis_client.per_process import PerProcess
from levelq_core.redis_client.pool import BOUND, connect

from .durability import DurabilityWait
from .reply_reader import ReplyReader
from .sending import WINDOW
from .trips import Trips

if TYPE_CHECKING:
    from levelq_core.settings import Durability, Settings

    from .ledger_reader import LedgerReader

T = TypeVar("T")


class ProcessConnections:
    """The connections of one process: `lanes` for sends, `waker`, `replies` and `ledger` for outcomes."""

    def __init__(self, settings: Settings, ledger: LedgerReader | None) -> None:
        self.settings = settings
        redis = connect(settings.redis_url, settings.redis_seconds)
        self.lanes = ProducerLanes(redis, settings, connections=BOUND)
        self.replies = ReplyReader(redis, settings.redis_seconds / 2)
        self.ledger = ledger
        self.waker = Waker(redis, connect(settings.queue_url, settings.redis_seconds), settings.keys)
        self._trips: dict[tuple[Durability, Partition | None], Trips] = {}

    def trips(self, wait: DurabilityWait, partition: Partition | None) -> Trips:
        """The trips that calls with this durability share; `partition`: the only one to which they go."""
        key = wait.level, partition
        found = self._trips.get(key)
        return self._trips.setdefault(key, Trips(self.settings, wait)) if found is None else found

    def close(self) -> None:
        """Close them; those who wait for an outcome get ProducerClosed."""
        self.replies.end()
        self.lanes.close()
        self.waker.close()


class Connections(PerProcess[ProcessConnections]):
    """A producer's connections: a forked child makes its own, and leaves its parent's alone."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._reader: LedgerReader | None = None
        if settings.database_url is not None:
            from .ledger_reader import LedgerReader  # noqa: PLC0415 - a sender without a database does without

            self._reader = LedgerReader.of(settings)
        self._closed = False
        super().__init__(lambda: ProcessConnections(settings, self._reader))

    def get(self) -> ProcessConnections:
        """The connections of this process. Raises ProducerClosed."""
        self.require_open()
        return super().get()

    def require_open(self) -> None:
        """Raise ProducerClosed if the producer was closed."""
        if self._closed:
            raise ProducerClosed

    def close(self) -> None:
        """Close the connections of this process."""
        self._closed = True
        super().get().close()
        if self._reader is not None:
            self._reader.close()


class Turns:
    """Cuts a call into windows."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Leave nothing behind."""

    @staticmethod
    def chunks(commands: Iterable[Command]) -> Iterator[Iterable[Command]]:
        """The commands, all at once."""
        yield commands

    @staticmethod
    def windows(commands: Sequence[T]) -> Iterator[Sequence[T]]:
        """The commands in windows, each for one push."""
        for start in range(0, len(commands), WINDOW):
            yield commands[start : start + WINDOW]

    def rest(self) -> None:
        """Other threads run by themselves."""
