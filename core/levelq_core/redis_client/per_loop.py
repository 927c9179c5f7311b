"""Objects of one event loop: connections of asyncio work only on the loop that made them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from typing import Any, Generic, Protocol, TypeVar

from redis.asyncio import Redis as AsyncRedis

from .cluster_clients import AsyncCluster
from .per_process import PerProcess
from .sentinel import AsyncPrimary


class Owner(Protocol):
    """An object that belongs to a loop."""

    async def close(self) -> None:
        """Close its connections, on its loop."""

    def abandon(self) -> None:
        """Close its connections without the loop, which will not run again."""


O = TypeVar("O", bound=Owner)
_Held = tuple[O, AsyncGenerator[None, None]]


class PerLoop(Generic[O]):
    """One owner for each event loop, closed when the loop ends.

    A loop that ends closes its asynchronous generators (`loop.shutdown_asyncgens`, which asyncio.run and similar
    functions call): each owner is closed by a generator that waits for that. If a loop was closed without it, the next
    loop closes its owner.
    """

    def __init__(self, make: Callable[[], O]) -> None:
        self._make = make
        self._loops: PerProcess[dict[asyncio.AbstractEventLoop, _Held[O]]] = PerProcess(dict)

    def get(self) -> O:
        """The owner of the running loop. Raises RuntimeError if none runs."""
        loop = asyncio.get_running_loop()
        held = self._loops.get().get(loop)
        return self._enter(loop) if held is None else held[0]

    def _enter(self, loop: asyncio.AbstractEventLoop) -> O:
        loops = self._loops.get()
        for other in [other for other in list(loops) if other.is_closed()]:
            _abandon(loops.pop(other, None))
        owner = self._make()
        generator = self._closed_with_its_loop(loop, owner)
        with suppress(StopIteration):  # now it is at its yield, and the loop knows it
            generator.__anext__().send(None)
        loops[loop] = owner, generator
        return owner

    async def _closed_with_its_loop(self, loop: asyncio.AbstractEventLoop, owner: O) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            self._loops.get().pop(loop, None)
            await owner.close()

    async def close(self) -> None:
        """Close the owner of the running loop, and make other loops close theirs."""
        loops = self._loops.get()
        running = asyncio.get_running_loop()
        for loop in list(loops):
            held = loops.pop(loop, None)
            if held is None:
                continue
            if loop is running:
                await held[1].aclose()
            elif loop.is_running():
                with suppress(RuntimeError):  # it has closed just now
                    asyncio.run_coroutine_threadsafe(_end(held[1]), loop)
            else:
                _abandon(held)


async def _end(generator: AsyncGenerator[None, None]) -> None:
    await generator.aclose()


def _abandon(held: _Held[Any] | None) -> None:
    if held is not None:
        held[0].abandon()


def abandon(redis: AsyncRedis) -> None:
    """Close the connections of a client whose loop does not run any more."""
    clients = redis.clients if isinstance(redis, AsyncCluster) else [redis]
    pools: list[Any] = [client.connection_pool for client in clients]
    if isinstance(redis, AsyncPrimary):
        pools += [sentinel.connection_pool for sentinel in pools[0].sentinel_manager.sentinels]
    for pool in pools:
        for connection in [*pool._available_connections, *pool._in_use_connections]:
            _close_without_loop(connection)


def _close_without_loop(connection: Any) -> None:
    """Close a connection whose loop is closed: the methods of its transport need the loop, and its finalizer warns."""
    writer, connection._reader, connection._writer = getattr(connection, "_writer", None), None, None
    if writer is None:
        return
    transport = writer.transport
    below = getattr(getattr(transport, "_ssl_protocol", None), "_transport", None) or transport
    with suppress(RuntimeError):  # "Event loop is closed", raised after the transport is marked as closing
        transport.abort()
    opened = getattr(below, "_sock", None)  # asyncio's own transports; those of uvloop close with their loop
    if opened is not None:
        opened.close()
        below._sock = None
