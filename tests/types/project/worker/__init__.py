"""The application's own `worker`: the outbox and the direct calls, on its own sessions."""

from typing import Literal, assert_type

from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from levelq import (
    AsyncHandle,
    Catalog,
    LaneWorker,
    LevelUp,
    LevelUpRefused,
    Outbox,
    Outcome,
    ProgressLicenseCoupler,
    apply_commands,
    drain,
    level_up_atomic,
)


def direct(session: Session) -> int:
    result = level_up_atomic(session, 42, "PLAYER", 150)
    if result["success"] is False:
        assert_type(result["error_type"], Literal["validation_error", "database_error", "unknown_error"])
        return 0
    return assert_type(result["license"]["new_level"], int)


def coupled(session: Session) -> str:
    coupler = ProgressLicenseCoupler(session, catalog=Catalog.default())
    try:
        changed = coupler.update_level_atomic(42, "PLAYER", 3, advanced_by=7, raise_on_failure=True)
    except LevelUpRefused as error:
        return error.message
    synced = coupler.sync_existing_records_atomic(42, "PLAYER", source="license")
    if synced["success"] is True:
        assert_type(synced["final_level"], int)
    found = coupler.validate_consistency(42, "PLAYER")
    if "consistent" in found:
        assert_type(found["consistent"], bool)
    return assert_type(changed["message"], str)


def batch(connection: Connection) -> list[Outcome]:
    commands = [LevelUp(user_id=42, specialization="PLAYER", xp_gained=150)]
    return assert_type(apply_commands(connection, commands), list[Outcome])


async def send_in(session: AsyncSession, command: LevelUp) -> Outcome:
    handle = await session.run_sync(lambda s: Outbox[AsyncHandle](s).send(command))
    await session.commit()
    return assert_type(await handle, Outcome)


def outbox(session: Session) -> Outcome:
    handle = Outbox(session).send(LevelUp(user_id=42, specialization="PLAYER", xp_gained=150))
    return assert_type(handle.result(), Outcome)


def run() -> type[LaneWorker]:
    drain("PLAYER")
    return LaneWorker
