"""A send, without its input and output: validate, encode, cut into windows, read what the lanes answered.

Both producers drive a Plan; they differ only in how they wait.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any
from uuid import UUID

from redis.exceptions import RedisError

from levelq_core import rules
from levelq_core.codec import Lane, digest_in, encoded, lane_of
from levelq_core.commands import Command, LevelUp, SetLevel, SyncLevels
from levelq_core.errors import (
    InvalidCommand,
    LaneFull,
    LevelqError,
    Moved,
    PartitionFull,
    QueueUnavailable,
    SendUnknown,
)
from levelq_core.partitions import Partition
from levelq_core.rules import Limits
from levelq_core.scripts import PushAnswer
from levelq_core.settings import Durability, Settings, redacted

from .durability import Wait

WINDOW = 2_500  # commands in one round trip: some 25 ms in which the server serves nobody else
_LIMITS = Limits()

Batches = list[tuple[Partition, list[tuple[int, list[bytes]]]]]


class Item:
    """One command on its way: what to push, and what became of the push."""

    __slots__ = ("command_id", "error", "lane", "payload", "pushed_ms")

    def __init__(self, command: Command, payload: bytes) -> None:
        self.command_id: UUID = command.command_id
        self.lane = lane_of(command)
        self.payload = payload
        self.error: LevelqError | None = None
        self.pushed_ms = 0  # Redis's time of the push

    @property
    def digest(self) -> bytes:
        """The digest of what is sent, which tells a conflict from a repeat."""
        return digest_in(self.payload)


class Plan:
    """The commands of one call. Making it validates them all: raises InvalidCommand before anything is sent."""

    def __init__(
        self, settings: Settings, commands: Iterable[Command], *, reply: bool, durability: Durability | None = None
    ) -> None:
        self._settings = settings
        self.wait = Wait(settings, durability)
        self.items = [Item(command, payload_of(settings, command, reply)) for command in commands]
        self._refused: dict[Lane, LevelqError] = {}
        self._lost: LevelqError | None = None

    def windows(self) -> Iterator[Sequence[Item]]:
        """What to push next, in order. Later commands of a lane that refused one are refused here."""
        for start in range(0, len(self.items), WINDOW):
            window = self.items[start : start + WINDOW]
            for item in window:
                item.error = self._lost or self._refused.get(item.lane)
            wanted = [item for item in window if item.error is None]
            if wanted:
                yield wanted

    def batches(self, window: Sequence[Item]) -> Batches:
        """The window by partition and lane; the order within each lane is kept."""
        lanes: dict[Partition, dict[int, list[bytes]]] = {}
        shards = self._settings.shards
        for item in window:
            partition = Partition.of(item.lane.specialization, item.lane.user_id, shards)
            lanes.setdefault(partition, {}).setdefault(item.lane.user_id, []).append(item.payload)
        return [(partition, list(users.items())) for partition, users in lanes.items()]

    def settle(
        self, window: Sequence[Item], batches: Batches, answers: Sequence[PushAnswer | RedisError]
    ) -> list[Partition]:
        """Note what was refused; the partitions to wake."""
        accepted: dict[Lane, int] = {}
        pushed_ms: dict[Lane, int] = {}
        errors: dict[Lane, LevelqError] = {}
        wake: list[Partition] = []
        for (partition, users), answer in zip(batches, answers, strict=True):
            lanes = [Lane(partition.specialization, user_id) for user_id, _ in users]
            if isinstance(answer, RedisError) or answer.moved:
                errors |= dict.fromkeys(lanes, _refusal(self._settings, partition, answer))
                continue
            if answer.wake:
                wake.append(partition)
            for lane, (count, why) in zip(lanes, answer.lanes, strict=True):
                accepted[lane], pushed_ms[lane] = count, answer.at_ms
                if why:
                    errors[lane] = _full(self._settings, partition, lane, why)
        self._refused |= errors
        for item in window:
            left = accepted.get(item.lane, 0)
            accepted[item.lane] = left - 1
            item.error = errors[item.lane] if left <= 0 else None
            item.pushed_ms = pushed_ms.get(item.lane, 0)
        return wake

    def confirm(self, window: Sequence[Item], answers: Sequence[Any]) -> bool:
        """Whether what was queued is as durable as was asked; else note what it lacks."""
        if self.wait.met(answers):
            return True
        for item in window:
            item.error = item.error or self.wait.shortfall(answers, item.command_id)
        return False

    def unsent(self, window: Sequence[Item], error: RedisError | LevelqError) -> None:
        """There was no connection, or no such durability: this window and what follows was certainly not sent."""
        self._lost = (
            error if isinstance(error, LevelqError) else QueueUnavailable(f"{address(self._settings)}: {error}")
        )
        for item in window:
            item.error = self._lost

    def lost(self, window: Sequence[Item], error: RedisError) -> None:
        """The connection broke: the window may be queued or not; what follows was not sent."""
        self.unsent(window, error)
        text = f"{address(self._settings)}: {error}; it may be queued: sending it again with the same id is safe"
        for item in window:
            item.error = SendUnknown(text)


def address(settings: Settings) -> str:
    """The setting and the place it names, fit for a message."""
    return f"LEVELQ_REDIS_URL {redacted(settings.redis_url)}"


def payload_of(settings: Settings, command: Command, reply: bool) -> bytes:
    """The encoded command. Raises InvalidCommand for what the catalog or the size limit can never allow."""
    if not isinstance(command, LevelUp | SetLevel | SyncLevels):
        raise InvalidCommand(f"command: expected LevelUp, SetLevel or SyncLevels, got {command!r}")
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
    return QueueUnavailable(f"{partition.lane_key(lane.user_id)} holds something that is not a list")


def _refusal(settings: Settings, partition: Partition, answer: PushAnswer | RedisError) -> LevelqError:
    if isinstance(answer, RedisError):
        return QueueUnavailable(f"{address(settings)}: refused, nothing was queued: {answer}")
    return Moved(f"partition {partition} was closed: the number of shards changed")
