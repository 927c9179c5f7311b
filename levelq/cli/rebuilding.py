"""`levelq rebuild`: put back by hand what Redis lost of the outbox."""

from __future__ import annotations

import time
from itertools import chain
from typing import Annotated

import typer
from rich.text import Text

from levelq_core.errors import ConfigurationError
from levelq_core.keys import Partition
from levelq_core.lanes.client import Lanes
from levelq_core.lanes.wakeups import Waker
from levelq_core.settings import Settings
from levelq_worker.relay.outbox_rows import OutboxRows
from levelq_worker.relay.restore import LeaseLost, OutboxRestore, Restored
from levelq_worker.support.partition_directory import partitions

from .connecting import database_of, load, redis_of
from .running import known_specializations
from .screen import count, out
from .unreadable import recover_lanes, remove_unreadable, remove_unreadable_of_rq

_LOOK_SECONDS = 0.1  # between two looks whether drains have given their lanes back
_SPARE_SECONDS = 5.0  # beyond one claim length, for them to do so


def rebuild(
    specialization: Annotated[
        list[str] | None, typer.Argument(help="The ones to rebuild; all of the catalog if none is given.")
    ] = None,
) -> None:
    """Put back into the lanes what Redis lost of the outbox, and remove what cannot be read from levelq's keys.

    Workers do this by themselves when Redis has lost everything; this is for when it lost a part. It takes the
    relay's place, waits until no lane is claimed, puts the undecided commands of each lane that lacks the first of
    them back at its head, in order, and lets the workers go on. Safe at any time, also twice: whatever is in a
    lane twice is applied once. What a lane lost behind that first one, the relay pushes when the lane is empty.
    """
    settings = load()
    names = known_specializations(settings, specialization or [])
    with database_of(settings) as engine, redis_of(settings) as redis, redis_of(settings, rq=True) as rq:
        lanes = Lanes(redis, settings)
        of_rq = remove_unreadable_of_rq(rq, settings, names)
        for fault in chain(remove_unreadable(redis, settings, engine), of_rq):
            out.print(Text(f"  removed  {fault.key}: {fault.what}"), soft_wrap=True)
        if recovered := recover_lanes(redis, settings):
            out.print(Text(f"  {count(recovered, 'lane')} ready again: their set was lost"), soft_wrap=True)
        filling = OutboxRestore(lanes, OutboxRows(engine), Waker(redis, rq, settings.keys))
        for partition in partitions(lanes, names):
            if filling.is_blocked(partition):
                waiting = "waits until the shards before it are empty: nothing is lost that it could hold"
                out.print(Text(f"  {partition!s:<24}") + Text(waiting), soft_wrap=True)
                continue
            found = _rebuild(lanes, filling, partition, settings)
            line = f"{count(found.commands, 'command')} put back into {count(found.lanes, 'lane')}"
            out.print(Text(f"  {partition!s:<24}") + Text(line), soft_wrap=True)


def _rebuild(lanes: Lanes, filling: OutboxRestore, partition: Partition, settings: Settings) -> Restored:
    """Block the claims, wait for those there are to end, restore. Raises ConfigurationError if it cannot be done."""
    by = time.monotonic() + settings.claim_seconds + _SPARE_SECONDS
    lease = lanes.lease(partition, "seize")
    try:
        while time.monotonic() < by:
            lease = lanes.lease(partition, "take", lease.value)
            if lease.newly_acquired or not lease.ours:
                break
            restored = filling.restore(partition, lease, report=False)
            if restored is not None:
                return restored
            time.sleep(_LOOK_SECONDS)
    except LeaseLost:
        pass
    finally:
        lanes.lease(partition, "release", lease.value)
    raise ConfigurationError(f"{partition}: Redis or its lanes changed hands meanwhile; run `levelq rebuild` again")
