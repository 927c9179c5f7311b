"""`levelq rebuild`: restore what Redis lost of the outbox, and remove what cannot be read."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from .options import OfCatalog
from .screen import count, print_line, refused

if TYPE_CHECKING:
    from redis import Redis
    from sqlalchemy import Engine

    from levelq_core.keys import Partition
    from levelq_core.lanes.client import Lanes
    from levelq_core.operations.key_faults import KeyFault
    from levelq_core.settings import Settings
    from levelq_worker.relay.restore import OutboxRestore, Restored

_POLL_SECONDS = 0.1  # between two attempts, while drains give their lanes back
_SPARE_SECONDS = 5.0  # beyond one claim length, for them to do so


def rebuild(specialization: OfCatalog = None) -> None:
    """Restore to the lanes what Redis lost of the outbox.

    Workers do this by themselves when Redis has lost everything; this is for when it lost a part. It takes the
    relay's lease, waits until no lane is claimed, restores the undecided commands of each lane that lacks the first of
    them to its head, in order, and unblocks claims. Safe at any time, also twice: a command that is in a lane twice is
    applied once. The relay pushes what a lane lost behind that first command, once the lane is empty.

    Before that it removes what cannot be read from levelq's keys, and names it.
    """
    from levelq_core.lanes import scan
    from levelq_core.lanes.partition_directory import partitions
    from levelq_core.lanes.wakeups import Waker
    from levelq_core.operations import audit, key_faults
    from levelq_core.operations.identity import ensure_identity
    from levelq_worker.relay.outbox_rows import OutboxRows
    from levelq_worker.relay.restore import OutboxRestore

    from .connections import database_of, known_specializations, lanes_of, load, redis_of

    settings = load()
    names = known_specializations(settings, specialization or [])
    with database_of(settings) as engine, lanes_of(settings) as lanes, redis_of(settings, rq=True) as rq:
        faults = _unreadable(lanes, settings, engine)
        with engine.begin() as connection:
            line = audit.RunLine("rebuild", ", ".join(names))
            line.write(connection, {})
        for fault in faults:
            _remove(lanes.redis, fault)
            if fault.key == settings.keys.database:
                lanes.bind(ensure_identity(engine).encode())
        for fault in key_faults.find_in_rq(rq, [settings.keys.queue(name) for name in names]):
            _remove(rq, fault)  # sweeps replace the wake-ups
        found = scan.grouped(scan.lanes(lanes.redis, settings.keys))
        if recovered := sum(lanes.recover(partition, users) for partition, users in found):
            print_line(f"  {count(recovered, 'lane')} ready again: their set was lost")
        detail = {"removed_keys": len(faults), "lanes_ready_again": recovered, "commands_restored": 0}
        restore = OutboxRestore(lanes, OutboxRows(engine), Waker(lanes.redis, rq, settings.keys))
        for partition in partitions(lanes, names):
            if restore.is_blocked(partition):
                result = "waits until the shards before it are empty: nothing is lost that it could hold"
            else:
                restored = _restore(lanes, restore, partition, settings)
                detail["commands_restored"] += restored.commands
                result = f"{count(restored.commands, 'command')} put back into {count(restored.lanes, 'lane')}"
            print_line(f"  {partition!s:<24}{result}")
        with engine.begin() as connection:
            line.write(connection, detail)


def _restore(lanes: Lanes, restore: OutboxRestore, partition: Partition, settings: Settings) -> Restored:
    """Block claims, wait for those under way to end, restore, unblock. Raises ConfigurationError if it cannot."""
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
    raise refused(f"{partition}: Redis or its lanes changed hands meanwhile; run `levelq rebuild` again")


def _unreadable(lanes: Lanes, settings: Settings, engine: Engine) -> list[KeyFault]:
    """What cannot be read in levelq's keys. Raises WrongDatabase if the namespace is bound to another database."""
    from levelq_core.lanes.scan import partitions
    from levelq_core.operations import key_faults
    from levelq_core.operations.identity import require_bound

    binding = settings.keys.database
    faults = key_faults.find(lanes, partitions(lanes.redis, settings))
    if all(fault.key != binding for fault in faults):
        with engine.connect() as connection:
            require_bound(connection, lanes)
    return faults


def _remove(redis: Redis, fault: KeyFault) -> None:
    from levelq_core.operations import key_faults

    key_faults.remove(redis, fault)
    print_line(f"  removed  {fault.key}: {fault.what}")
