"""What operators have paused, as `levelq status` shows it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from levelq_core.keys import Partition
from levelq_core.lanes.client import Lanes
from levelq_core.lanes.pauses import Pause, pauses
from levelq_core.operations.wording import count, time_of, when_utc

from .records import Reading, Time

MOST_LINES = 5  # users who have a line of their own

PausedPart = tuple[Partition, int | None, Pause]  # of a partition, one user's lane or (None) all of it


class ActivePause(Reading):
    """A specialization, or one user's lane in it, that drains leave alone.

    `until`: None if it lasts until `levelq resume`. `partitions`: the shards that are paused.
    """

    specialization: str
    user: int | None
    since: Time
    until: Time | None
    actor: str
    reason: str
    partitions: tuple[str, ...]

    @property
    def what(self) -> str:
        """`PLAYER`, or `user 42 in PLAYER`."""
        return self.specialization if self.user is None else f"user {self.user} in {self.specialization}"

    @property
    def how(self) -> str:
        """By whom, since when, until when and why."""
        until = "until resumed" if self.until is None else f"until {when_utc(self.until)}"
        return f"paused by {self.actor} since {when_utc(self.since)}, {until}" + (self.reason and f": {self.reason}")

    @property
    def line(self) -> str:
        """The same as a problem, and how to end it."""
        user = "" if self.user is None else f" --user {self.user}"
        return f"{self.what}: {self.how}; to end it: levelq resume {self.specialization}{user}"


def active_pauses(lanes: Lanes, partitions: Iterable[Partition]) -> list[ActivePause]:
    """The pauses of these partitions; whole specializations first. Raises RedisError."""
    return grouped([
        (partition, user, pause)
        for partition in partitions
        for user, pause in pauses(lanes.redis, lanes.keys, partition).items()
    ])  # fmt: skip


def grouped(parts: Iterable[PausedPart]) -> list[ActivePause]:
    """One record for the shards of a specialization that have the same pause."""

    def same(part: PausedPart) -> tuple[bool, str, int, str, str]:
        partition, user, pause = part
        return user is not None, partition.specialization, user or 0, pause.actor, pause.reason

    return [_record(list(some)) for _, some in groupby(sorted(parts, key=same), key=same)]


def _record(parts: Sequence[PausedPart]) -> ActivePause:
    partition, user, first = parts[0]
    ends = [pause.until_ms for _, _, pause in parts]
    return ActivePause(
        specialization=partition.specialization,
        user=user,
        since=time_of(min(pause.since_ms for _, _, pause in parts)),
        until=None if None in ends else time_of(max(end or 0 for end in ends)),
        actor=first.actor,
        reason=first.reason,
        partitions=tuple(str(each) for each, _, _ in parts),
    )


def pause_lines(found: Sequence[ActivePause]) -> Iterator[str]:
    """One line for each specialization, and for the first of the users."""
    whole = [pause for pause in found if pause.user is None]
    users = found[len(whole) :]
    yield from (pause.line for pause in (*whole, *users[:MOST_LINES]))
    if users[MOST_LINES:]:
        yield f"{count(len(users) - MOST_LINES, 'user')} more paused: levelq status --json"
