"""The producer's methods that build a command and send it, with every field of the command typed, for asyncio."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal
from uuid import UUID

from levelq_core.domain.commands import Adjust, Command, LevelUp, Reset, SetLevel, SyncLevels, build, fields_of

from .async_handles import AsyncHandle

if TYPE_CHECKING:
    from levelq_core.settings import Durability


class AsyncCommandMethods:
    """One method for each command. `idempotency_key` names what happened: the same key again has no second effect."""

    async def send(self, command: Command, reply: bool = True, durability: Durability | None = None) -> AsyncHandle:
        """Queue one command."""
        raise NotImplementedError

    async def level_up(
        self,
        user_id: int,
        specialization: str,
        xp_gained: int,
        *,
        sessions_completed: int = 0,
        projects_completed: int = 0,
        theory_hours: int = 0,
        practice_hours: int = 0,
        reason: str = "",
        advanced_by: int | None = None,
        command_id: UUID | None = None,
        idempotency_key: str | None = None,
        reply: bool = True,
        durability: Durability | None = None,
    ) -> AsyncHandle:
        """Send a LevelUp: add to the totals, and raise the levels as far as these earn. Raises as `send`."""
        return await self.send(build(LevelUp, **fields_of(LevelUp, locals())), reply, durability)

    async def set_level(
        self,
        user_id: int,
        specialization: str,
        new_level: int,
        *,
        xp_change: int = 0,
        sessions_change: int = 0,
        projects_change: int = 0,
        theory_hours_change: int = 0,
        practice_hours_change: int = 0,
        reason: str = "",
        advanced_by: int | None = None,
        command_id: UUID | None = None,
        idempotency_key: str | None = None,
        reply: bool = True,
        durability: Durability | None = None,
    ) -> AsyncHandle:
        """Send a SetLevel: set both levels, and add the changes. Raises as `send`."""
        return await self.send(build(SetLevel, **fields_of(SetLevel, locals())), reply, durability)

    async def sync(
        self,
        user_id: int,
        specialization: str,
        source: Literal["progress", "license"] = "progress",
        *,
        reason: str = "",
        advanced_by: int | None = None,
        command_id: UUID | None = None,
        idempotency_key: str | None = None,
        reply: bool = True,
        durability: Durability | None = None,
    ) -> AsyncHandle:
        """Send a SyncLevels: copy the level of `source` to the other table. Raises as `send`."""
        return await self.send(build(SyncLevels, **fields_of(SyncLevels, locals())), reply, durability)

    async def adjust(
        self,
        user_id: int,
        specialization: str,
        xp_change: int = 0,
        *,
        sessions_change: int = 0,
        projects_change: int = 0,
        theory_hours_change: int = 0,
        practice_hours_change: int = 0,
        level: Literal["keep", "earned"] = "keep",
        reason: str = "",
        advanced_by: int | None = None,
        command_id: UUID | None = None,
        idempotency_key: str | None = None,
        reply: bool = True,
        durability: Durability | None = None,
    ) -> AsyncHandle:
        """Send an Adjust: add the changes, which may be negative. Raises as `send`."""
        return await self.send(build(Adjust, **fields_of(Adjust, locals())), reply, durability)

    async def reset(
        self,
        user_id: int,
        specialization: str,
        total_xp: int = 0,
        *,
        completed_sessions: int = 0,
        completed_projects: int = 0,
        theory_hours: int = 0,
        practice_hours: int = 0,
        level: int | Literal["earned"] = "earned",
        reason: str = "",
        advanced_by: int | None = None,
        command_id: UUID | None = None,
        idempotency_key: str | None = None,
        reply: bool = True,
        durability: Durability | None = None,
    ) -> AsyncHandle:
        """Send a Reset: set all totals; those that are not given become 0. Raises as `send`."""
        return await self.send(build(Reset, **fields_of(Reset, locals())), reply, durability)
