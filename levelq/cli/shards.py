"""`levelq shards`: how many shards each specialization has, and how to change their number."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from .audit import note
from .screen import Listing, count, print_line, refused

if TYPE_CHECKING:
    from levelq_core.lanes.client import Lanes
    from levelq_core.lanes.shard_layout import Layout

MAX_SHARDS = 4_096
_POLL_SECONDS = 0.2


def shards(
    specialization: Annotated[
        str | None, Argument(metavar="SPECIALIZATION", help="The one to change; default: show all.")
    ] = None,
    number: Annotated[int | None, Argument(metavar="SHARDS", help="How many shards it gets.")] = None,
    wait: Annotated[bool, Option(help="Wait until the lanes of the old shards are empty.")] = True,
) -> None:
    """Show or change how many shards each specialization has.

    Each shard is a partition of its own: one slot of a Redis Cluster, and work for one more server of it. A change
    closes the old partitions, opens new ones, and has workers claim from the new ones once the old ones are empty,
    so that nothing is lost and no lane is reordered. Commands flow meanwhile; producers follow by themselves.
    LEVELQ_SHARDS gives only the first number of shards that a specialization has.
    """
    from levelq_worker.relay.resharding import begin

    from .connections import known_specializations, lanes_of, load, refuse_foreign_lanes

    settings = load()
    names = known_specializations(settings, [specialization] if specialization else [])
    with lanes_of(settings) as lanes:
        if number is None:
            _print_layouts(lanes, lanes.layouts(names))
            return
        if not 1 <= number <= MAX_SHARDS:
            raise refused(f"shards: expected 1 to {MAX_SHARDS:,}, got {number}")
        refuse_foreign_lanes(settings)
        (name,) = names
        layout = begin(lanes, name, number)
        note(settings, "shards", name, {"shards": number})
        before = count(layout.previous_shards, "old one")
        print_line(f"{name}: commands go to {count(number, 'shard')} now; {before} to be drained first")
        if wait:
            _wait(lanes, name, layout)


def _print_layouts(lanes: Lanes, layouts: dict[str, Layout]) -> None:
    shown = Listing("Specialization", "Shards", "Generation", "Change", right=("Shards", "Generation"))
    for name, layout in layouts.items():
        change = None
        if layout.next_shards:
            change = f"to {layout.next_shards}: the {layout.shards} are being closed"
        elif layout.previous_shards:
            change = f"from {layout.previous_shards}: {_left(lanes, name, layout)}"
        shown.add(name, layout.shards, layout.generation, change)
    shown.print()


def _left(lanes: Lanes, name: str, layout: Layout) -> str:
    """What the old shards still hold, in words."""
    from levelq_core.lanes.pauses import pauses, resume_command

    seen = [lanes.status(partition) for partition in layout.previous_partitions(name)]
    waiting = sum(status.waiting for status in seen)
    if not waiting:
        return "the old ones are empty, a worker opens the new ones next"
    parked = sum(status.parked for status in seen)
    for partition in layout.previous_partitions(name):
        for user in pauses(lanes.redis, lanes.keys, partition):
            paused = f"left in the old ones, which are paused: `{resume_command(name, user)}`"
            return f"{count(waiting, 'command')} {paused}"
    lanes_left = f"{count(parked, 'lane')} parked" if parked else "workers take them first"
    return f"{count(waiting, 'command')} left in the old ones, {lanes_left}"


def _wait(lanes: Lanes, name: str, layout: Layout) -> None:
    """Until the workers have finished. Ctrl-C ends the waiting, not the change."""
    printed = ""
    while (now := lanes.layouts([name])[name]).generation == layout.generation and now.previous_shards:
        if (left := _left(lanes, name, now)) != printed:
            print_line(f"  {left}")
            printed = left
        time.sleep(_POLL_SECONDS)
    print_line(f"{name}: done")
