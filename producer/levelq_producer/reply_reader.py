# Generated from async_reply_reader.py by `make sync`: do not edit.
"""Reads outcomes from Redis for all threads of a process that wait for one; see shared_read.py."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, MovedError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from levelq_core.errors import LevelqError, ProducerClosed
from levelq_core.lanes import outcome_streams
from levelq_core.redis_client.cluster import NotConnected, as_lost
from levelq_core.redis_client.node_pools import NodePools
from levelq_core.redis_client.pool import NodePool

from .shared_read import (
    NEVER,
    UNKNOWN,
    Position,
    SharedRead,
    Step,
    Waiter,
    blocking_read,
    check_keys,
    entries_found,
    single_reads,
    wait_in_thread,
)

if TYPE_CHECKING:
    from levelq_core.domain.outcome import Outcome

_SPIN_SECONDS = 0.0005  # between two attempts to end a read that has not started at the server
Streams = dict[str, Position]


class ReplyReader:
    """Waits for outcomes. Each thread that waits takes part; one of them reads for all, on one connection."""

    def __init__(self, redis: Redis, longest_read: float) -> None:
        """`longest_read`: seconds for which one read may block, within the socket's timeout."""
        self.pools = NodePools(redis)
        self.late_pools = NodePools(redis, 1)  # for waiters whose time is up
        self._longest_read = longest_read
        self._shared = SharedRead()
        self._socket: Any = None  # that was read from last: while it is the same, so is the connection's id
        self._client_id: Any = NEVER
        self._added = threading.Event()  # a waiter was added while the servers of a cluster were polled

    @contextmanager
    def waiting(self, waiter: Waiter) -> Iterator[None]:
        """While this block runs, the outcome is read for this waiter, by itself or by another one."""
        self._shared.add(waiter)
        try:
            yield
        finally:
            self._shared.remove(waiter)

    def end(self) -> None:
        """Give ProducerClosed to all who wait, or will wait, and keep no connection."""
        self._shared.fail(ProducerClosed())
        self.pools.close()
        self.late_pools.close()

    def wait(self, waiter: Waiter, until: float, *, last: bool = True) -> Outcome | None:
        """The outcome; None if it has not come by `until`. `last`: no other wait follows. Raises RedisError."""
        try:
            while True:
                seconds_left = until - time.monotonic()
                step = self._shared.next_step(waiter, seconds_left, last)
                self._added.set()
                if step is Step.DONE:
                    break
                if step is Step.READ_FOR_ALL:
                    self._read_for_all(until)
                elif step is Step.READ_ALONE:
                    self._read_alone(waiter)
                else:
                    self._end_read_without(waiter)
                    wait_in_thread(waiter.ready, seconds_left)
        finally:
            self._shared.leave(waiter)
        return waiter.result()

    def _read_for_all(self, until: float) -> None:
        """One read, for all who wait by now."""
        pause = self._shared.pause(time.monotonic())
        if pause > 0:
            time.sleep(pause)
        now = time.monotonic()
        streams = self._shared.start(now)
        try:
            self._read(streams, self._shared.block_seconds(until - now, self._longest_read))
        except InvalidResponse:
            pass  # its waiter has the error, and the connection is closed
        except Exception as error:
            failure = error if isinstance(error, LevelqError) else as_lost(error)
            self._shared.deliver([(key, failure) for key in streams])
        finally:
            self._shared.end(streams)

    def _read(self, streams: Streams, seconds: float) -> None:
        pool = self.pools.only
        if pool is None and len(streams) == 1:
            pool = self.pools.at(next(iter(streams)))
        if pool is None:
            self._poll_servers(streams, seconds)
            return
        try:
            refusal = self._block(pool, streams, seconds)
        except NotConnected:
            raise
        except (RedisConnectionError, RedisTimeoutError):  # a restart, or this process was late: reading again is safe
            if self._shared.failure is not None:  # closed by us
                return
            refusal = self._block(pool, streams, seconds)
        if isinstance(refusal, MovedError):
            self.pools.moved(refusal)
        elif refusal is not None:  # find out which of the streams is refused
            self._read_each(pool, streams)

    def _block(self, pool: NodePool, streams: Streams, seconds: float) -> ResponseError | None:
        """Wait for the first of the streams; returns why Redis refuses, if it does."""
        with pool.connection() as connection:
            socket = getattr(connection, "_sock", None)
            if socket is None or socket is not self._socket:
                pool.send(connection, [("CLIENT ID",), blocking_read(streams, seconds)])
                self._client_id = pool.receive(connection, "CLIENT ID")
                self._socket = socket
            else:
                pool.send(connection, [blocking_read(streams, seconds)])
            self._shared.note_connection(pool, self._client_id)
            reply = pool.receive(connection, "XREAD")
            if isinstance(reply, ResponseError):
                return reply
            check_keys(reply, streams)
            self._shared.deliver(outcome_streams.streams(reply))
        return None

    def _read_each(self, pool: NodePool, streams: Streams) -> bool:
        """Read each stream alone, without waiting; returns whether anything was found."""
        with pool.connection() as connection:
            replies = pool.execute(connection, single_reads(streams))
            found = [one for one in entries_found(streams, replies) if not isinstance(one[1], MovedError)]
            self._shared.deliver(found)
        if (moved := next((reply for reply in replies if isinstance(reply, MovedError)), None)) is not None:
            self.pools.moved(moved)
        return bool(found)

    def _poll_servers(self, streams: Streams, seconds: float) -> None:
        """Poll the servers of a cluster: no call that blocks can read streams of two slots."""
        self._added.clear()
        self._shared.note_connection(None, NEVER)
        by_server: dict[NodePool, Streams] = {}
        found = False
        for key, position in streams.items():
            try:
                pool = self.pools.at(key)
            except (RedisError, LevelqError) as error:
                self._shared.deliver([(key, error)])
            else:
                by_server.setdefault(pool, {})[key] = position
        for pool, some in by_server.items():
            try:
                try:
                    found = self._read_each(pool, some) or found
                except RedisConnectionError as error:  # a restart, or this process was late: reading again is safe
                    if isinstance(error, NotConnected) or self._shared.failure is not None:
                        raise
                    found = self._read_each(pool, some) or found
            except InvalidResponse:
                found = True
            except Exception as error:
                self._shared.deliver([(key, as_lost(error)) for key in some])
        pause = self._shared.poll_seconds(found)
        if not found:
            wait_in_thread(self._added, min(pause, seconds))

    def _read_alone(self, waiter: Waiter) -> None:
        """Read the stream of one waiter once, without waiting: its time is up, and no read for it has ended."""
        streams: Streams = {waiter.key: waiter.position}
        try:
            pool = self.late_pools.at(waiter.key)
            with pool.connection() as connection:
                replies = pool.execute(connection, single_reads(streams))
                for _, entries in entries_found(streams, replies):
                    if isinstance(entries, Exception):
                        waiter.error = entries
                        continue
                    waiter.read(entries)
                    if isinstance(waiter.error, InvalidResponse):
                        raise waiter.error
        except Exception as error:
            waiter.error = error if isinstance(error, LevelqError) else as_lost(error)
        waiter.has_been_read = True

    def _end_read_without(self, waiter: Waiter) -> None:
        """End the read that is under way, if it does not include this waiter: the next one does."""
        number = self._shared.read_to_end(waiter)
        while number:
            pool, client_id = self._shared.connection_of(number)
            if client_id == NEVER:
                return
            if client_id != UNKNOWN:
                try:
                    with pool.connection() as connection:
                        (reply,) = pool.execute(connection, [("CLIENT UNBLOCK", client_id)])
                except (RedisError, OSError):
                    return  # the leader will notice
                if isinstance(reply, RedisError):
                    self._shared.unblock_refused()
                if reply:
                    return
            time.sleep(_SPIN_SECONDS)
