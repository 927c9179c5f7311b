"""The producer for asyncio: the same as Producer, with `await`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, Self, cast
from uuid import UUID

from redis.exceptions import RedisError

from levelq_core.domain.commands import Adjust, Command, LevelUp, Reset, SetLevel, SyncLevels, build
from levelq_core.errors import LevelqError
from levelq_core.keys import Partition
from levelq_core.lanes.async_client import AsyncLanes
from levelq_core.lanes.shard_layout import Layout
from levelq_core.lanes.wakeups import Waker
from levelq_core.redis_client.cluster import NotConnected
from levelq_core.redis_client.per_loop import PerLoop
from levelq_core.redis_client.pool import connect, connect_async
from levelq_core.settings import Durability, Settings

from .durability import Wait
from .handles import AsyncHandle, Context, require_id
from .ledger_reader import LedgerReader
from .loop_owner import LoopOwner, Slice
from .sending import ASYNC_WINDOW, MOVING_SECONDS, Item, Plan


class AsyncProducer:
    """Pushes commands onto their users' lanes; one is enough for all event loops of a process. See Producer.

    async with AsyncProducer.from_url("redis://localhost:6379/0") as producer:
        handle = await producer.level_up(42, "PLAYER", 150)
        outcome = await handle.result()

    NodePool belong to the loop that runs: another loop has its own, and a loop's are closed when it ends.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings.load()
        self._ledger = LedgerReader.of(self.settings)
        self._loops = PerLoop(partial(LoopOwner, self.settings, self._ledger))
        self._readers = Context(self._loops, self.settings, self._ledger)
        self._rq = connect(self.settings.queue_url, self.settings.redis_seconds)
        # RQ knows no asyncio: the rare wake-up goes out from a thread.
        self._sync = connect(self.settings.redis_url, self.settings.redis_seconds)
        self._waker = Waker(self._sync, self._rq, self.settings.keys)
        self._layouts: dict[str, Layout] = {}
        self._given: set[Durability] = {"memory"}  # what this Redis was last seen to give

    @classmethod
    def from_url(cls, url: str, **settings: Any) -> Self:
        """A producer for one Redis; `settings` override the environment's. Raises ConfigurationError."""
        return cls(Settings.load(redis_url=url, **settings))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections of the running loop, and have other loops close theirs."""
        await self._loops.close()
        self._sync.close()
        self._rq.close()
        if self._ledger is not None:
            self._ledger.close()

    async def send(self, command: Command, reply: bool = True, durability: Durability | None = None) -> AsyncHandle:
        """Queue one command; `reply` keeps its outcome in Redis for a minute after it was decided.

        Returns once it is as safe as `durability` says: "memory", "fsync" or "replicated" (LEVELQ_DURABILITY
        unless given). Raises InvalidCommand, LaneFull, PartitionFull, QueueUnavailable, SendUnknown, NotDurable
        if it is queued and not that safe in time, ConfigurationError if Redis cannot give that durability.
        """
        (handle,) = await self.send_many([command], reply, durability)
        if handle.error is not None:
            raise handle.error
        return handle

    async def send_many(
        self, commands: Iterable[Command], reply: bool = False, durability: Durability | None = None
    ) -> list[AsyncHandle]:
        """Queue many commands in few round trips; one handle each, in order, with `.error` where refused.

        Raises InvalidCommand for any of them before anything is sent. Once a lane refuses a command, the
        call's later ones for that lane are refused, too. A handle with NotDurable as its error is queued.

        Other tasks run in between: the loop is held for some milliseconds at a time. Of 2,000 commands or more,
        Python's garbage collector makes no full collections in this process until the call returns (see Slice).
        """
        make = partial(AsyncHandle.of, self._readers, kept=reply)
        plan = Plan(self.settings, (), reply=reply, durability=durability, item=make)
        with Slice() as slice_:
            # A list that its owner changes while others run is still sent as it was.
            for command in list(commands) if isinstance(commands, list) else commands:
                plan.add(command)
                slice_.count(len(plan.items))
                if slice_.over():
                    await slice_.rest()
            for window in plan.steps(ASYNC_WINDOW):
                if slice_.over():
                    await slice_.rest()
                if window:
                    await self._send_window(plan, window)
        return cast(list[AsyncHandle], plan.items)

    async def _send_window(self, plan: Plan, window: Sequence[Item]) -> None:
        try:
            await self._check(plan.wait)
            errors = await self._locate(window)
        except Exception as error:
            plan.unsent(window, error if isinstance(error, RedisError | LevelqError) else NotConnected(str(error)))
            return
        await self._push(plan, plan.leave_out(window, errors))

    async def _push(self, plan: Plan, window: Sequence[Item]) -> None:
        """Push a window; again, where lanes move meanwhile."""
        by = time.monotonic() + self.settings.redis_seconds
        lanes = self._loops.get().lanes
        while window:
            batches = plan.batches(window, self._layouts)
            answers, asked = await lanes.push_and_ask(batches, plan.wait.questions)
            settled = plan.settle(window, batches, answers)
            await self._wake(settled.wake)
            if not plan.confirm(window, asked):
                self._given.discard(plan.wait.level)
            window = settled.moved
            if window and not await self._follow(window, by):
                plan.refuse(window)
                break

    async def _wake(self, partitions: Sequence[Partition]) -> None:
        """Wake drains. A task that is cancelled now does not take the wake-up with it: others count on it."""
        loop = asyncio.get_running_loop()
        for partition in partitions:
            try:
                waking = loop.run_in_executor(None, self._waker.wake, partition)
            except RuntimeError:  # the loop is about to end, and its threads have
                self._waker.wake(partition)
            else:
                await asyncio.shield(waking)

    async def _locate(self, window: Sequence[Item]) -> Mapping[str, LevelqError]:
        """Know the layouts of these lanes' specializations; returns those that cannot be read. Raises RedisError."""
        unknown = {item.specialization for item in window if item.specialization not in self._layouts}
        if not unknown:
            return {}
        asking = await self._loops.get().lanes.ensure_layouts(unknown)
        self._layouts |= asking.found
        return asking.errors

    async def _follow(self, moved: Sequence[Item], by: float) -> bool:
        """Find out where lanes have moved; False if nobody says so in time."""
        names = {item.lane.specialization for item in moved}
        while time.monotonic() < by:
            try:
                found = await self._loops.get().lanes.layouts(names)
            except (RedisError, LevelqError):
                return False
            if any(found[name].generation != self._layouts[name].generation for name in names):
                self._layouts |= found
                return True
            await asyncio.sleep(MOVING_SECONDS)
        return False

    async def _check(self, wait: Wait) -> None:
        """Make sure of a server that gives this durability while nothing was sent. Raises as Wait.check."""
        if wait.level in self._given:
            return
        async with self._loops.get().checking:  # of many that come first, one asks
            if wait.level in self._given:
                return
            async with connect_async(self.settings.redis_url, self.settings.redis_seconds) as new:
                try:
                    asked = await AsyncLanes(new, self.settings).ask(wait.probe)
                except RedisError as error:
                    raise NotConnected(str(error)) from error
                for answers in asked:
                    wait.check(answers)
            self._given.add(wait.level)

    async def level_up(
        self, user_id: int, specialization: str, xp_gained: int, *, durability: Durability | None = None, **fields: Any
    ) -> AsyncHandle:
        """Send a LevelUp; `fields` are the command's others. Raises as `send`."""
        command = build(LevelUp, user_id=user_id, specialization=specialization, xp_gained=xp_gained, **fields)
        return await self.send(command, durability=durability)

    async def set_level(
        self, user_id: int, specialization: str, new_level: int, *, durability: Durability | None = None, **fields: Any
    ) -> AsyncHandle:
        """Send a SetLevel; `fields` are the command's others. Raises as `send`."""
        command = build(SetLevel, user_id=user_id, specialization=specialization, new_level=new_level, **fields)
        return await self.send(command, durability=durability)

    async def sync(
        self,
        user_id: int,
        specialization: str,
        source: Literal["progress", "license"] = "progress",
        *,
        durability: Durability | None = None,
        **fields: Any,
    ) -> AsyncHandle:
        """Send a SyncLevels. Raises as `send`."""
        command = build(SyncLevels, user_id=user_id, specialization=specialization, source=source, **fields)
        return await self.send(command, durability=durability)

    async def adjust(
        self,
        user_id: int,
        specialization: str,
        xp_change: int = 0,
        *,
        durability: Durability | None = None,
        **fields: Any,
    ) -> AsyncHandle:
        """Send an Adjust; `fields` are the command's others. Raises as `send`."""
        command = build(Adjust, user_id=user_id, specialization=specialization, xp_change=xp_change, **fields)
        return await self.send(command, durability=durability)

    async def reset(
        self,
        user_id: int,
        specialization: str,
        total_xp: int = 0,
        *,
        durability: Durability | None = None,
        **fields: Any,
    ) -> AsyncHandle:
        """Send a Reset; `fields` are the command's others: totals that are not given become 0. Raises as `send`."""
        command = build(Reset, user_id=user_id, specialization=specialization, total_xp=total_xp, **fields)
        return await self.send(command, durability=durability)

    def handle(self, command_id: UUID) -> AsyncHandle:
        """A handle on a command that some other process sent. Raises InvalidCommand for what is no UUID."""
        return AsyncHandle(self._readers, require_id(command_id), None, True)
