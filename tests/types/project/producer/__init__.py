"""The application's own `producer`: how a web application sends."""

from typing import Literal, assert_type
from uuid import UUID

from levelq import (
    Adjust,
    AsyncHandle,
    AsyncProducer,
    Command,
    Handle,
    InvalidCommand,
    LaneFull,
    LevelUp,
    NotDurable,
    Outcome,
    OutcomeTimeout,
    Producer,
    QueueUnavailable,
    Reset,
    SetLevel,
    Settings,
    SyncLevels,
    Totals,
    command_id_for,
)


def send(producer: Producer, user_id: int) -> int | None:
    handle = assert_type(producer.level_up(user_id, "PLAYER", 150, sessions_completed=1), Handle)
    outcome = assert_type(handle.result(timeout=2.0), Outcome)
    if outcome.error == "validation_error" or outcome.status == "rejected":
        return None
    if outcome.after is not None:
        assert_type(assert_type(outcome.after, Totals).total_xp, int)
    return assert_type(outcome.to_level, int | None)


def match_won(producer: Producer, user_id: int) -> Literal["queued", "decided", "unknown"]:
    key = f"match-991:player-{user_id}"
    producer.level_up(user_id, "PLAYER", 150, idempotency_key=key, reply=False)
    LevelUp(user_id=user_id, specialization="PLAYER", idempotency_key=key)
    command_id = assert_type(command_id_for(key), UUID)
    assert_type(producer.outcome(command_id), Outcome | None)
    assert_type(producer.handle(command_id).result(timeout=None), Outcome)
    return assert_type(producer.state(command_id), Literal["queued", "decided", "unknown"])


def send_all(producer: Producer) -> list[str]:
    commands: list[Command] = [
        LevelUp(user_id=1, specialization="PLAYER", xp_gained=10, reason="won"),
        SetLevel(user_id=1, specialization="PLAYER", new_level=3),
        SyncLevels(user_id=1, specialization="COACH", source="license"),
        Adjust(user_id=1, specialization="PLAYER", xp_change=-10, level="earned"),
        Reset(user_id=1, specialization="PLAYER", level=2),
    ]
    handles = assert_type(producer.send_many(commands, reply=True), list[Handle])
    return [f"{handle.command_id.hex}: {handle.error}" for handle in handles]


def careful(producer: Producer, command: LevelUp) -> UUID | None:
    try:
        return assert_type(producer.send(command, durability="fsync").command_id, UUID)
    except NotDurable as error:
        return assert_type(error.command_id, UUID | None)
    except (InvalidCommand, LaneFull, QueueUnavailable):
        return None


async def send_async(user_id: int) -> Outcome | None:
    async with AsyncProducer.from_url("redis://localhost:6379/0", reply_seconds=120) as producer:
        handle = assert_type(await producer.set_level(user_id, "COACH", 2), AsyncHandle)
        await producer.adjust(user_id, "COACH", -5, level="earned")
        await producer.reset(user_id, "COACH", 100)
        await producer.sync(user_id, "COACH", "license")
        assert_type(await producer.state(handle.command_id), Literal["queued", "decided", "unknown"])
        assert_type(await producer.outcome(handle.command_id, user_id, "COACH"), Outcome | None)
        try:
            outcome = assert_type(await handle, Outcome)
            return assert_type(await producer.handle(outcome.command_id).result(), Outcome)
        except OutcomeTimeout:
            return None


def settings() -> Settings:
    return assert_type(Settings.load(redis_url="redis://localhost:6379/0"), Settings)
