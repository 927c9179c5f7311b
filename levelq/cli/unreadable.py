"""The part of `levelq rebuild` that removes unreadable content from levelq's keys and makes lanes ready again."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from redis import Redis
from sqlalchemy import Engine

from levelq_core.lanes.client import Lanes
from levelq_core.lanes.scan import grouped, partitions
from levelq_core.lanes.scan import lanes as all_lanes
from levelq_core.operations import key_faults
from levelq_core.operations.identity import ensure_identity, require_bound
from levelq_core.operations.key_faults import KeyFault
from levelq_core.settings import Settings


def remove_unreadable(redis: Redis, settings: Settings, engine: Engine) -> Iterator[KeyFault]:
    """Remove what cannot be read, one at a time, and yield it.

    A binding that cannot be read is replaced by that of this database. Raises WrongDatabase, before anything is
    removed, if the namespace is bound to another database; RedisError and DBAPIError.
    """
    lanes, binding = Lanes(redis, settings), settings.keys.database
    faults = key_faults.find(lanes, partitions(redis, settings))
    if all(fault.key != binding for fault in faults):
        with engine.connect() as connection:
            require_bound(connection, lanes)
    for fault in faults:
        key_faults.remove(redis, fault)
        if fault.key == binding:
            lanes.bind(ensure_identity(engine).encode())
        yield fault


def remove_unreadable_of_rq(rq: Redis, settings: Settings, specializations: Collection[str]) -> Iterator[KeyFault]:
    """Remove RQ's keys of another type, one at a time: sweeps replace the wake-ups. Raises RedisError."""
    for fault in key_faults.find_in_rq(rq, [settings.keys.queue(name) for name in specializations]):
        key_faults.remove(rq, fault)
        yield fault


def recover_lanes(redis: Redis, settings: Settings) -> int:
    """Put lanes that are neither ready nor claimed into ready; returns how many. Raises RedisError."""
    lanes = Lanes(redis, settings)
    return sum(lanes.recover(partition, users) for partition, users in grouped(all_lanes(redis, settings.keys)))
