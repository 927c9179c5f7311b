"""What the tests of the outbox in an application's transaction share."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import psycopg
from redis import Redis

from levelq_core import LevelUp, Settings
from levelq_core.database.engine import engine_for
from levelq_core.keys import Partition
from levelq_core.lanes.client import Lanes
from levelq_core.lanes.shard_layout import Layout
from levelq_core.lanes.wakeups import Waker
from levelq_worker.relay.outbox_rows import OutboxRows
from levelq_worker.relay.partition import PartitionRelay
from tests.support.coupler import drain_all, runtime


def level_up(number: int, user_id: int = 1, **fields: Any) -> LevelUp:
    """Command `number`."""
    return LevelUp(command_id=UUID(int=number), user_id=user_id, specialization="PLAYER", xp_gained=10, **fields)


def query(url: str, statement: str) -> list[Any]:
    """The first column of what is committed."""
    with psycopg.connect(url) as connection:
        return [row[0] for row in connection.execute(statement).fetchall()]


def in_outbox(url: str) -> list[int]:
    """The numbers of the commands that the outbox holds, in order."""
    return [command_id.int for command_id in query(url, "SELECT command_id FROM levelq_outbox ORDER BY id")]


def decided(url: str) -> list[int]:
    """The numbers of the commands in the ledger, in the order of effect."""
    return [command_id.int for command_id in query(url, "SELECT command_id FROM levelq_ledger ORDER BY id")]


def relay_and_drain(settings: Settings, redis: Redis) -> list[int]:
    """Do what a worker does with the committed rows; the numbers of all commands that were decided."""
    assert settings.database_url is not None
    engine = engine_for(settings)
    waker = Waker(redis, redis, settings.keys)
    relay = PartitionRelay(Partition("PLAYER"), Layout(), Lanes(redis, settings), OutboxRows(engine), waker, settings)
    relay.poll()
    relay.release()
    engine.dispose()
    with runtime(settings) as worker:
        drain_all(worker, "PLAYER")
    return decided(settings.database_url)
