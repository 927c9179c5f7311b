"""Commands that only look: history, catalog."""

from __future__ import annotations

from datetime import datetime
from heapq import merge
from itertools import islice
from typing import Annotated

import typer
from rich.text import Text

from levelq_core.domain.catalog import Requirement
from levelq_core.errors import ConfigurationError
from levelq_core.lanes.client import Lanes
from levelq_core.lanes.parked import UserLane, of_user
from levelq_core.operations.queries import Entry, Quarantined, quarantined
from levelq_core.operations.queries import history as decided
from levelq_core.settings import Settings
from levelq_worker.support.parked_lanes import advice, is_locked, when_utc

from .connecting import database_of, load, redis_of
from .problems import held_by, row_holder
from .screen import Cell, Listing, count, duration, one_line, out, verdict, when
from .sending import CheckedUser


def history(
    user: CheckedUser,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many entries at most.")] = 50,
    ids: Annotated[bool, typer.Option("--ids", help="Show the commands' ids, too.")] = False,
) -> None:
    """Show a user's parked lanes, then the user's decided commands, newest first.

    A parked lane waits for its cause to end: since when, why, until when, what to do about it. Among the commands is
    what was quarantined in the user's lanes: entries that were no command.
    """
    settings = load()
    parked = _parked(settings, user)
    held: str | None = None
    try:
        with database_of(settings) as engine, engine.connect() as connection:
            if any(is_locked(found.parked.reason) for _, found in parked):
                held = held_by(row_holder(connection, settings))
            commands: list[Entry | Quarantined] = [*decided(connection, user, limit)]
            rubbish: list[Entry | Quarantined] = [*quarantined(connection, user, limit)]
    finally:
        for name, found in parked:
            _print_parked(name, found, held)
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


def _parked(settings: Settings, user: int) -> list[tuple[str, UserLane]]:
    """The user's lanes that are parked, by specialization. Says so if Redis cannot be asked."""
    found: list[tuple[str, UserLane]] = []
    try:
        with redis_of(settings) as redis:
            lanes = Lanes(redis, settings)
            names = {partition.specialization for partition in lanes.partitions()} | set(settings.tracks)
            for name, layout in lanes.read_layouts(names).found.items():
                seen = [of_user(redis, settings.keys, partition, user) for partition in layout.holding(name, user)]
                found += [(name, lane) for lane in seen if lane is not None]
    except ConfigurationError as error:
        out.print(verdict("parked lanes unknown", "bold yellow", f"  {one_line(str(error))}"), soft_wrap=True)
    return found


def _print_parked(specialization: str, found: UserLane, held: str | None) -> None:
    lane = found.parked
    waiting = "" if found.waiting is None else f", {count(found.waiting, 'command')} waiting"
    since = f"since {when_utc(lane.since_ms)}, {count(lane.attempts, 'attempt')}{waiting}"
    again = "being tried now"
    if lane.until_ms is not None:
        left = (lane.until_ms - found.now_ms) / 1000
        again = f"by itself at {when_utc(lane.until_ms)}, in {duration(left)}" if left > 0 else "due: a worker takes it"
    out.print(verdict("parked", "bold yellow", f"  {specialization} {since}"), soft_wrap=True)
    todo = held if held and is_locked(lane.reason) else advice(lane.reason)
    for label, text in (("why", lane.reason), ("next", again), ("to do", todo)):
        out.print(verdict(f"{label:>6}", "dim", f"  {text}"), soft_wrap=True)


def _moment(entry: Entry | Quarantined) -> datetime:
    return entry.at


def _decided_row(entry: Entry) -> list[Cell]:
    level = None if entry.to_level is None else str(entry.to_level)
    if entry.from_level not in (None, entry.to_level):
        level = f"{entry.from_level} -> {entry.to_level}"
    applied = entry.status == "applied"
    result = verdict("applied", "green", "") if applied else verdict("rejected", "red", f": {entry.message}")
    xp = f"= {entry.xp:,}" if entry.kind == "reset" else f"{entry.xp:+,}" if entry.xp else None
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
