"""Which waiter waits for which outcome in Redis, and what to read next. No I/O: threads and tasks share it.

All waiters of one process, or of one event loop, share one read: XREAD BLOCK on the streams of all of them. One waiter,
the leader, reads for all until it has its own outcome; then another does. A lone waiter so reads its own stream.
A waiter that is added during a read ends it by CLIENT UNBLOCK from another connection, and the next read is for all.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Container, Iterable
from contextlib import suppress
from enum import Enum, auto
from typing import TYPE_CHECKING, Any
from uuid import UUID

from redis.exceptions import InvalidResponse

from levelq_core.lanes import outcome_streams
from levelq_core.redis_client.pool import RedisCommand

if TYPE_CHECKING:
    from levelq_core.domain.outcome import Outcome

FIRST = "0"  # before the first entry of a stream
FEW = 16  # streams that may be read again at once
EACH_SECONDS = 1e-5  # between the starts of two reads, for each stream in them: what they cost grows likewise
SHORT_SECONDS = 0.05  # of a read that cannot be ended by CLIENT UNBLOCK
FIRST_POLL_SECONDS, LONGEST_POLL_SECONDS = 0.002, 0.05  # between two polls of a cluster, where no read can be for all
LONGEST_WAIT = 3_600.0  # for an event, then the waiter looks again: timers take no infinite time
UNKNOWN, NEVER = 0, -1  # the id of the reading connection: not known yet; not to be unblocked

Position = str | bytes


class Step(Enum):
    """What a waiter does next."""

    DONE = auto()
    READ_FOR_ALL = auto()
    READ_ALONE = auto()  # its time is up, and no read for it has ended
    WAIT = auto()  # for its `ready` event: another waiter reads


class Waiter:
    """A thread or task that waits for an outcome: `send` identifies the send, `ready` wakes the waiter."""

    __slots__ = ("command_id", "error", "has_been_read", "key", "outcome", "position", "read_number", "ready", "send")

    def __init__(self, key: str, command_id: UUID, send: bytes | None, ready: Any) -> None:
        self.key = key
        self.command_id = command_id
        self.send = send
        self.ready = ready
        self.position: Position = FIRST
        self.outcome: Outcome | None = None
        self.error: Exception | None = None
        self.read_number = 0  # the last read that included it
        self.has_been_read = False  # such a read has ended

    @property
    def is_answered(self) -> bool:
        """Whether it need not wait any longer."""
        return self.outcome is not None or self.error is not None

    def result(self) -> Outcome | None:
        """The outcome, if it has come; an error is raised once."""
        error, self.error = self.error, None
        if error is not None:
            raise error
        return self.outcome

    def read(self, entries: Iterable[Any]) -> None:
        """Find the outcome among a stream's entries; that of another command is an error."""
        found, last = outcome_streams.read_entries(entries, self.send)
        if found is not None and found.command_id != self.command_id:
            self.error = InvalidResponse(f"asked for the outcome of {self.command_id}, got that of {found.command_id}")
            return
        self.outcome = found
        if found is None and last is not None:
            self.position = last


