"""The producer for asyncio: send commands, and get a handle on each."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from typing import TYPE_CHECKING, Any, Self
from uuid import UUID

from redis.exceptions import RedisError

from levelq_core.domain.commands import Command
from levelq_core.domain.outcome import Outcome
from levelq_core.errors import LevelqError, OutcomeUnknown
from levelq_core.keys import Partition
from levelq_core.lanes.async_producer_lanes import AsyncProducerLanes
from levelq_core.lanes.shard_layout import Layout
from levelq_core.redis_client.cluster import NotConnected
from levelq_core.redis_client.pool import connect_async

from .async_applied import AsyncAppliedWaits
from .async_command_methods import AsyncCommandMethods
from .async_handles import AsyncHandle
from .async_lookup import Found, State, find
from .durability import DurabilityWait
from .event_loops import AsyncConnections, LoopTurns
from .handle_base import require_id
from .send_span import send_span
from .sending import SentCommand, Settlement, encode, group_by_lane, require_lane

if TYPE_CHECKING:
    from levelq_core.settings import Durability, Settings

_MOVING_SECONDS = 0.02  # between two reads of where lanes move to


class AsyncProducer(AsyncCommandMethods):
    """Pushes commands onto their users' lanes. One is enough for all event loops of a process.

        async with AsyncProducer.from_url("redis://localhost:6379/0") as producer:
            handle = await producer.level_up(42, "PLAYER", 150)
            outcome = await handle.result()

    Connections belong to the loop that runs: another loop has its own, and a loop's are closed when it ends.
    A send that raises QueueUnavailable queued nothing, except SendUnknown: then it is unknown, and sending the same
    command object again is safe, because its id makes the effect happen once.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        from levelq_core.settings import Settings  # noqa: PLC0415 - pydantic-settings, a third of the import's time

        self.settings = Settings.of(settings)
        self._connections = AsyncConnections(self.settings)
        self._applied_waits = AsyncAppliedWaits(self._connections)
        self._wait = DurabilityWait(self.settings, None)
        self._layouts: dict[str, Layout] = {}  # by specialization, as last read
        self._available: set[Durability] = {"memory"}  # the levels that this Redis gave last

    @classmethod
    def from_url(cls, url: str, **settings: Any) -> Self:
        """A producer for one Redis; `settings` override the environment's. Raises ConfigurationError."""
        from levelq_core.settings import Settings  # noqa: PLC0415

        return cls(Settings.load(redis_url=url, **settings))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections of the running loop, and have other loops close theirs. Later calls: ProducerClosed."""
        await self._connections.close()

    async def send(self, command: Command, reply: bool = True, durability: Durability | None = None) -> AsyncHandle:
        """Queue one command; `reply` keeps its outcome in Redis for a minute after it was decided.

        Returns once the command has the `durability`: "memory", "fsync" or "replicated" (LEVELQ_DURABILITY
        unless given). Raises InvalidCommand, LaneFull, PartitionFull, QueueUnavailable, SendUnknown, NotDurable
        if it is queued and not that safe in time, ConfigurationError if Redis cannot give that durability.
        """
        self._connections.require_open()
        wait = self._wait if durability is None else DurabilityWait(self.settings, durability)
        with send_span("send", command) as trace:
            handle = self._encode(command, reply, trace)
            await self._send_window([handle], wait)
            if handle.error is not None:
                raise copy(handle.error) from handle.error.__cause__  # others share it, not this call's traceback
        return handle

    async def send_many(
        self, commands: Iterable[Command], reply: bool = False, durability: Durability | None = None
    ) -> list[AsyncHandle]:
        """Queue many commands in few round trips; one handle each, in order, with `.error` where refused.

        Raises InvalidCommand for any of them before anything is sent. Once a lane refuses a command, the
        call's later ones for that lane are refused, too. A handle with NotDurable as its error is queued.

        Other tasks run in between: the loop is held for some milliseconds at a time. Of 2,000 commands or more,
        Python's garbage collector makes no full collections in this process until the call returns.
        """
        self._connections.require_open()
        wait = self._wait if durability is None else DurabilityWait(self.settings, durability)
        settlement = Settlement(self.settings, wait)
        handles: list[AsyncHandle] = []
        with send_span("send", handles) as trace, LoopTurns() as turns:
            for chunk in turns.chunks(commands):
                handles.extend([self._encode(command, reply, trace) for command in chunk])
                await turns.rest()
            for window in turns.windows(handles):
                if left := settlement.still_open(window):
                    for trip in await self._send_window(left, wait):
                        settlement.note(left, trip)
                await turns.rest()
        return handles

    def _encode(self, command: Command, reply: bool, trace: bytes) -> AsyncHandle:
        payload = encode(self.settings, command, reply=reply, trace=trace)
        return AsyncHandle(self._connections, command.command_id, reply, command, payload)

    async def _send_window(self, window: Sequence[SentCommand], wait: DurabilityWait) -> list[Settlement]:
        """Push a window in a round trip that others may share; again, where its lanes move meanwhile.

        Returns the trips. Commands keep the error Moved if where their lanes moved to cannot be read in time.
        """
        deadline = time.monotonic() + self.settings.redis_seconds
        connections = self._connections.get()
        trips: list[Settlement] = []
        while True:
            only = self._only_partition(window) if connections.lanes.several_servers else None
            trip = await connections.trips(wait, only).carry(window, self._push)
            trips.append(trip)
            for partition in trip.take_wake():
                await connections.waker.wake(partition)
            if not (window := trip.moved(window)):
                return trips
            closed = {command.specialization: trip.closed[command.specialization] for command in window}
            if not await self._follow(closed, deadline):
                return trips

    def _only_partition(self, window: Sequence[SentCommand]) -> Partition | None:
        """The only partition of a window on a cluster: its trips do not wait for those to other servers."""
        if any(command.specialization not in self._layouts for command in window):
            return None
        batches = group_by_lane(window, self._layouts)
        return batches[0].partition if len(batches) == 1 else None

    async def _push(self, commands: Sequence[SentCommand], trip: Settlement) -> None:
        """Make one round trip: push commands to where their lanes are now."""
        try:
            await self._require_durability(trip.wait)
            errors = await self._read_layouts(commands)
            lanes = self._connections.get().lanes
        except Exception as error:
            known = isinstance(error, RedisError | LevelqError)
            trip.refuse_all(commands, error if known else NotConnected(str(error)))
            return
        batches = group_by_lane(trip.refuse_specializations(commands, errors), self._layouts)
        answers = await lanes.push([batch.entries() for batch in batches], then=trip.wait.commands)
        settled = trip.settle(batches, answers)
        trip.wake = settled.wake
        if not settled.durable:
            self._available.discard(trip.wait.level)

    async def _read_layouts(self, commands: Sequence[SentCommand]) -> Mapping[str, LevelqError]:
        """Read layouts that are not known yet; returns the errors of those that cannot be read. Raises RedisError."""
        unknown = {command.specialization for command in commands} - self._layouts.keys()
        if not unknown:
            return {}
        query = await self._connections.get().lanes.ensure_layouts(unknown)
        self._layouts |= query.found
        return query.errors

    async def _follow(self, closed: Mapping[str, int], deadline: float) -> bool:
        """Read where the lanes of closed generations have moved; False if it cannot be read in time."""
        while time.monotonic() < deadline:
            try:
                found = await self._connections.get().lanes.layouts(closed)
            except (RedisError, LevelqError):
                return False
            if any(found[name].generation != closed[name] for name in closed):
                self._layouts |= found
                return True
            await asyncio.sleep(_MOVING_SECONDS)
        return False

    async def _require_durability(self, wait: DurabilityWait) -> None:
        """Make sure, before anything is sent, that the server gives this durability. Raises as DurabilityWait.check."""
        if wait.level in self._available:
            return
        async with connect_async(self.settings.redis_url, self.settings.redis_seconds) as redis:
            try:
                replies_by_server = await AsyncProducerLanes(redis, self.settings).execute_on_all(wait.probe)
            except RedisError as error:
                raise NotConnected(str(error)) from error
        for replies in replies_by_server:
            wait.check(replies)
        self._available.add(wait.level)

    def handle(self, command_id: UUID) -> AsyncHandle:
        """A handle on a command that another process sent. Raises InvalidCommand if the id is no UUID."""
        self._connections.require_open()
        return AsyncHandle(self._connections, require_id(command_id), kept=True)

    async def wait_until_applied(self, user_id: int, specialization: str, timeout: float | None = 5.0) -> None:
        """Return once all that was pushed to this lane before the call is decided, by any process.

        Then the database has it: read your own writes. With LEVELQ_DATABASE_URL set, this includes what committed
        transactions wrote to the outbox for this lane; else only what is in Redis. Rejected, cancelled and quarantined
        commands count as decided.

        Raises OutcomeTimeout after `timeout` seconds (None: never), with the reason; OutcomeUnknown if Redis was
        restarted or emptied meanwhile, and no ledger can say what was decided; InvalidCommand, QueueUnavailable,
        ConfigurationError. Many may wait at once: they share the producer's connections.
        """
        self._connections.require_open()
        await self._applied_waits.wait(user_id, specialization, timeout)

    async def outcome(
        self, command_id: UUID, user_id: int | None = None, specialization: str | None = None
    ) -> Outcome | None:
        """The outcome of a command, now; None while it is queued. See `state` for the arguments and errors.

        Raises OutcomeUnknown if the command is unknown.
        """
        found = await self._find(command_id, user_id, specialization)
        if found.state == "unknown":
            kept = "the database keeps no decision on it" if self.settings.database_url else "its outcome is not kept"
            raise OutcomeUnknown(
                f"command_id: {command_id} is unknown: it is not queued, and {kept}. It was never sent, or its outcome "
                "has expired: send with reply=True and ask in time, or set LEVELQ_DATABASE_URL",
                command_id=command_id,
            )
        return found.outcome

    async def state(self, command_id: UUID, user_id: int | None = None, specialization: str | None = None) -> State:
        """Where a command is: "queued" in a lane or in the outbox, "decided", or "unknown".

        "unknown": it was never sent, or its outcome is no longer kept. Exact with LEVELQ_DATABASE_URL, and otherwise
        for LEVELQ_REPLY_SECONDS after the decision on a command sent with reply=True. `user_id` and `specialization`
        name the lane: then only that is searched. Else all lanes are.

        Raises OutcomeUnknown if too many commands wait to search all lanes, InvalidCommand for an id that is no UUID
        and for a wrong lane, QueueUnavailable or ConfigurationError if Redis or the ledger cannot be read.
        """
        return (await self._find(command_id, user_id, specialization)).state

    async def _find(self, command_id: UUID, user_id: int | None, specialization: str | None) -> Found:
        connections, lane = self._connections.get(), None
        if user_id is not None or specialization is not None:
            lane = require_lane(self.settings, user_id, specialization)
        return await find(connections, require_id(command_id), lane)
