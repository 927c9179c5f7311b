"""Who waits for which outcome in Redis, and what to read next. No input or output here: threads and tasks share it.

All who wait in one process, or on one event loop, share one read: XREAD BLOCK on the streams of all of them. One of
them reads for all, until it has its own outcome; then another does. A lone waiter so reads its own stream directly.
Who comes while a read is under way ends it by CLIENT UNBLOCK from another connection, and the next one is for all.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import Any
from uuid import UUID

from redis.exceptions import InvalidResponse

from levelq_core.domain.outcome import Outcome
from levelq_core.lanes import outcome_streams as replies
from levelq_core.redis_client.pool import RedisCommand

FIRST = "0"  # before the first entry of a stream
FEW = 16  # streams that may be read again at once
EACH_SECONDS = 1e-5  # between the beginnings of two reads, for each stream in them: what they cost grows likewise
SHORT_SECONDS = 0.05  # of a read that cannot be ended by CLIENT UNBLOCK
FIRST_LOOK_SECONDS, LONGEST_LOOK_SECONDS = 0.002, 0.05  # between two looks at a cluster, where no read can be for all
UNKNOWN, NEVER = 0, -1  # which connection reads: not told yet; not to be ended

Position = str | bytes


class Waiter:
    """One who waits for the outcome of a command: `send` tells which send of it; `ready` wakes its thread or task."""

    __slots__ = ("command_id", "error", "key", "number", "outcome", "position", "ready", "seen", "send")

    def __init__(self, key: str, command_id: UUID, send: bytes | None, ready: Any) -> None:
        self.key = key
        self.command_id = command_id
        self.send = send
        self.ready = ready
        self.position: Position = FIRST
        self.outcome: Outcome | None = None
        self.error: Exception | None = None
        self.number = 0  # the last read that was for it, too
        self.seen = False  # such a read has ended

    @property
    def answered(self) -> bool:
        """Whether it need not wait any longer."""
        return self.outcome is not None or self.error is not None

    def take(self) -> Outcome | None:
        """The outcome, if it has come; an error is raised once."""
        error, self.error = self.error, None
        if error is not None:
            raise error
        return self.outcome

    def read(self, entries: Iterable[Any]) -> None:
        """Look for the outcome among a stream's entries; it is an error if it is of another command."""
        found, last = replies.read_entries(entries, self.send)
        if found is not None and found.command_id != self.command_id:
            self.error = InvalidResponse(f"asked for the outcome of {self.command_id}, told of {found.command_id}")
            return
        self.outcome = found
        if found is None and last is not None:
            self.position = last


