"""A send without its I/O: encode commands, group them by lane, settle what the lanes answered."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

from redis.exceptions import MovedError, ResponseError

from levelq_core.domain import rules
from levelq_core.domain.codec import digest_in, encoded, with_trace
from levelq_core.domain.commands import COMMAND_NAMES, Command, SyncLevels, build
from levelq_core.domain.record import Lane, lane_of
from levelq_core.domain.rules import Limits
from levelq_core.errors import (
    ConfigurationError,
    InvalidCommand,
    LaneFull,
    LevelqError,
    Moved,
    NotDurable,
    PartitionFull,
    QueueFull,
    QueueUnavailable,
    SendUnknown,
)
from levelq_core.keys import Partition
from levelq_core.lanes.protocol import LaneEntries, PushAnswer, PushError
from levelq_core.lanes.shard_layout import Layout
from levelq_core.redis_client.cluster import UNCLUSTERED_URL, NotConnected
from levelq_core.redis_client.url_options import redacted

from .durability import DurabilityWait

if TYPE_CHECKING:
    from levelq_core.settings import Settings

WINDOW = 2_500  # commands in one round trip: some 25 ms in which the server serves no other client
LOOP_WINDOW = 500  # on an event loop, which a window holds for a few milliseconds
_LIMITS = Limits()


class SentCommand:
    """One command on its way: what is pushed, and what became of the push.

    A call of a hundred thousand has as many of these: one object each that the garbage collector must pass over.
    """

    __slots__ = ("command_id", "error", "payload", "pushed_ms", "specialization", "user_id")

    command_id: UUID
    specialization: str
    user_id: int
    payload: bytes  # empty for a command that another process sent
    pushed_ms: int  # Redis's time of the push
    error: LevelqError | None

    @property
    def lane(self) -> Lane:
        """The lane it goes to."""
        return Lane(self.specialization, self.user_id)

    @property
    def digest(self) -> bytes:
        """The digest of what was sent. It distinguishes a conflict from a repeat; empty if another process sent it."""
        return digest_in(self.payload) if self.payload else b""


class PartitionBatch(NamedTuple):
    """What goes to one partition in one push: its commands by user, in their order."""

    partition: Partition
    users: dict[int, list[SentCommand]]

    def entries(self) -> tuple[Partition, list[LaneEntries]]:
        """The batch as `push` expects it."""
        return self.partition, [(user_id, [one.payload for one in sent]) for user_id, sent in self.users.items()]


def encode(settings: Settings, command: Command, *, reply: bool, trace: bytes = b"") -> bytes:
    """The command as an entry, with the trace context if it has room for it.

    Raises InvalidCommand for what the catalog or the size limit can never allow.
    """
    if not isinstance(command, Command):
        message = f"command: expected {COMMAND_NAMES}, got {command!r}"
        raise InvalidCommand(message, field="command", value=command)
    catalog = settings.tracks
    lane = lane_of(command)
    payload, record = encoded(lane, command, reply=reply)
    never = rules.lane_refusal(lane, catalog, _LIMITS)
    never = never or rules.forbidden(record, catalog[command.specialization], _LIMITS)
    if never is not None:
        field = never.partition(":")[0]
        limit = catalog[command.specialization].max_level if field in ("level", "new_level") else None
        raise _refused(command, never, field=field, value=getattr(command, field), limit=limit)
    if len(payload) > settings.payload_limit:
        message = f"command: expected at most {settings.payload_limit} bytes, got {len(payload)}"
        raise _refused(command, message, field="command", value=len(payload), limit=settings.payload_limit)
    if trace and len(payload) + len(trace) <= settings.payload_limit:
        return with_trace(payload, trace)
    return payload


def require_lane(settings: Settings, user_id: int | None, specialization: str | None) -> Lane:
    """The lane of a user. Raises InvalidCommand as a send would: a misspelt one would look like one that is empty."""
    command = build(SyncLevels, user_id=user_id, specialization=specialization)
    if never := rules.lane_refusal(lane_of(command), settings.tracks, _LIMITS):
        field = never.partition(":")[0]
        raise InvalidCommand(never, field=field, value=getattr(command, field))
    return lane_of(command)


def _refused(command: Command, message: str, **named: Any) -> InvalidCommand:
    own = {"user_id": command.user_id, "specialization": command.specialization, "command_id": command.command_id}
    return InvalidCommand(message, **named, **own)


def group_by_lane(window: Iterable[SentCommand], layouts: Mapping[str, Layout]) -> list[PartitionBatch]:
    """The window by partition and lane; the order within each lane is kept."""
    batches: dict[Partition, dict[int, list[SentCommand]]] = {}
    for command in window:
        partition = layouts[command.specialization].partition(command.specialization, command.user_id)
        batches.setdefault(partition, {}).setdefault(command.user_id, []).append(command)
    return [PartitionBatch(partition, users) for partition, users in batches.items()]


def take_trip(waiting: deque[Any], most: int, taken: list[Any]) -> None:
    """Take the first calls from those that wait, with `most` commands in all."""
    while waiting and len(waiting[0].commands) <= most:
        most -= len(waiting[0].commands)
        taken.append(waiting[0])
        del waiting[0]


class Settled(NamedTuple):
    """What is left to do after a push."""

    wake: list[Partition]  # partitions whose drain must be woken
    moved: list[SentCommand]  # not queued, because their lanes moved to other partitions
    durable: bool  # whether everything that was queued is as durable as was asked


class Settlement:
    """What became of the commands of one round trip, or of one call, which may take several.

    A lane that refused one command refuses all that follow in the same call.
    """

    __slots__ = ("_lost", "_refused", "_settings", "closed", "wait", "wake")

    def __init__(self, settings: Settings, wait: DurabilityWait) -> None:
        self.wait = wait
        self.wake: list[Partition] = []  # partitions whose drain the trip's callers must wake
        self.closed: dict[str, int] = {}  # by specialization, the generation that takes no commands any more
        self._settings = settings
        self._refused: dict[Lane, LevelqError] = {}
        self._lost: LevelqError | None = None  # why nothing more is sent

    def take_wake(self) -> list[Partition]:
        """The partitions to wake, for the first of a trip's callers."""
        wake, self.wake = self.wake, []
        return wake

    def moved(self, window: Sequence[SentCommand]) -> list[SentCommand]:
        """The commands of a window that were not queued, because their lanes moved."""
        return [command for command in window if isinstance(command.error, Moved)] if self.closed else []

    def note(self, window: Sequence[SentCommand], trip: Settlement) -> None:
        """Note what a trip did with a window, for the windows that follow."""
        for command in window if trip._refused or trip._lost or trip.closed else ():
            if command.error is not None and not isinstance(command.error, NotDurable):
                self._refused[command.lane] = command.error
                if command.error is trip._lost or isinstance(command.error, SendUnknown):
                    self._lost = self._lost or trip._lost

    def still_open(self, window: Sequence[SentCommand]) -> Sequence[SentCommand]:
        """Refuse the commands that follow a refusal; returns the others."""
        if not self._lost and not self._refused:
            return window
        for command in window:
            command.error = self._lost or self._refused.get(command.lane)
        return [command for command in window if command.error is None]

    def refuse_specializations(
        self, window: Sequence[SentCommand], errors: Mapping[str, LevelqError]
    ) -> Sequence[SentCommand]:
        """Refuse the commands of some specializations; returns the others."""
        for command in window if errors else ():
            if command.specialization in errors:
                self._refused[command.lane] = errors[command.specialization]
        return self.still_open(window)

    def refuse_all(self, window: Sequence[SentCommand], error: Exception) -> None:
        """Note why nothing of this window, nor of those that follow, was sent."""
        if isinstance(error, MovedError):  # of a cluster's server, by a URL of one server
            error = ConfigurationError(UNCLUSTERED_URL, setting="LEVELQ_REDIS_URL")
        if not isinstance(error, LevelqError):
            error = unavailable(self._settings, str(error))
        self._lost = error
        self.still_open(window)

    def refuse_unknown(self, window: Sequence[SentCommand], error: BaseException) -> None:
        """Note that the trip was interrupted: what the server did is unknown, and nothing more is sent."""
        self._lost = unavailable(self._settings, type(error).__name__)
        _set_error(window, self._unknown(error))

    def settle(self, batches: Sequence[PartitionBatch], answers: Sequence[PushAnswer | PushError]) -> Settled:
        """Note what became of each command of a push."""
        settled = Settled([], [], durable=True)
        for batch, answer in zip(batches, answers, strict=True):
            if not isinstance(answer, PushAnswer):
                self._refuse_batch(batch, self._failure(answer))
            elif answer.moved:
                self.closed[batch.partition.specialization] = batch.partition.generation
                message = f"partition {batch.partition} was closed: the number of shards changed"
                closed = Moved(message, partition=str(batch.partition))
                for sent in batch.users.values():
                    _set_error(sent, closed)
                    settled.moved.extend(sent)
            else:
                if answer.wake:
                    settled.wake.append(batch.partition)
                if not self._settle_batch(batch, answer):
                    settled = settled._replace(durable=False)
        return settled

    def _settle_batch(self, batch: PartitionBatch, answer: PushAnswer) -> bool:
        """Note what a partition accepted of a batch; returns whether that is as durable as was asked."""
        durable = self.wait.is_met(answer.durability_replies)
        for (user_id, sent), (count, limit) in zip(batch.users.items(), answer.lanes, strict=True):
            for command in sent:
                command.pushed_ms = answer.at_ms
                command.error = None if durable else self.wait.shortfall(answer.durability_replies, command.command_id)
            if limit:
                lane = Lane(batch.partition.specialization, user_id)
                self._refused[lane] = _full(self._settings, batch.partition, lane, limit)
                _set_error(sent[count:], self._refused[lane])
        return durable

    def _refuse_batch(self, batch: PartitionBatch, error: LevelqError) -> None:
        for user_id, sent in batch.users.items():
            self._refused[Lane(batch.partition.specialization, user_id)] = error
            _set_error(sent, error)

    def _failure(self, error: PushError) -> LevelqError:
        """What a push that failed means for its commands. After a lost connection nothing more is sent."""
        if isinstance(error, LevelqError):
            return error
        if isinstance(error, MovedError) and "cluster" not in self._settings.redis_url.partition("://")[0]:
            return ConfigurationError(UNCLUSTERED_URL, setting="LEVELQ_REDIS_URL")
        if isinstance(error, ResponseError) and "non local key" not in str(error):
            return unavailable(self._settings, f"refused, nothing was queued: {error}")
        if not isinstance(error, ResponseError):
            self._lost = unavailable(self._settings, str(error))
            if isinstance(error, NotConnected):
                return self._lost
        return self._unknown(error)

    def _unknown(self, error: BaseException) -> QueueUnavailable:
        advice = "it may be queued: sending it again with the same id is safe"
        unknown = unavailable(self._settings, f"{str(error) or type(error).__name__}; {advice}", SendUnknown)
        unknown.__cause__ = error
        return unknown


