"""What waits in a user's lanes: the state of each in Redis, and its first commands there and in the outbox."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, Self

from redis import Redis
from sqlalchemy import Connection, text

from levelq_core.database.table_names import OUTBOX
from levelq_core.domain import codec
from levelq_core.domain.record import Lane
from levelq_core.keys import Partition
from levelq_core.lanes.lane_editor import LaneEditor
from levelq_core.lanes.protocol import Oversized
from levelq_core.lanes.user_lane import UserLane, of_user
from levelq_core.operations.wording import time_of
from levelq_core.settings import Settings

from .pauses import ActivePause, lane_pause
from .records import CommandContent, ParkedLane, Reading, Time

FIRST = 3  # commands of a lane that are shown


class WaitingCommand(Reading):
    """One of the first entries of a lane, or one of the first rows of the outbox that were never pushed.

    `position`: from 1, in its lane or in the outbox. `sent_at`: when it was pushed, or written into the outbox.
    `command` is None for an entry that this version cannot read; `problem` says why.
    """

    held_in: Literal["lane", "outbox"]
    position: int
    sent_at: Time | None
    command: CommandContent | None
    problem: str = ""

    def in_words(self) -> str:
        """The command, or why it is none, on one line."""
        return self.command.in_words() + self.command.origin() if self.command else f"no command: {self.problem}"


class OutboxRows(Reading):
    """A lane's rows in the outbox: how many, how many of them were never pushed, and since when the first of those."""

    total: int
    unpushed: int
    unpushed_since: Time | None


class ParkedUserLane(ParkedLane):
    """A lane of the user that is parked now.

    `waiting`: how many commands it holds, None if its key is no list. `retry_in_seconds`: until the next attempt, by
    the clock of Redis; 0 if it is due, None while a worker has it.
    """

    specialization: str
    waiting: int | None
    retry_in_seconds: float | None


class WaitingLane(Reading):
    """A user's lane in Redis. Times are by its clock; `now` is when it was read.

    `waiting`: how many commands it holds, None if its key is no list; `first`: the first of them. `due_at`: from when
    on a worker may claim it, and `ahead`: how many lanes of the partition come before it. `claimed_by`: the worker that
    has it (`host:pid`), until `claimed_until`. `paused`: by whom all of its partition or this user is paused.
    """

    partition: str
    specialization: str
    now: Time
    waiting: int | None
    first: tuple[WaitingCommand, ...]
    due_at: Time | None
    ahead: int
    claimed_by: str | None
    claimed_until: Time | None
    parked: ParkedUserLane | None
    paused: ActivePause | None

    @classmethod
    def of(
        cls, lane: UserLane, first: tuple[WaitingCommand, ...], held: str | None, paused: ActivePause | None
    ) -> Self:
        """The record of a lane. `held`: what to do about the rows that other code holds."""
        parked, name = lane.parked, lane.partition.specialization
        left = None if parked is None or parked.until_ms is None else max(0.0, (parked.until_ms - lane.now_ms) / 1000)
        more = {"specialization": name, "waiting": lane.waiting, "retry_in_seconds": left}
        return cls(
            partition=str(lane.partition),
            specialization=name,
            now=time_of(lane.now_ms),
            waiting=lane.waiting,
            first=first,
            due_at=None if lane.due_ms is None else time_of(lane.due_ms),
            ahead=lane.ahead,
            claimed_by=lane.claimed_by,
            claimed_until=None if lane.claimed_until_ms is None else time_of(lane.claimed_until_ms),
            parked=None if parked is None else ParkedUserLane.of(lane.partition, parked, held, **more),
            paused=paused,
        )


def user_lanes(
    redis: Redis, settings: Settings, user_id: int, specialization: str | None = None, first: int = FIRST
) -> Iterator[tuple[UserLane, tuple[WaitingCommand, ...], ActivePause | None]]:
    """Every lane that may hold commands of the user, with its `first` commands, and its pause. Raises RedisError."""
    lanes = LaneEditor(redis, settings)
    known = {partition.specialization for partition in lanes.partitions()} | set(settings.tracks)
    for name, layout in lanes.read_layouts(known if specialization is None else {specialization}).found.items():
        for partition in layout.holding(name, user_id):
            lane = of_user(redis, settings.keys, partition, user_id)
            yield (
                lane,
                _first_in_lane(lanes, lane, user_id, first),
                lane_pause(redis, settings.keys, partition, user_id),
            )


def _first_in_lane(lanes: LaneEditor, lane: UserLane, user_id: int, first: int) -> tuple[WaitingCommand, ...]:
    if not lane.waiting:
        return ()
    skipped = max(0, lane.waiting - first)
    ((_, entries),) = lanes.peek(lane.partition, [(b"%d" % user_id, skipped)])
    return tuple(_in_lane(lane.partition, user_id, n, entry) for n, entry in enumerate(entries[:first], 1))


def _in_lane(partition: Partition, user_id: int, position: int, entry: bytes | Oversized) -> WaitingCommand:
    if isinstance(entry, Oversized):
        problem = f"{entry.length:,} bytes, over the payload limit"
        return WaitingCommand(held_in="lane", position=position, sent_at=None, command=None, problem=problem)
    stamp = entry[: codec.STAMP_DIGITS]
    sent_at = time_of(int(stamp)) if stamp.isdigit() else None
    command, problem = _read(Lane(partition.specialization, user_id), entry)
    return WaitingCommand(held_in="lane", position=position, sent_at=sent_at, command=command, problem=problem)


def _read(lane: Lane, entry: bytes) -> tuple[CommandContent | None, str]:
    """The command of an entry, or why it is none."""
    try:
        return CommandContent.of_record(lane, codec.decode(entry, lane.salt)), ""
    except (codec.MalformedEntry, codec.NewerVersion) as error:
        return None, str(error)


def outbox_rows(connection: Connection, user_id: int) -> dict[str, OutboxRows]:
    """How many rows of the user are in the outbox, by specialization. Raises DBAPIError."""
    rows = connection.execute(_COUNTS, {"user": user_id}).mappings()
    return {row["specialization"]: OutboxRows.model_validate(dict(row)) for row in rows}


def first_in_outbox(connection: Connection, lane: Lane, first: int = FIRST) -> tuple[WaitingCommand, ...]:
    """The first rows of a lane that were never pushed. Raises DBAPIError."""
    rows = connection.execute(_UNPUSHED, {"user": lane.user_id, "specialization": lane.specialization, "most": first})
    return tuple(_in_outbox(lane, n, row) for n, row in enumerate(rows, 1))


def _in_outbox(lane: Lane, position: int, row: Any) -> WaitingCommand:
    command, problem = _read(lane, b"0" * codec.STAMP_DIGITS + bytes(row.payload))
    return WaitingCommand(held_in="outbox", position=position, sent_at=row.created_at, command=command, problem=problem)


# The rows of a user by specialization.
_COUNTS = text(f"""
    SELECT specialization, count(*) AS total, count(*) FILTER (WHERE pushed_at IS NULL) AS unpushed,
           min(created_at) FILTER (WHERE pushed_at IS NULL) AS unpushed_since
    FROM {OUTBOX} WHERE user_id = :user GROUP BY specialization
""")

# The first rows of a lane that were never pushed.
_UNPUSHED = text(f"""
    SELECT payload, created_at FROM {OUTBOX}
    WHERE user_id = :user AND specialization = :specialization AND pushed_at IS NULL ORDER BY id LIMIT :most
""")