class SharedRead:
    """All waiters, and the one read that the leader makes for all. The lock is for threads; tasks never wait for it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiters: dict[str, list[Waiter]] = {}  # by stream
        self._leader: Waiter | None = None
        self._followers: dict[Waiter, None] = {}
        self._number = 0
        self._under_way = False
        self._unblocked = 0  # the read that is being ended for waiters that were added
        self._pool: Any = None  # of the server where the read is under way
        self._client_id: Any = UNKNOWN  # what that server calls the connection that reads
        self._may_unblock = True  # whether CLIENT UNBLOCK is allowed
        self._started = 0.0
        self._poll_seconds = FIRST_POLL_SECONDS
        self.failure: Exception | None = None  # of every waiter from now on

    def fail(self, error: Exception) -> None:
        """Answer all waiters, and those that are added later, with an error."""
        with self._lock:
            self.failure = error
            waiters = [waiter for same_key in self._waiters.values() for waiter in same_key]
        for waiter in waiters:
            waiter.error = error
            waiter.ready.set()

    def add(self, waiter: Waiter) -> None:
        """Include a waiter in the reads from now on."""
        with self._lock:
            self._waiters.setdefault(waiter.key, []).append(waiter)
            waiter.error = self.failure
            self._poll_seconds = FIRST_POLL_SECONDS

    def remove(self, waiter: Waiter) -> None:
        """Leave a waiter out of the reads from now on."""
        with self._lock:
            others = [other for other in self._waiters.get(waiter.key, ()) if other is not waiter]
            if others:
                self._waiters[waiter.key] = others
            else:
                self._waiters.pop(waiter.key, None)

    def next_step(self, waiter: Waiter, seconds_left: float, last: bool) -> Step:
        """What a waiter does now. `last`: it does not return to wait once its time is up."""
        with self._lock:
            if waiter.is_answered or (seconds_left <= 0 and (waiter.has_been_read or not last)):
                return Step.DONE
            if self._leader is None or self._leader is waiter:
                self._leader = waiter
                self._followers.pop(waiter, None)
                return Step.READ_FOR_ALL
            self._followers[waiter] = None
            if seconds_left <= 0:
                return Step.READ_ALONE
            waiter.ready.clear()
            return Step.WAIT

    def leave(self, waiter: Waiter) -> None:
        """Remove a waiter from the queue; if it was the leader, wake the next one."""
        with self._lock:
            self._followers.pop(waiter, None)
            if self._leader is waiter:
                self._leader = None
            following = next(iter(self._followers), None) if self._leader is None else None
        if following is not None:
            following.ready.set()

    def pause(self, now: float) -> float:
        """Seconds until the next read may start."""
        with self._lock:
            return 0.0 if len(self._waiters) <= FEW else self._started + EACH_SECONDS * len(self._waiters) - now

    def start(self, now: float) -> dict[str, Position]:
        """Start a read; returns the streams to read, each with the position to read from."""
        with self._lock:
            self._number += 1
            self._under_way, self._client_id, self._started = True, UNKNOWN, now
            streams: dict[str, Position] = {}
            for key, waiters in self._waiters.items():
                for waiter in waiters:
                    if not waiter.is_answered:
                        waiter.read_number = self._number
                        streams[key] = waiter.position if len(waiters) == 1 else FIRST
            return streams

    def note_connection(self, pool: Any, client_id: Any) -> None:
        """Note where the read is under way: the id of its connection, or the error that came instead."""
        with self._lock:
            known = not isinstance(client_id, Exception)
            self._may_unblock = self._may_unblock and known
            self._pool, self._client_id = pool, client_id if known else NEVER

    def block_seconds(self, seconds_left: float, longest: float) -> float:
        """For how long a read may block."""
        return max(0.001, min(seconds_left, longest if self._may_unblock else min(longest, SHORT_SECONDS)))

    def poll_seconds(self, found: bool) -> float:
        """Seconds until the next poll of a cluster: fewer after something was found."""
        with self._lock:
            self._poll_seconds = FIRST_POLL_SECONDS if found else min(LONGEST_POLL_SECONDS, self._poll_seconds * 1.5)
            return self._poll_seconds + EACH_SECONDS * len(self._waiters)

    def end(self, streams: Iterable[str]) -> None:
        """End a read of these streams."""
        with self._lock:
            self._under_way = False
            for key in streams:
                for waiter in self._included(key):
                    waiter.has_been_read = True

    def read_to_end(self, waiter: Waiter) -> int:
        """The number of the read to end for a waiter that it does not include; 0 if there is none to end."""
        with self._lock:
            if not self._under_way or self._number in (waiter.read_number, self._unblocked):
                return 0
            if self._client_id == NEVER or not self._may_unblock:
                return 0
            self._unblocked = self._number
            return self._number

    def connection_of(self, number: int) -> tuple[Any, Any]:
        """Where this read is under way: the pool, and the connection's id; UNKNOWN so far, or NEVER if it ended."""
        with self._lock:
            return self._pool, self._client_id if self._under_way and self._number == number else NEVER

    def unblock_refused(self) -> None:
        """Note that CLIENT UNBLOCK is not allowed."""
        with self._lock:
            self._may_unblock = False

    def deliver(self, found: Iterable[tuple[str, Any]]) -> None:
        """Give waiters what was read of their streams, entries or an error, and wake those that it answers.

        Raises InvalidResponse if an outcome was of another command: the connection must not be used again.
        """
        answered = []
        with self._lock:
            for key, entries in found:
                for waiter in self._included(key):
                    if isinstance(entries, Exception):
                        waiter.error = entries
                    else:
                        waiter.read(entries)
                    if waiter.is_answered:
                        answered.append(waiter)
            wrong = next((one.error for one in answered if isinstance(one.error, InvalidResponse)), None)
        for waiter in answered:
            waiter.ready.set()
        if wrong is not None:
            raise wrong

    def _included(self, key: str) -> list[Waiter]:
        """The waiters for a stream that the latest read includes."""
        return [waiter for waiter in self._waiters.get(key, ()) if waiter.read_number == self._number]


def check_keys(reply: Any, streams: Container[str]) -> None:
    """Raises InvalidResponse if a reply has streams that were not asked for."""
    for key, _ in outcome_streams.streams(reply):
        if key not in streams:
            raise InvalidResponse(f"got {key}, which was not asked for")


def blocking_read(streams: dict[str, Position], seconds: float) -> RedisCommand:
    """The read for all, which waits for the first of them."""
    return ("XREAD", "BLOCK", max(1, int(1000 * seconds)), "STREAMS", *streams, *streams.values())


def single_reads(streams: dict[str, Position]) -> list[RedisCommand]:
    """A read of each stream alone, which does not wait."""
    return [("XREAD", "STREAMS", key, position) for key, position in streams.items()]


def entries_found(streams: Iterable[str], replies: Iterable[Any]) -> list[tuple[str, Any]]:
    """What single reads found, by stream; the error where one was refused."""
    found: list[tuple[str, Any]] = []
    for key, reply in zip(streams, replies, strict=True):
        found += [(key, reply)] if isinstance(reply, Exception) else outcome_streams.streams(reply)
    return found


def wait_in_thread(event: threading.Event, seconds: float) -> None:
    """Wait for an event, `seconds` at most; for a long wait, less."""
    event.wait(min(seconds, LONGEST_WAIT))


async def wait_in_loop(event: asyncio.Event, seconds: float) -> None:
    """Wait for an event, `seconds` at most; for a long wait, less."""
    with suppress(TimeoutError):
        async with asyncio.timeout(min(seconds, LONGEST_WAIT)):
            await event.wait()
