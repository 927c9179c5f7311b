"""What the tests of the outbox and its relay share."""

from typing import Any
from uuid import UUID

import psycopg
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from levelq_core import LevelUp, Settings
from levelq_core.database.engine import engine_for
from levelq_core.domain.codec import STAMP_DIGITS
from levelq_core.lanes.client import Lanes
from levelq_core.lanes.shard_layout import Layout
from levelq_worker.relay.outbox_rows import OutboxRows
from levelq_worker.relay.partition import PartitionRelay
from levelq_worker.relay.restore import OutboxRestore
from tests.support.fixtures.keys import KEYS
from tests.support.system import PLAYER, System


def level_up(number: int, user_id: int = 1, xp: int = 10, specialization: str = "PLAYER", **fields: Any) -> LevelUp:
    """Command `number`."""
    return LevelUp(command_id=UUID(int=number), user_id=user_id, specialization=specialization, xp_gained=xp, **fields)


def numbers_in(redis: Any, user_id: int = 1) -> list[int]:
    """The numbers of the commands in a lane."""
    entries = redis.lrange(KEYS.lane(PLAYER, user_id), 0, -1)
    return [UUID(bytes=entry[STAMP_DIGITS + 4 : STAMP_DIGITS + 20]).int for entry in entries]


class OutboxSystem(System):
    """A system with relays, and commands known by their numbers."""

    def send(self, *numbers: int, user_id: int = 1) -> None:
        self.commit(*(level_up(n, user_id) for n in numbers))

    def relay(self, **settings: Any) -> PartitionRelay:
        """A relay of its own connections, as in another worker."""
        given = self.settings.model_copy(update=settings)
        return PartitionRelay(PLAYER, Layout(), Lanes(self.redis, given), OutboxRows(self.engine), self.waker, given)

    def restore(self) -> OutboxRestore:
        return OutboxRestore(Lanes(self.redis, self.settings), OutboxRows(self.engine), self.waker)

    def ensure_restored(self) -> bool:
        """Unblock the claims as a drain does."""
        return self.restore().ensure_restored(PLAYER)

    def claim(self) -> Any:
        """Claim as a drain does that died at once."""
        return self.lanes.claim(PLAYER, "drain", "token", 100, restored_only=True)

    def lane(self, user_id: int = 1) -> list[int]:
        return numbers_in(self.redis, user_id)

    def marks(self) -> dict[int, tuple[bool, int]]:
        """What the outbox holds: number -> (marked, pushes)."""
        found = self.rows("SELECT command_id, pushed_at, pushes FROM levelq_outbox ORDER BY id")
        return {command_id.int: (pushed_at is not None, pushes) for command_id, pushed_at, pushes in found}

    def decided(self) -> list[int]:
        """The numbers of the commands in the ledger, in the order of effect."""
        return [command_id.int for (command_id,) in self.rows("SELECT command_id FROM levelq_ledger ORDER BY id")]

    def lose_from_lane(self, user_id: int = 1) -> None:
        """One lane is lost, as when a server comes back without the tail of its AOF; the rest stays."""
        self.redis.decrby(KEYS.of(PLAYER, "count"), self.redis.llen(KEYS.lane(PLAYER, user_id)))
        self.redis.delete(KEYS.lane(PLAYER, user_id))
        self.redis.zrem(KEYS.of(PLAYER, "ready"), user_id)


def query(url: str, statement: str) -> list[Any]:
    """The first column of what is committed."""
    with psycopg.connect(url) as connection:
        return [row[0] for row in connection.execute(statement).fetchall()]


def in_outbox(url: str) -> list[int]:
    """The numbers of the commands that the outbox holds, in order."""
    return [command_id.int for command_id in query(url, "SELECT command_id FROM levelq_outbox ORDER BY id")]


def committed(url: str) -> tuple[list[int], list[int]]:
    """The application's rows, and the commands in the outbox."""
    return query(url, "SELECT id FROM matches ORDER BY id"), in_outbox(url)


def relay_and_drain(settings: Settings, redis: Redis) -> list[int]:
    """Do what a worker does with the committed rows; the numbers of all commands that were decided."""
    engine = engine_for(settings)
    with OutboxSystem(settings, redis, engine) as system:
        relay = system.relay()
        relay.poll()
        relay.release()
        system.drain()
        found = system.decided()
    engine.dispose()
    return found


def broken_lease(*_: Any, **__: Any) -> None:
    """Replaces Lanes.lease: the connection is cut."""
    raise RedisConnectionError("cut")
