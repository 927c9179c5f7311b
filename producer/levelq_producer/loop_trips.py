"""Round trips that the tasks of an event loop share; trips.py has the same for threads.

A send that comes while no trip is under way goes at once. Those that come meanwhile go together in the next trip, in
the order of their calls: there is no timer, and a lone send waits for nothing.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from .durability import DurabilityWait
from .sending import LOOP_WINDOW, SentCommand, Settlement, take_trip

if TYPE_CHECKING:
    from levelq_core.settings import Settings

Push = Callable[[Sequence[SentCommand], Settlement], Awaitable[None]]


class _Call(NamedTuple):
    """A call that waits for a trip, or travels."""

    commands: Sequence[SentCommand]
    trip: asyncio.Future[Settlement]


class LoopTrips:
    """The trips with one level of durability: one at a time, each with LOOP_WINDOW commands at most."""

    def __init__(self, settings: Settings, wait: DurabilityWait) -> None:
        self._settings, self._wait = settings, wait
        self._waiting: deque[_Call] = deque()
        self._busy = False
        self._conductor: asyncio.Task[None] | None = None  # the loop itself keeps no reference

    async def carry(self, commands: Sequence[SentCommand], push: Push) -> Settlement:
        """Push these commands in the next trip, maybe with others; returns what became of that trip.

        A task that is cancelled while it waits sends nothing. The trip of several calls is a task of its own, so that
        no caller's cancellation ends it.
        """
        if self._busy:
            call = _Call(commands, asyncio.get_running_loop().create_future())
            self._waiting.append(call)
            return await call.trip
        self._busy = True
        trip = Settlement(self._settings, self._wait)
        try:
            await push(commands, trip)
        finally:
            self._go_on(push)
        return trip

    def _go_on(self, push: Push) -> None:
        """Begin with the trips of those that wait."""
        while self._waiting and self._waiting[0].trip.done():  # its task was cancelled
            del self._waiting[0]
        self._busy = bool(self._waiting)
        self._conductor = asyncio.get_running_loop().create_task(self._conduct(push)) if self._busy else None

    async def _conduct(self, push: Push) -> None:
        """Make one trip after the other until no call waits."""
        try:
            while self._waiting:
                calls: list[_Call] = []
                take_trip(self._waiting, LOOP_WINDOW, calls)
                await self._travel([call for call in calls if not call.trip.done()], push)
        finally:
            self._go_on(push)

    async def _travel(self, calls: Sequence[_Call], push: Push) -> None:
        """Make one trip for these calls."""
        trip = Settlement(self._settings, self._wait)
        commands = [command for call in calls for command in call.commands]
        try:
            if commands:
                await push(commands, trip)
        except BaseException as error:
            trip.refuse_unknown(commands, error)
            if not isinstance(error, Exception):  # the loop ends: all tasks are cancelled, this one too
                raise
        finally:
            for call in calls:
                if not call.trip.done():
                    call.trip.set_result(trip)