class SharedRead:
    """All waiters, and the one read that one of them makes for all: who reads, what, and who is woken. No locks."""

    def __init__(self) -> None:
        self.reading = 0  # the number of the read under way; 0: none
        self.connection = UNKNOWN  # what the server calls the connection of that read
        self.may_end = True  # whether CLIENT UNBLOCK is allowed
        self._of: dict[str, list[Waiter]] = {}
        self._leader: Waiter | None = None
        self._followers: dict[Waiter, None] = {}
        self._number = 0
        self._ended = 0  # the read that is being ended for those who came
        self._began = 0.0
        self._looked = FIRST_LOOK_SECONDS

    def __len__(self) -> int:
        return len(self._of)

    def add(self, waiter: Waiter) -> None:
        """Wait for an outcome."""
        self._of.setdefault(waiter.key, []).append(waiter)
        self._looked = FIRST_LOOK_SECONDS

    def remove(self, waiter: Waiter) -> None:
        """Wait no longer."""
        left = [other for other in self._of.get(waiter.key, ()) if other is not waiter]
        if left:
            self._of[waiter.key] = left
        else:
            self._of.pop(waiter.key, None)

    def lead(self, waiter: Waiter) -> bool:
        """Whether this one shall read for all now; else it is woken when it shall, or when it is answered."""
        if self._leader is None or self._leader is waiter:
            self._leader = waiter
            self._followers.pop(waiter, None)
            return True
        self._followers[waiter] = None
        return False

    def leave(self, waiter: Waiter) -> Waiter | None:
        """It waits here no longer; who is to be woken to read for all, if anyone."""
        self._followers.pop(waiter, None)
        if self._leader is waiter:
            self._leader = None
        return next(iter(self._followers), None) if self._leader is None else None

    def pause(self, now: float) -> float:
        """Seconds until the next read may begin."""
        return 0.0 if len(self._of) <= FEW else self._began + EACH_SECONDS * len(self._of) - now

    def start(self, now: float) -> dict[str, Position]:
        """A read begins: from where in which streams."""
        self._number += 1
        self.reading, self.connection, self._began = self._number, UNKNOWN, now
        streams: dict[str, Position] = {}
        for key, waiters in self._of.items():
            for waiter in waiters:
                if not waiter.answered:
                    waiter.number = self._number
                    streams[key] = waiter.position if len(waiters) == 1 else FIRST
        return streams

    def reads_on(self, connection: Any) -> None:
        """What the server calls the connection of the read under way, or why it does not tell."""
        told = not isinstance(connection, Exception)
        self.may_end = self.may_end and told
        self.connection = connection if told else NEVER

    def block(self, left: float, most: float) -> float:
        """For how many seconds a read may block."""
        return max(0.001, min(left, most if self.may_end else min(most, SHORT_SECONDS)))

    def look_again(self, found: bool) -> float:
        """Seconds until the next look at a cluster: sooner where something was found."""
        self._looked = FIRST_LOOK_SECONDS if found else min(LONGEST_LOOK_SECONDS, self._looked * 1.5)
        return self._looked + EACH_SECONDS * len(self._of)

    def end(self, streams: Iterable[str]) -> None:
        """A read has ended."""
        self.reading = 0
        for key in streams:
            for waiter in self._read_for(key):
                waiter.seen = True

    def must_end(self, waiter: Waiter) -> int:
        """Which read must be ended for one who came; 0: none, or another does so."""
        if not self.reading or waiter.number == self.reading:
            return 0
        if self._ended == self.reading or self.connection == NEVER or not self.may_end:
            return 0
        self._ended = self.reading
        return self.reading

    def _read_for(self, key: str) -> list[Waiter]:
        """Who wait for this stream, but for those who came since the read began."""
        return [waiter for waiter in self._of.get(key, ()) if waiter.number == self._number]

    def settle(self, answers: Iterable[tuple[str, Any]]) -> list[Waiter]:
        """Give each who waits what was read for it; who is to be woken."""
        answered = []
        for key, entries in answers:
            for waiter in self._read_for(key):
                if isinstance(entries, Exception):
                    waiter.error = entries
                else:
                    waiter.read(entries)
                if waiter.answered:
                    answered.append(waiter)
        return answered


def wrong_answer(woken: Iterable[Waiter]) -> InvalidResponse | None:
    """Why the connection must not be used again, if one of these was told of another command."""
    return next((waiter.error for waiter in woken if isinstance(waiter.error, InvalidResponse)), None)


def check_keys(reply: Any, asked: Container[str]) -> None:
    """Raises InvalidResponse if a reply is of streams that were not asked for."""
    for key, _ in () if isinstance(reply, Exception) else replies.streams(reply):
        if key not in asked:
            raise InvalidResponse(f"told of {key}, which was not asked for")


def block_on(streams: dict[str, Position], seconds: float) -> RedisCommand:
    """The read of all, which waits for the first of them."""
    return ("XREAD", "BLOCK", max(1, int(1000 * seconds)), "STREAMS", *streams, *streams.values())


def look(streams: dict[str, Position]) -> list[RedisCommand]:
    """Reads of each alone, which do not wait."""
    return [("XREAD", "STREAMS", key, position) for key, position in streams.items()]


def found_in(streams: Iterable[str], answers: Iterable[Any]) -> list[tuple[str, Any]]:
    """What reads of each alone found; an error where one was refused."""
    found: list[tuple[str, Any]] = []
    for key, answer in zip(streams, answers, strict=True):
        if isinstance(answer, Exception):
            found.append((key, answer))
        else:
            found += replies.streams(answer)
    return found
