"""What operators have paused, as `levelq status` shows it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from redis import Redis

from levelq_core.keys import Keys, Partition
from levelq_core.lanes.client import Lanes
from levelq_core.lanes.pauses import MOST_PAUSES, Pause, pause_of, pauses, resume_command
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
    def how(self) -> str:
        """By whom, since when, until when and why."""
        until = "until resumed" if self.until is None else f"until {when_utc(self.until)}"
        return f"paused by {self.actor} since {when_utc(self.since)}, {until}" + (self.reason and f": {self.reason}")


def active_pauses(lanes: Lanes, partitions: Iterable[Partition], most: int = MOST_PAUSES) -> list[ActivePause]:
    """The pauses of these partitions, `most` of each; whole specializations first. Raises RedisError."""
    return grouped([
        (partition, user, pause)
        for partition in partitions
        for user, pause in pauses(lanes.redis, lanes.keys, partition, most).items()
    ])  # fmt: skip


def lane_pause(redis: Redis, keys: Keys, partition: Partition, user_id: int) -> ActivePause | None:
    """What keeps drains from a user's lane: the pause of its whole partition, or of the user. Raises RedisError."""
    for user in (None, user_id):
        pause = pause_of(redis, keys, partition, user)
        if pause is not None:
            return _record([(partition, user, pause)])
    return None


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


def described(found: Iterable[ActivePause]) -> dict[tuple[int | None, str], list[str]]:
    """The specializations of each pause, by user and `how`; those paused together differ by less than a second."""
    names: dict[tuple[int | None, str], list[str]] = {}
    for pause in found:
        names.setdefault((pause.user, pause.how), []).append(pause.specialization)
    return names


def pause_what(user: int | None, names: Sequence[str]) -> str:
    """`COACH, PLAYER`, or `user 42 in COACH, PLAYER`."""
    return ", ".join(names) if user is None else f"user {user} in {', '.join(names)}"


def pause_lines(found: Iterable[ActivePause], most: int = MOST_PAUSES) -> Iterator[str]:
    """What is paused, how, and how to end it: a line for each pause of specializations, and for the first users.

    `most`: how many pauses of each partition were read.
    """
    users, every = 0, list(found)
    for (user, how), names in described(every).items():
        users += user is not None
        if users <= MOST_LINES:
            yield f"{pause_what(user, names)}: {how}; to end it: {resume_command(' '.join(names), user)}"
    if users > MOST_LINES:
        of_users = Counter(name for pause in every if pause.user is not None for name in pause.partitions)
        at_least = "at least " if max(of_users.values()) >= most else ""
        yield f"{at_least}{count(users - MOST_LINES, 'user')} more paused: levelq status --json"
