"""Commands that only look: history, catalog."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from heapq import merge
from itertools import islice
from typing import Annotated

import typer
from rich.text import Text

from levelq_core.catalog import Requirement
from levelq_core.errors import ConfigurationError
from levelq_core.history import Entry, Quarantined, quarantined
from levelq_core.history import history as decided
from levelq_core.lanes import Lanes
from levelq_core.parked import UserLane, of_user
from levelq_core.settings import Settings
from levelq_worker.parked_lanes import advice, when_utc

from .connecting import database_of, load, redis_of
from .screen import Cell, Listing, count, duration, one_line, out, verdict, when


def history(
    user: Annotated[int, typer.Argument(metavar="USER", min=1, max=2**63 - 1, help="The user's id.")],
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many entries at most.")] = 50,
    ids: Annotated[bool, typer.Option("--ids", help="Show the commands' ids, too.")] = False,
) -> None:
    """Show a user's parked lanes, then the user's decided commands, newest first.

    A parked lane waits for its cause to end: since when, why, until when, what to do about it. Among the commands is
    what was quarantined in the user's lanes: entries that were no command.
    """
    settings = load()
    try:
        _print_parked(settings, user)
    except ConfigurationError as error:
        out.print(verdict("parked lanes unknown", "bold yellow", f"  {one_line(str(error))}"), soft_wrap=True)
    with database_of(settings) as engine, engine.connect() as connection:
        commands: list[Entry | Quarantined] = [*decided(connection, user, limit)]
        rubbish: list[Entry | Quarantined] = [*quarantined(connection, user, limit)]
    # The ledger's order is that of effect; its times, when transactions began, only place the rubbish in it.
    entries = list(islice(merge(commands, rubbish, key=_moment, reverse=True), limit))
    if not entries:
        out.print(f"User {user}: nothing was decided yet, or the ledger no longer keeps it.", soft_wrap=True)
        return
    columns = ["When (UTC)", "Specialization", "Command", "XP", "Level", "Result", *(["Command id"] if ids else [])]
    shown = Listing(*columns, right=("XP",), folding="Result")
    for entry in entries:
        row = _quarantined_row(entry) if isinstance(entry, Quarantined) else _decided_row(entry)
        shown.add(*row[: len(columns)])
    shown.print()


def _print_parked(settings: Settings, user: int) -> None:
    """What keeps the user's lanes from being drained. Raises ConfigurationError if Redis cannot be asked."""
    with redis_of(settings) as redis:
        lanes = Lanes(redis, settings)
        layouts = lanes.layouts({partition.specialization for partition in lanes.partitions()} | set(settings.tracks))
        for name, layout in layouts.items():
            for partition in layout.holding(name, user):
                found = of_user(redis, partition, user)
                if found is not None:
                    for line in _parked_lines(name, found):
                        out.print(line, soft_wrap=True)


def _parked_lines(specialization: str, found: UserLane) -> Iterator[Text]:
    lane = found.parked
    since = f"since {when_utc(lane.since_ms)}, {count(lane.attempts, 'attempt')}"
    yield verdict("parked", "bold yellow", f"  {specialization} {since}: {lane.reason}")
    waits = "" if found.waiting is None else f"{count(found.waiting, 'command')} waiting in it; "
    if lane.until_ms is None or lane.until_ms <= found.now_ms:
        again = "it is being tried again"
    else:
        seconds = duration((lane.until_ms - found.now_ms) / 1000)
        again = f"it is tried again by itself at {when_utc(lane.until_ms)}, in {seconds}"
    yield Text(f"        {waits}{again}")
    yield Text(f"        to do: {advice(lane.reason)}")


def _moment(entry: Entry | Quarantined) -> datetime:
    return entry.at


def _decided_row(entry: Entry) -> list[Cell]:
    level = None if entry.to_level is None else str(entry.to_level)
    if entry.from_level not in (None, entry.to_level):
        level = f"{entry.from_level} -> {entry.to_level}"
    applied = entry.status == "applied"
    result = verdict("applied", "green", "") if applied else verdict("rejected", "red", f": {entry.message}")
    xp = f"{entry.xp:+,}" if entry.xp else None
    return [when(entry.at), entry.specialization, entry.kind, xp, level, result, str(entry.command_id)]


def _quarantined_row(entry: Quarantined) -> list[Cell]:
    found = f": {entry.reason}; {count(entry.length, 'byte')}, {entry.raw[:24]!r}"
    return [when(entry.at), entry.specialization, None, None, None, verdict("quarantined", "yellow", found), None]


def catalog() -> None:
    """List the levels and what each of them requires."""
    tracks = load().tracks
    used = [
        place
        for place in range(len(Requirement._fields))
        if place == 0 or any(level[place] for track in tracks.values() for level in track.levels)
    ]
    names = [Requirement._fields[place] for place in used]
    shown = Listing("Specialization", "Level", *names, right=("Level", *names))
    for name, track in tracks.items():
        for number, level in enumerate(track.levels, 1):
            label = Text(name, style="bold" if number == 1 else "dim")
            shown.add(label, number, *(level[place] for place in used))
        shown.end_section()
    shown.print()
    for name in (track.name for track in tracks.values() if track.tracks_hours):
        out.print(f"{name} counts theory and practice hours, too.", markup=False, soft_wrap=True)
