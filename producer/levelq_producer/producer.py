"""The producer: the two lines a web application adds."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, Self, cast
from uuid import UUID

from redis.exceptions import RedisError

from levelq_core.domain.commands import Adjust, Command, LevelUp, Reset, SetLevel, SyncLevels, build
from levelq_core.errors import LevelqError
from levelq_core.lanes.client import Lanes
from levelq_core.lanes.shard_layout import Layout
from levelq_core.lanes.wakeups import Waker
from levelq_core.redis_client.cluster import NotConnected
from levelq_core.redis_client.per_process import PerProcess
from levelq_core.redis_client.pool import BOUND, DURABLE_BOUND, connect
from levelq_core.settings import Durability, Settings

from .durability import Wait
from .handles import Context, Handle, require_id
from .ledger_reader import LedgerReader
from .reply_reader import ReplyReader
from .sending import MOVING_SECONDS, Item, Plan


class Producer:
    """Pushes commands onto their users' lanes. One is enough for all threads of a process, and for those it forks.

        producer = Producer.from_url("redis://localhost:6379/0")
        producer.level_up(42, "PLAYER", 150).result()

    A send that raises QueueUnavailable queued nothing, except SendUnknown: then nobody can tell, and sending
    the same command object again is safe, because its id makes the effect happen once.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings.load()
        redis = connect(self.settings.redis_url, self.settings.redis_seconds)
        # What these hold open belongs to the process that opened it: a forked child opens its own.
        self._lanes = Lanes(redis, self.settings, connections=BOUND, durable=DURABLE_BOUND)
        self._rq = connect(self.settings.queue_url, self.settings.redis_seconds)
        self._waker = Waker(redis, self._rq, self.settings.keys)
        self._ledger = LedgerReader.of(self.settings)
        self._readers = Context(ReplyReader(redis, self.settings.redis_seconds / 2), self.settings, self._ledger)
        self._layouts: dict[str, Layout] = {}
        self._given: set[Durability] = {"memory"}  # what this Redis was last seen to give
        self._checking = PerProcess(threading.Lock)

    @classmethod
    def from_url(cls, url: str, **settings: Any) -> Self:
        """A producer for one Redis; `settings` override the environment's. Raises ConfigurationError."""
        return cls(Settings.load(redis_url=url, **settings))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the connections back."""
        self._lanes.redis.close()
        self._rq.close()
        if self._ledger is not None:
            self._ledger.close()

    def send(self, command: Command, reply: bool = True, durability: Durability | None = None) -> Handle:
        """Queue one command; `reply` keeps its outcome in Redis for a minute after it was decided.

        Returns once it is as safe as `durability` says: "memory", "fsync" or "replicated" (LEVELQ_DURABILITY
        unless given). Raises InvalidCommand, LaneFull, PartitionFull, QueueUnavailable, SendUnknown, NotDurable
        if it is queued and not that safe in time, ConfigurationError if Redis cannot give that durability.
        """
        (handle,) = self.send_many([command], reply, durability)
        if handle.error is not None:
            raise handle.error
        return handle

    def send_many(
        self, commands: Iterable[Command], reply: bool = False, durability: Durability | None = None
    ) -> list[Handle]:
        """Queue many commands in few round trips; one handle each, in order, with `.error` where refused.

        Raises InvalidCommand for any of them before anything is sent. Once a lane refuses a command, the
        call's later ones for that lane are refused, too. A handle with NotDurable as its error is queued.
        """
        make = partial(Handle.of, self._readers, kept=reply)
        plan = Plan(self.settings, commands, reply=reply, durability=durability, item=make)
        for window in plan.windows():
            try:
                self._check(plan.wait)
                errors = self._locate(window)
            except (RedisError, LevelqError) as error:
                plan.unsent(window, error)
                continue
            self._push(plan, plan.leave_out(window, errors))
        return cast(list[Handle], plan.items)

    def _push(self, plan: Plan, window: Sequence[Item]) -> None:
        """Push a window; again, where lanes move meanwhile."""
        by = time.monotonic() + self.settings.redis_seconds
        while window:
            batches = plan.batches(window, self._layouts)
            answers, asked = self._lanes.push_and_ask(batches, plan.wait.questions)
            settled = plan.settle(window, batches, answers)
            for partition in settled.wake:
                self._waker.wake(partition)
            if not plan.confirm(window, asked):
                self._given.discard(plan.wait.level)
            window = settled.moved
            if window and not self._follow(window, by):
                plan.refuse(window)
                break

    def _locate(self, window: Sequence[Item]) -> Mapping[str, LevelqError]:
        """Know the layouts of these lanes' specializations; returns those that cannot be read. Raises RedisError."""
        unknown = {item.specialization for item in window if item.specialization not in self._layouts}
        if not unknown:
            return {}
        asking = self._lanes.ensure_layouts(unknown)
        self._layouts |= asking.found
        return asking.errors

    def _follow(self, moved: Sequence[Item], by: float) -> bool:
        """Find out where lanes have moved; False if nobody says so in time."""
        names = {item.lane.specialization for item in moved}
        while time.monotonic() < by:
            try:
                found = self._lanes.layouts(names)
            except (RedisError, LevelqError):
                return False
            if any(found[name].generation != self._layouts[name].generation for name in names):
                self._layouts |= found
                return True
            time.sleep(MOVING_SECONDS)
        return False

    def _check(self, wait: Wait) -> None:
        """Make sure of a server that gives this durability while nothing was sent. Raises as Wait.check."""
        if wait.level in self._given:
            return
        with self._checking.get():  # of many that come first, one asks
            if wait.level in self._given:
                return
            with connect(self.settings.redis_url, self.settings.redis_seconds) as new:
                try:
                    asked = Lanes(new, self.settings).ask(wait.probe)
                except RedisError as error:
                    raise NotConnected(str(error)) from error
                for answers in asked:
                    wait.check(answers)
            self._given.add(wait.level)

    def level_up(
        self, user_id: int, specialization: str, xp_gained: int, *, durability: Durability | None = None, **fields: Any
    ) -> Handle:
        """Send a LevelUp; `fields` are the command's others. Raises as `send`."""
        command = build(LevelUp, user_id=user_id, specialization=specialization, xp_gained=xp_gained, **fields)
        return self.send(command, durability=durability)

    def set_level(
        self, user_id: int, specialization: str, new_level: int, *, durability: Durability | None = None, **fields: Any
    ) -> Handle:
        """Send a SetLevel; `fields` are the command's others. Raises as `send`."""
        command = build(SetLevel, user_id=user_id, specialization=specialization, new_level=new_level, **fields)
        return self.send(command, durability=durability)

    def sync(
        self,
        user_id: int,
        specialization: str,
        source: Literal["progress", "license"] = "progress",
        *,
        durability: Durability | None = None,
        **fields: Any,
    ) -> Handle:
        """Send a SyncLevels. Raises as `send`."""
        command = build(SyncLevels, user_id=user_id, specialization=specialization, source=source, **fields)
        return self.send(command, durability=durability)

    def adjust(
        self,
        user_id: int,
        specialization: str,
        xp_change: int = 0,
        *,
        durability: Durability | None = None,
        **fields: Any,
    ) -> Handle:
        """Send an Adjust; `fields` are the command's others. Raises as `send`."""
        command = build(Adjust, user_id=user_id, specialization=specialization, xp_change=xp_change, **fields)
        return self.send(command, durability=durability)

    def reset(
        self,
        user_id: int,
        specialization: str,
        total_xp: int = 0,
        *,
        durability: Durability | None = None,
        **fields: Any,
    ) -> Handle:
        """Send a Reset; `fields` are the command's others: totals that are not given become 0. Raises as `send`."""
        command = build(Reset, user_id=user_id, specialization=specialization, total_xp=total_xp, **fields)
        return self.send(command, durability=durability)

    def handle(self, command_id: UUID) -> Handle:
        """A handle on a command that some other process sent. Raises InvalidCommand for what is no UUID."""
        return Handle(self._readers, require_id(command_id), None, True)
