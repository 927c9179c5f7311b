"""`levelq shards`: how many shards each specialization has, and the change of their number."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from levelq_core.errors import ConfigurationError
from levelq_core.lanes.client import Lanes
from levelq_core.lanes.shard_layout import Layout
from levelq_worker.relay.resharding import begin

from .connecting import load, redis_of, refuse_foreign_lanes
from .running import known_specializations
from .screen import Listing, count, out

MOST_SHARDS = 4_096
_LOOK_SECONDS = 0.2


def shards(
    specialization: Annotated[str | None, typer.Argument(help="The one to change; without it, all are shown.")] = None,
    number: Annotated[int | None, typer.Argument(metavar="[SHARDS]", help="How many shards it shall have.")] = None,
    wait: Annotated[bool, typer.Option(help="Wait until the lanes of the old shards are empty.")] = True,
) -> None:
    """Show how many shards each specialization has, or change it while commands flow.

    Each shard is a partition of its own: one slot of a Redis Cluster, and work for one more server of it. A change
    closes the old partitions, opens new ones, and has workers claim from the new ones once the old ones are empty,
    so that nothing is lost and no lane is reordered. Producers follow by themselves. The number that
    LEVELQ_SHARDS gives is only the first one a specialization has.
    """
    settings = load()
    names = known_specializations(settings, [specialization] if specialization else [])
    with redis_of(settings) as redis:
        lanes = Lanes(redis, settings)
        if number is None:
            _show(lanes, lanes.layouts(names))
            return
        if not 1 <= number <= MOST_SHARDS:
            raise ConfigurationError(f"shards: expected 1 to {MOST_SHARDS:,}, got {number}")
        refuse_foreign_lanes(settings)
        (name,) = names
        layout = begin(lanes, name, number)
        before = count(layout.previous_shards, "old one")
        out.print(f"{name}: commands go to {count(number, 'shard')} now; {before} to be drained first", highlight=False)
        if wait:
            _wait(lanes, name, layout)


def _show(lanes: Lanes, layouts: dict[str, Layout]) -> None:
    shown = Listing("Specialization", "Shards", "Generation", "Change", right=("Shards", "Generation"))
    for name, layout in layouts.items():
        shown.add(name, layout.shards, layout.generation, _change(lanes, name, layout))
    shown.print()


def _change(lanes: Lanes, name: str, layout: Layout) -> str | None:
    if layout.next_shards:
        return f"to {layout.next_shards}: the {layout.shards} are being closed"
    if layout.previous_shards:
        return f"from {layout.previous_shards}: {_left(lanes, name, layout)}"
    return None


def _left(lanes: Lanes, name: str, layout: Layout) -> str:
    """What the old shards still hold, in words."""
    seen = [lanes.status(partition) for partition in layout.previous_partitions(name)]
    waiting = sum(status.waiting for status in seen)
    if not waiting:
        return "the old ones are empty, a worker opens the new ones next"
    parked = sum(status.parked for status in seen)
    lanes_left = f"{count(parked, 'lane')} parked" if parked else "workers take them first"
    return f"{count(waiting, 'command')} left in the old ones, {lanes_left}"


def _wait(lanes: Lanes, name: str, layout: Layout) -> None:
    """Until the workers have finished. Ctrl-C ends the waiting, not the change."""
    told = ""
    while (now := lanes.layouts([name])[name]).generation == layout.generation and now.previous_shards:
        if (left := _left(lanes, name, now)) != told:
            out.print(f"  {left}", highlight=False)
            told = left
        time.sleep(_LOOK_SECONDS)
    out.print(f"{name}: done")
