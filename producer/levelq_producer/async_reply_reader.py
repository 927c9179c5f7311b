"""Reads outcomes from Redis for all tasks of an event loop that wait for one; see waiting.py and reply_reader.py."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from redis.asyncio import Redis as AsyncRedis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, MovedError, RedisError, ResponseError

from levelq_core.domain.outcome import Outcome
from levelq_core.errors import LevelqError
from levelq_core.lanes import outcome_streams as replies
from levelq_core.redis_client.async_pool import AsyncNodePool, AsyncNodePools
from levelq_core.redis_client.cluster import NotConnected, as_lost

from .waiting import NEVER, UNKNOWN, Position, SharedRead, Waiter, block_on, check_keys, found_in, look, wrong_answer

_SPIN_SECONDS = 0.0005
Streams = dict[str, Position]
Found = Sequence[tuple[str, Any]]


class AsyncReplyReader:
    """What ReplyReader is for threads, for the tasks of one loop."""

    def __init__(self, redis: AsyncRedis, most_seconds: float) -> None:
        self._most = most_seconds
        self._pools = AsyncNodePools(redis)
        self._looks = AsyncNodePools(redis, 1)  # for those whose time is up
        self._shared = SharedRead()
        self._server: AsyncNodePool | None = None
        self._known: tuple[Any, Any] = None, NEVER  # the stream last read from, and what the server calls it
        self._came = asyncio.Event()

    def close(self) -> None:
        """Keep no connection from now on; the client is the caller's to close."""
        self._pools.close()
        self._looks.close()

    @contextmanager
    def waiting(self, waiter: Waiter) -> Iterator[None]:
        """While this block runs, the outcome is read for this waiter, by this or another one."""
        self._shared.add(waiter)
        try:
            yield
        finally:
            self._shared.remove(waiter)

    async def wait(self, waiter: Waiter, until: float, *, last: bool = True) -> Outcome | None:
        """The outcome; None if it has not come by `until`; see ReplyReader.wait. Raises RedisError."""
        shared = self._shared
        try:
            while True:
                left = until - time.monotonic()
                if waiter.answered or (left <= 0 and (waiter.seen or not last)):
                    break
                leads = shared.lead(waiter)
                self._came.set()
                if leads:
                    await self._read_for_all(until)
                elif left <= 0:
                    await self._look_alone(waiter)
                else:
                    waiter.ready.clear()
                    if ends := shared.must_end(waiter):
                        await self._end(ends)
                    await _within(left, waiter.ready)
        finally:
            following = shared.leave(waiter)
            if following is not None:
                following.ready.set()
        return waiter.take()

    async def _read_for_all(self, until: float) -> None:
        """One read, for everyone who waits by now."""
        pause = self._shared.pause(time.monotonic())
        if pause > 0:
            await asyncio.sleep(pause)
        now = time.monotonic()
        streams = self._shared.start(now)
        try:
            await self._read(streams, self._shared.block(until - now, self._most))
        except InvalidResponse:
            pass  # who was told of another command has the error, and that connection is closed
        except Exception as error:
            failure = error if isinstance(error, LevelqError) else as_lost(error)
            self._deliver([(key, failure) for key in streams])
        finally:
            self._shared.end(streams)

    def _deliver(self, found: Found) -> None:
        """Wake those for whom something was found. Raises InvalidResponse if it was of another command."""
        woken = self._shared.settle(found)
        for waiter in woken:
            waiter.ready.set()
        if (wrong := wrong_answer(woken)) is not None:
            raise wrong

    async def _read(self, streams: Streams, seconds: float) -> None:
        connections = self._pools.only
        if connections is None and len(streams) == 1:
            connections = await self._pools.at(next(iter(streams)))
        if connections is None:
            await self._look_around(streams, seconds)
            return
        try:
            refusal = await self._block(connections, streams, seconds)
        except NotConnected:
            raise
        except RedisConnectionError:  # lost while it waited, as by a restart: reading again harms nothing
            refusal = await self._block(connections, streams, seconds)
        if isinstance(refusal, MovedError):
            await self._pools.moved(refusal)
        elif refusal is not None:  # which of the streams is refused?
            await self._look(connections, streams)

    async def _block(self, connections: AsyncNodePool, streams: Streams, seconds: float) -> ResponseError | None:
        """Wait for the first of the streams; why Redis refuses, if it does."""
        async with connections.connection() as connection:
            stream = getattr(connection, "_writer", None)  # as long as it is the same, so is what the server calls it
            known, number = self._known
            if stream is None or stream is not known:
                await connections.send(connection, [("CLIENT ID",), block_on(streams, seconds)])
                number = await connections.receive(connection, "CLIENT ID")
                self._known = stream, number
            else:
                await connections.send(connection, [block_on(streams, seconds)])
            self._shared.reads_on(number)
            self._server = connections
            reply = await connections.receive(connection, "XREAD")
            if isinstance(reply, ResponseError):
                return reply
            check_keys(reply, streams)
            self._deliver(list(replies.streams(reply)))
        return None

    async def _look(self, connections: AsyncNodePool, streams: Streams) -> bool:
        """Look at each stream alone; whether anything was found."""
        async with connections.connection() as connection:
            answers = await connections.execute(connection, look(streams))
            found = [(key, it) for key, it in found_in(streams, answers) if not isinstance(it, MovedError)]
            self._deliver(found)
        if (moved := next((answer for answer in answers if isinstance(answer, MovedError)), None)) is not None:
            await self._pools.moved(moved)
        return bool(found)

    async def _look_around(self, streams: Streams, seconds: float) -> None:
        """Of a cluster's streams no two can be read by one call that blocks: look at them, now and again."""
        self._came.clear()
        self._shared.connection = NEVER
        by_server: dict[AsyncNodePool, Streams] = {}
        found = False
        for key, position in streams.items():
            try:
                by_server.setdefault(await self._pools.at(key), {})[key] = position
            except (RedisError, LevelqError) as error:
                self._deliver([(key, error)])
        for connections, some in by_server.items():
            try:
                found = await self._look(connections, some) or found
            except InvalidResponse:
                found = True
            except Exception as error:
                self._deliver([(key, as_lost(error)) for key in some])
        pause = self._shared.look_again(found)
        if not found:
            await _within(min(pause, seconds), self._came)

    async def _look_alone(self, waiter: Waiter) -> None:
        """Time is up, and no read that was for this waiter has ended: look at its stream once. Raises RedisError."""
        streams: Streams = {waiter.key: waiter.position}
        try:
            connections = await self._looks.at(waiter.key)
            async with connections.connection() as connection:
                for _, entries in found_in(streams, await connections.execute(connection, look(streams))):
                    if isinstance(entries, Exception):
                        waiter.error = entries
                        continue
                    waiter.read(entries)
                    if (wrong := wrong_answer([waiter])) is not None:
                        raise wrong
        except Exception as error:
            waiter.error = error if isinstance(error, LevelqError) else as_lost(error)
        waiter.seen = True

    async def _end(self, reading: int) -> None:
        """End the read that is under way: the next one is for those who have come, too."""
        shared = self._shared
        while shared.reading == reading and shared.connection != NEVER:
            if shared.connection != UNKNOWN and self._server is not None:
                try:
                    async with self._server.connection() as connection:
                        (answer,) = await self._server.execute(connection, [("CLIENT UNBLOCK", shared.connection)])
                except (RedisError, OSError):
                    return  # the one who reads will find out
                if isinstance(answer, RedisError):
                    shared.may_end = False
                    return
                if answer:
                    return
            await asyncio.sleep(_SPIN_SECONDS)


async def _within(seconds: float, event: asyncio.Event) -> None:
    """Wait for an event, for so long at most."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass
