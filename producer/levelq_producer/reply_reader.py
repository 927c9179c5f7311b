"""Reads outcomes from Redis for all threads of a process that wait for one; see waiting.py."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, MovedError, RedisError, ResponseError

from levelq_core.domain.outcome import Outcome
from levelq_core.errors import LevelqError
from levelq_core.lanes import outcome_streams as replies
from levelq_core.redis_client.cluster import NotConnected, as_lost
from levelq_core.redis_client.node_pools import NodePools
from levelq_core.redis_client.per_process import PerProcess
from levelq_core.redis_client.pool import NodePool

from .waiting import NEVER, UNKNOWN, Position, SharedRead, Waiter, block_on, check_keys, found_in, look, wrong_answer

_SPIN_SECONDS = 0.0005  # between two attempts to end a read that has not begun at the server
Streams = dict[str, Position]
Found = Sequence[tuple[str, Any]]


class _ProcessState:
    """What the waiting threads of one process share."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.shared = SharedRead()
        self.server: NodePool | None = None  # where the read under way is
        self.known: tuple[Any, Any] = None, NEVER  # the socket last read from, and what the server calls it
        self.came = threading.Event()  # a waiter was added while the servers of a cluster were looked at


class ReplyReader:
    """Waits for outcomes. Each thread that waits takes part; one of them reads for all, on one connection."""

    def __init__(self, redis: Redis, most_seconds: float) -> None:
        """`most_seconds`: for how long one read may block, within the socket's timeout."""
        self._most = most_seconds
        self._pools = NodePools(redis)
        self._looks = NodePools(redis, 1)  # for those whose time is up
        self._state = PerProcess(_ProcessState)

    @contextmanager
    def waiting(self, waiter: Waiter) -> Iterator[None]:
        """While this block runs, the outcome is read for this waiter, by this or another one."""
        state = self._state.get()
        with state.lock:
            state.shared.add(waiter)
        try:
            yield
        finally:
            with state.lock:
                state.shared.remove(waiter)

    def wait(self, waiter: Waiter, until: float, *, last: bool = True) -> Outcome | None:
        """The outcome; None if it has not come by `until`. `last`: no other wait follows. Raises RedisError."""
        state = self._state.get()
        try:
            while True:
                with state.lock:
                    left = until - time.monotonic()
                    if waiter.answered or (left <= 0 and (waiter.seen or not last)):
                        break
                    leads = state.shared.lead(waiter)
                    ends = 0 if leads else state.shared.must_end(waiter)
                    if not leads:
                        waiter.ready.clear()
                state.came.set()
                if leads:
                    self._read_for_all(state, until)
                elif left <= 0:
                    self._look_alone(waiter)
                else:
                    if ends:
                        self._end(state, ends)
                    waiter.ready.wait(left)
        finally:
            with state.lock:
                following = state.shared.leave(waiter)
            if following is not None:
                following.ready.set()
        return waiter.take()

    def _read_for_all(self, state: _ProcessState, until: float) -> None:
        """One read, for everyone who waits by now."""
        with state.lock:
            pause = state.shared.pause(time.monotonic())
        if pause > 0:
            time.sleep(pause)
        with state.lock:
            now = time.monotonic()
            streams = state.shared.start(now)
            seconds = state.shared.block(until - now, self._most)
        try:
            self._read(state, streams, seconds)
        except InvalidResponse:
            pass  # who was told of another command has the error, and that connection is closed
        except Exception as error:
            failure = error if isinstance(error, LevelqError) else as_lost(error)
            self._deliver(state, [(key, failure) for key in streams])
        finally:
            with state.lock:
                state.shared.end(streams)

    @staticmethod
    def _deliver(state: _ProcessState, found: Found) -> None:
        """Wake those for whom something was found. Raises InvalidResponse if it was of another command."""
        with state.lock:
            woken = state.shared.settle(found)
            wrong = wrong_answer(woken)
        for waiter in woken:
            waiter.ready.set()
        if wrong is not None:
            raise wrong

    def _read(self, state: _ProcessState, streams: Streams, seconds: float) -> None:
        connections = self._pools.only
        if connections is None and len(streams) == 1:
            connections = self._pools.at(next(iter(streams)))
        if connections is None:
            self._look_around(state, streams, seconds)
            return
        try:
            refusal = self._block(state, connections, streams, seconds)
        except NotConnected:
            raise
        except RedisConnectionError:  # lost while it waited, as by a restart: reading again harms nothing
            refusal = self._block(state, connections, streams, seconds)
        if isinstance(refusal, MovedError):
            self._pools.moved(refusal)
        elif refusal is not None:  # which of the streams is refused?
            self._look(state, connections, streams)

    def _block(
        self, state: _ProcessState, connections: NodePool, streams: Streams, seconds: float
    ) -> ResponseError | None:
        """Wait for the first of the streams; why Redis refuses, if it does."""
        with connections.connection() as connection:
            socket = getattr(connection, "_sock", None)  # as long as it is the same, so is what the server calls it
            known, number = state.known
            if socket is None or socket is not known:
                connections.send(connection, [("CLIENT ID",), block_on(streams, seconds)])
                number = connections.receive(connection, "CLIENT ID")
                state.known = socket, number
            else:
                connections.send(connection, [block_on(streams, seconds)])
            with state.lock:
                state.shared.reads_on(number)
                state.server = connections
            reply = connections.receive(connection, "XREAD")
            if isinstance(reply, ResponseError):
                return reply
            check_keys(reply, streams)
            self._deliver(state, list(replies.streams(reply)))
        return None

    def _look(self, state: _ProcessState, connections: NodePool, streams: Streams) -> bool:
        """Look at each stream alone; whether anything was found."""
        with connections.connection() as connection:
            answers = connections.execute(connection, look(streams))
            found = [(key, it) for key, it in found_in(streams, answers) if not isinstance(it, MovedError)]
            self._deliver(state, found)
        if (moved := next((answer for answer in answers if isinstance(answer, MovedError)), None)) is not None:
            self._pools.moved(moved)
        return bool(found)

    def _look_around(self, state: _ProcessState, streams: Streams, seconds: float) -> None:
        """Of a cluster's streams no two can be read by one call that blocks: look at them, now and again."""
        state.came.clear()
        with state.lock:
            state.shared.connection = NEVER
        by_server: dict[NodePool, Streams] = {}
        found = False
        for key, position in streams.items():
            try:
                by_server.setdefault(self._pools.at(key), {})[key] = position
            except (RedisError, LevelqError) as error:
                self._deliver(state, [(key, error)])
        for connections, some in by_server.items():
            try:
                found = self._look(state, connections, some) or found
            except InvalidResponse:
                found = True
            except Exception as error:
                self._deliver(state, [(key, as_lost(error)) for key in some])
        with state.lock:
            pause = state.shared.look_again(found)
        if not found:
            state.came.wait(min(pause, seconds))

    def _look_alone(self, waiter: Waiter) -> None:
        """Time is up, and no read that was for this waiter has ended: look at its stream once. Raises RedisError."""
        streams: Streams = {waiter.key: waiter.position}
        try:
            connections = self._looks.at(waiter.key)
            with connections.connection() as connection:
                for _, entries in found_in(streams, connections.execute(connection, look(streams))):
                    if isinstance(entries, Exception):
                        waiter.error = entries
                        continue
                    waiter.read(entries)
                    if (wrong := wrong_answer([waiter])) is not None:
                        raise wrong
        except Exception as error:
            waiter.error = error if isinstance(error, LevelqError) else as_lost(error)
        waiter.seen = True

    def _end(self, state: _ProcessState, reading: int) -> None:
        """End the read that is under way: the next one is for those who have come, too."""
        while True:
            with state.lock:
                number, connections = state.shared.connection, state.server
                if state.shared.reading != reading or number == NEVER:
                    return
            if number != UNKNOWN and connections is not None:
                try:
                    with connections.connection() as connection:
                        (answer,) = connections.execute(connection, [("CLIENT UNBLOCK", number)])
                except (RedisError, OSError):
                    return  # the one who reads will find out
                if isinstance(answer, RedisError):
                    with state.lock:
                        state.shared.may_end = False
                    return
                if answer:
                    return
            time.sleep(_SPIN_SECONDS)
