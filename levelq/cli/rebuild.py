"""`levelq rebuild`: restore what Redis lost of the outbox, and remove what cannot be read."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from .screen import count, print_line

if TYPE_CHECKING:
    from redis import Redis
    from sqlalchemy import Engine

    from levelq_core.keys import Partition
    from levelq_core.lanes.client import Lanes
    from levelq_core.settings import Settings
    from levelq_worker.relay.restore import OutboxRestore, Restored

_POLL_SECONDS = 0.1  # between two attempts, while drains give their lanes back
_SPARE_SECONDS = 5.0  # beyond one claim length, for them to do so


def rebuild(
    specialization: Annotated[
        list[str] | None, typer.Argument(help="The specializations to rebuild; default: all of the catalog.")
    ] = None,
) -> None:
    """Restore to the lanes what Redis lost of the outbox.

    Workers do this by themselves when Redis has lost everything; this is for when it lost a part. It takes the
    relay's lease, waits until no lane is claimed, restores the undecided commands of each lane that lacks the first of
    them to its head, in order, and unblocks claims. Safe at any time, also twice: a command that is in a lane twice is
    applied once. The relay pushes what a lane lost behind that first command, once the lane is empty.

    Before that it removes what cannot be read from levelq's keys, and names it.
    """
    from levelq_core.lanes.client import Lanes
    from levelq_core.lanes.scan import grouped
    from levelq_core.lanes.scan import lanes as all_lanes
    from levelq_core.lanes.wakeups import Waker
    from levelq_worker.relay.outbox_rows import OutboxRows
    from levelq_worker.relay.restore import OutboxRestore
    from levelq_worker.support.partition_directory import partitions

    from .connections import database_of, known_specializations, load, redis_of

    settings = load()
    names = known_specializations(settings, specialization or [])
    with database_of(settings) as engine, redis_of(settings) as redis, redis_of(settings, rq=True) as rq:
        lanes = Lanes(redis, settings)
        _remove_unreadable(lanes, settings, engine)
        _remove_unreadable_of_rq(rq, [settings.keys.queue(name) for name in names])
        if recovered := sum(
            lanes.recover(partition, users) for partition, users in grouped(all_lanes(redis, settings.keys))
        ):
            print_line(f"  {count(recovered, 'lane')} ready again: their set was lost")
        restore = OutboxRestore(lanes, OutboxRows(engine), Waker(redis, rq, settings.keys))
        for partition in partitions(lanes, names):
            if restore.is_blocked(partition):
                result = "waits until the shards before it are empty: nothing is lost that it could hold"
            else:
                found = _restore(lanes, restore, partition, settings)
                result = f"{count(found.commands, 'command')} put back into {count(found.lanes, 'lane')}"
            print_line(f"  {partition!s:<24}{result}")


def _restore(lanes: Lanes, restore: OutboxRestore, partition: Partition, settings: Settings) -> Restored:
    """Block claims, wait for those under way to end, restore, unblock. Raises ConfigurationError if it cannot."""
    from levelq_core.errors import ConfigurationError
    from levelq_worker.relay.restore import LeaseLost

    by = time.monotonic() + settings.claim_seconds + _SPARE_SECONDS
    lease = lanes.lease(partition, "seize")
    try:
        while time.monotonic() < by:
            lease = lanes.lease(partition, "take", lease.value)
            if lease.newly_acquired or not lease.is_holder:
                break
            restored = restore.restore(partition, lease, report=False)
            if restored is not None:
                return restored
            time.sleep(_POLL_SECONDS)
    except LeaseLost:
        pass
    finally:
        lanes.lease(partition, "release", lease.value)
    raise ConfigurationError(f"{partition}: Redis or its lanes changed hands meanwhile; run `levelq rebuild` again")


def _remove_unreadable(lanes: Lanes, settings: Settings, engine: Engine) -> None:
    """Remove what cannot be read from levelq's keys; a binding is replaced by that of this database.

    Raises WrongDatabase, before anything is removed, if the namespace is bound to another database.
    """
    from levelq_core.lanes.scan import partitions
    from levelq_core.operations import key_faults
    from levelq_core.operations.identity import ensure_identity, require_bound

    binding = settings.keys.database
    faults = key_faults.find(lanes, partitions(lanes.redis, settings))
    if all(fault.key != binding for fault in faults):
        with engine.connect() as connection:
            require_bound(connection, lanes)
    for fault in faults:
        key_faults.remove(lanes.redis, fault)
        if fault.key == binding:
            lanes.bind(ensure_identity(engine).encode())
        print_line(f"  removed  {fault.key}: {fault.what}")


def _remove_unreadable_of_rq(rq: Redis, queues: list[str]) -> None:
    """Remove RQ's keys of another type; sweeps replace the wake-ups."""
    from levelq_core.operations import key_faults

    for fault in key_faults.find_in_rq(rq, queues):
        key_faults.remove(rq, fault)
        print_line(f"  removed  {fault.key}: {fault.what}")
