"""Type checkers must find an error in each line that is marked, and in no other."""

from sqlalchemy.orm import Session

import levelq
from levelq import AsyncProducer, Handle, LevelUp, Outbox, Producer, SetLevel, SyncLevels, level_up_atomic


def misspell() -> None:
    levelq.Producerr()  # error
    from levelq import Produser  # error


def send(producer: Producer) -> None:
    producer.level_up("42", "PLAYER", 150)  # error: the type of a field
    producer.level_up(42, "PLAYER", "150")  # error
    producer.level_up(42, "PLAYER")  # error: a field is missing
    producer.level_up(42, "PLAYER", 150, xp=1)  # error: an unknown field
    producer.level_up(42, "PLAYER", 150, sessions_completed="1")  # error
    producer.level_up(42, "PLAYER", 150, reply="no")  # error
    producer.level_up(42, "PLAYER", 150, idempotency_key=5)  # error
    producer.sync(42, "PLAYER", source="licence")  # error: another word
    producer.adjust(42, "PLAYER", 1.5)  # error
    producer.send({"user_id": 42})  # error: no command
    producer.send_many(LevelUp(user_id=42, specialization="PLAYER"))  # error: not many
    producer.handle("0196f0a0-0000-7000-8000-000000000000")  # error: the text of an id
    producer.state("0196f0a0-0000-7000-8000-000000000000")  # error: the same
    levelq.command_id_for(991)  # error: no text


def build() -> None:
    LevelUp(user_id=42, specialization="PLAYER", xp=150)  # error: an unknown field
    LevelUp(user_id="42", specialization="PLAYER")  # error: the type of a field
    SetLevel(user_id=42, specialization="PLAYER")  # error: a field is missing
    SyncLevels(user_id=42, specialization="PLAYER", source="licence")  # error: another word


def durable(producer: Producer, command: LevelUp) -> None:
    producer.send(command, durability="disk")  # error: another word
    producer.send(command, "fsync")  # error: reply comes second
    producer.send(command).result("1")  # error: a time is a number
    producer.send(command).outcome()  # error: an unknown method
    producer.send(command).result().level  # error: an unknown attribute


async def mixed(producer: Producer, other: AsyncProducer, session: Session, command: LevelUp) -> None:
    await producer.send(command)  # error: a handle for threads
    await Outbox(session).send(command)  # error: a handle for threads
    other.send(command).command_id  # error: no await
    handle: Handle = await other.send(command)  # error: a handle for asyncio
    print(handle)


def direct(session: Session) -> None:
    level_up_atomic(session, 42, "PLAYER", "150")  # error: the type of a field
    result = level_up_atomic(session, 42, "PLAYER", 150)
    result["level"]  # error: an unknown key
    if result["success"] is True:
        result["error_type"]  # error: the key of a failure
