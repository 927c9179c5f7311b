"""A send, without its input and output: validate, encode, cut into windows, read what the lanes answered.

Both producers drive a Plan; they differ only in how they wait.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from redis.exceptions import MovedError, RedisError, ResponseError

from levelq_core.domain import rules
from levelq_core.domain.codec import digest_in, encoded
from levelq_core.domain.commands import COMMAND_NAMES, Command
from levelq_core.domain.record import Lane, lane_of
from levelq_core.domain.rules import Limits
from levelq_core.errors import (
    ConfigurationError,
    InvalidCommand,
    LaneFull,
    LevelqError,
    Moved,
    PartitionFull,
    QueueUnavailable,
    SendUnknown,
)
from levelq_core.keys import Partition
from levelq_core.lanes.protocol import PushAnswer, PushError
from levelq_core.lanes.shard_layout import Layout
from levelq_core.redis_client.cluster import NotConnected
from levelq_core.redis_client.pool import UNCLUSTERED_URL
from levelq_core.settings import Durability, Settings, redacted

from .durability import Wait

WINDOW = 2_500  # commands in one round trip: some 25 ms in which the server serves nobody else
ASYNC_WINDOW = 500  # on an event loop, which a window holds for a few milliseconds
MOVING_SECONDS = 0.02  # between two looks where lanes move to
_LIMITS = Limits()

Batches = list[tuple[Partition, list[tuple[int, list[bytes]]]]]


class Item:
    """One command on its way: what to push, and what became of the push.

    A call of a hundred thousand has as many of these: one object each that the garbage collector must pass over.
    """

    __slots__ = ("command_id", "error", "payload", "pushed_ms", "specialization", "user_id")

    def __init__(self, command: Command, payload: bytes) -> None:
        self.command_id: UUID = command.command_id
        self.specialization = command.specialization
        self.user_id = command.user_id
        self.payload = payload
        self.error: LevelqError | None = None
        self.pushed_ms = 0  # Redis's time of the push

    @property
    def lane(self) -> Lane:
        """Where it goes."""
        return Lane(self.specialization, self.user_id)

    @property
    def digest(self) -> bytes:
        """The digest of what is sent, which tells a conflict from a repeat."""
        return digest_in(self.payload)


class _Told:
    """What a lane answered to a push: how many of its commands it took, when, and why no more."""

    __slots__ = ("_at_ms", "_left", "error")

    def __init__(self, count: int, at_ms: int, error: LevelqError | None) -> None:
        self._left = count
        self._at_ms = at_ms
        self.error = error

    def tell(self, item: Item) -> None:
        """Note what became of the next of its commands."""
        item.pushed_ms = self._at_ms
        if self._left > 0:
            self._left -= 1
            item.error = None
        else:
            assert self.error is not None  # a lane that did not take all says why
            item.error = self.error


class Settled(NamedTuple):
    """What is left of a window: partitions to wake, and commands that were not queued because their lanes moved."""

    wake: list[Partition]
    moved: list[Item]


class Plan:
    """The commands of one call: all are added, which validates them, before the first window is pushed."""

    def __init__(
        self,
        settings: Settings,
        commands: Iterable[Command],
        *,
        reply: bool,
        durability: Durability | None = None,
        item: Callable[[Command, bytes], Item] = Item,
    ) -> None:
        """`item` makes what stands for a command. Raises InvalidCommand, and ConfigurationError as Wait does."""
        self._settings = settings
        self._reply = reply
        self._item = item
        self.wait = Wait(settings, durability)
        self.items: list[Item] = []
        self._refused: dict[Lane, LevelqError] = {}
        self._lost: LevelqError | None = None
        for command in commands:
            self.add(command)

    def add(self, command: Command) -> None:
        """Validate and encode one command more. Raises InvalidCommand."""
        self.items.append(self._item(command, payload_of(self._settings, command, self._reply)))

    def windows(self) -> Iterator[Sequence[Item]]:
        """What to push next, in order. Later commands of a lane that refused one are refused here."""
        return filter(None, self.steps(WINDOW))

    def steps(self, size: int) -> Iterator[Sequence[Item]]:
        """The same in windows of at most `size`; an empty one where all in it were refused."""
        for start in range(0, len(self.items), size):
            window = self.items[start : start + size]
            if self._lost or self._refused:
                for item in window:
                    item.error = self._lost or self._refused.get(item.lane)
                window = [item for item in window if item.error is None]
            yield window

    def leave_out(self, window: Sequence[Item], errors: Mapping[str, LevelqError]) -> Sequence[Item]:
        """Refuse the commands of these specializations; returns those of the others."""
        if not errors:
            return window
        for item in window:
            item.error = errors.get(item.specialization)
        self._refused |= {item.lane: item.error for item in window if item.error}
        return [item for item in window if item.error is None]

    def batches(self, window: Sequence[Item], layouts: Mapping[str, Layout]) -> Batches:
        """The window by partition and lane; the order within each lane is kept."""
        lanes: dict[Partition, dict[int, list[bytes]]] = {}
        for item in window:
            partition = layouts[item.specialization].partition(item.specialization, item.user_id)
            lanes.setdefault(partition, {}).setdefault(item.user_id, []).append(item.payload)
        return [(partition, list(users.items())) for partition, users in lanes.items()]

    def settle(self, window: Sequence[Item], batches: Batches, answers: Sequence[PushAnswer | PushError]) -> Settled:
        """Note what was refused. What has moved is to be pushed again, or to be refused."""
        told: dict[Lane, _Told] = {}
        wake: list[Partition] = []
        moved = False
        for (partition, users), answer in zip(batches, answers, strict=True):
            lanes = [Lane(partition.specialization, user_id) for user_id, _ in users]
            if isinstance(answer, RedisError | LevelqError):
                told |= dict.fromkeys(lanes, _Told(0, 0, self._failure(answer)))
            elif answer.moved:
                moved = True
                closed = Moved(f"partition {partition} was closed: the number of shards changed")
                told |= dict.fromkeys(lanes, _Told(0, 0, closed))
            else:
                if answer.wake:
                    wake.append(partition)
                for lane, (count, why) in zip(lanes, answer.lanes, strict=True):
                    error = _full(self._settings, partition, lane, why) if why else None
                    told[lane] = _Told(count, answer.at_ms, error)
        for item in window:
            told[item.lane].tell(item)
        self._refused |= {lane: t.error for lane, t in told.items() if t.error and not isinstance(t.error, Moved)}
        return Settled(wake, [item for item in window if isinstance(item.error, Moved)] if moved else [])

    def _failure(self, error: PushError) -> LevelqError:
        """Why a batch was not answered as it should be. After a lost connection nothing more is sent."""
        if isinstance(error, LevelqError):
            return error
        if isinstance(error, MovedError) and "cluster" not in self._settings.redis_url.partition("://")[0]:
            return ConfigurationError(UNCLUSTERED_URL)
        where = address(self._settings)
        if isinstance(error, ResponseError) and "non local key" not in str(error):
            return QueueUnavailable(f"{where}: refused, nothing was queued: {error}")
        if not isinstance(error, ResponseError):
            self._lost = QueueUnavailable(f"{where}: {error}")
            if isinstance(error, NotConnected):
                return self._lost
        unknown = SendUnknown(f"{where}: {error}; it may be queued: sending it again with the same id is safe")
        unknown.__cause__ = error
        return unknown

    def refuse(self, moved: Sequence[Item]) -> None:
        """Nobody says where to."""
        self._refused |= {item.lane: item.error for item in moved if item.error}

    def confirm(self, window: Sequence[Item], asked: Sequence[Sequence[Any]]) -> bool:
        """Whether what was queued is as durable as was asked, on every server; else note what it lacks."""
        short = next((answers for answers in asked if not self.wait.met(answers)), None)
        if short is None:
            return True
        for item in window:
            item.error = item.error or self.wait.shortfall(short, item.command_id)
        return False

    def unsent(self, window: Sequence[Item], error: RedisError | LevelqError) -> None:
        """There was no connection, or no such durability: this window and what follows was certainly not sent."""
        if isinstance(error, MovedError):  # of a cluster's server, and we know of no cluster
            error = ConfigurationError(UNCLUSTERED_URL)
        self._lost = (
            error if isinstance(error, LevelqError) else QueueUnavailable(f"{address(self._settings)}: {error}")
        )
        for item in window:
            item.error = self._lost


def address(settings: Settings) -> str:
    """The setting and the place it names, fit for a message."""
    return f"LEVELQ_REDIS_URL {redacted(settings.redis_url)}"


def payload_of(settings: Settings, command: Command, reply: bool) -> bytes:
    """The encoded command. Raises InvalidCommand for what the catalog or the size limit can never allow."""
    if not isinstance(command, Command):
        raise InvalidCommand(f"command: expected {COMMAND_NAMES}, got {command!r}")
    catalog = settings.tracks
    payload, record = encoded(command, reply=reply)
    never = rules.lane_refusal(lane_of(command), catalog, _LIMITS) or rules.forbidden(
        record, catalog[command.specialization], _LIMITS
    )
    if never is not None:
        raise InvalidCommand(never)
    if len(payload) > settings.payload_limit:
        raise InvalidCommand(f"command: expected at most {settings.payload_limit} bytes, got {len(payload)}")
    return payload


def _full(settings: Settings, partition: Partition, lane: Lane, why: str) -> LevelqError:
    if why == "lane":
        limit = settings.lane_limit
        return LaneFull(f"lane {lane.specialization}:{lane.user_id}: {limit} commands wait already (LEVELQ_LANE_LIMIT)")
    if why == "partition":
        limit = settings.partition_limit
        return PartitionFull(f"partition {partition}: {limit} commands wait already (LEVELQ_PARTITION_LIMIT)")
    return QueueUnavailable(f"{settings.keys.lane(partition, lane.user_id)} holds something that is not a list")