def unavailable(
    settings: Settings, what: str, kind: type[QueueUnavailable] = QueueUnavailable, **named: Any
) -> QueueUnavailable:
    """The error of a Redis that cannot be used; the message begins with its setting and URL, without the password."""
    url = redacted(settings.redis_url)
    return kind(f"LEVELQ_REDIS_URL {url}: {what}", setting="LEVELQ_REDIS_URL", value=url, **named)


def _set_error(commands: Iterable[SentCommand], error: LevelqError) -> None:
    for command in commands:
        command.error = error


def _full(settings: Settings, partition: Partition, lane: Lane, limit: str) -> LevelqError:
    own = {"partition": str(partition), "user_id": lane.user_id}
    kind: type[QueueFull]
    if limit == "lane":
        message = f"lane {lane.specialization}:{lane.user_id}: {settings.lane_limit} commands wait already"
        kind, setting, most = LaneFull, "LEVELQ_LANE_LIMIT", settings.lane_limit
    elif limit == "partition":
        message = f"partition {partition}: {settings.partition_limit} commands wait already"
        kind, setting, most = PartitionFull, "LEVELQ_PARTITION_LIMIT", settings.partition_limit
    else:
        key = settings.keys.lane(partition, lane.user_id)
        return QueueUnavailable(f"{key} holds something that is not a list", **own)
    return kind(f"{message} ({setting})", specialization=lane.specialization, limit=most, setting=setting, **own)
