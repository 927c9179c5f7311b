"""What the tests of producers share: commands, decisions that no worker made, and a look at the server from outside."""

from typing import Any

from redis import Redis

from levelq_core import LevelUp, Outcome
from levelq_core.keys import Partition
from levelq_core.lanes import outcome_streams
from levelq_worker.draining.context import Runtime
from tests.support.fixtures.keys import KEYS


def level_up(user_id: int = 1, specialization: str = "PLAYER") -> LevelUp:
    return LevelUp(user_id=user_id, specialization=specialization, xp_gained=10)


def level_ups(count: int) -> list[LevelUp]:
    """One for each of the users from 1."""
    return [level_up(user_id) for user_id in range(1, count + 1)]


def outcome_of(handle: Any) -> Outcome:
    """A decision on a handle's command."""
    return Outcome(command_id=handle.command_id, user_id=1, specialization="PLAYER", status="applied")


def decide(redis: Redis, handle: Any) -> None:
    """Write what a worker writes when it has decided the command."""
    send = outcome_streams.send_key(handle.digest, handle.pushed_ms)
    outcome_streams.write(redis, KEYS, [(outcome_of(handle), send)], 60)


def queued(worker: Runtime) -> int:
    return worker.lanes.status(Partition("PLAYER")).waiting


def clients(redis: Redis) -> int:
    return len(redis.client_list())


def blocked(redis: Redis) -> int:
    """How many of them wait in a call that blocks."""
    info: Any = redis.info("clients")
    return int(info["blocked_clients"])
