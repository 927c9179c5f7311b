"""Commands that only look: history, catalog."""

from __future__ import annotations

from datetime import datetime
from heapq import merge
from itertools import islice
from typing import Annotated

import typer
from rich.text import Text

from levelq_core.catalog import Requirement
from levelq_core.history import Entry, Quarantined, quarantined
from levelq_core.history import history as decided

from .connecting import database_of, load
from .screen import Cell, Listing, count, out, verdict, when


def history(
    user: Annotated[int, typer.Argument(metavar="USER", min=1, max=2**63 - 1, help="The user's id.")],
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many entries at most.")] = 50,
    ids: Annotated[bool, typer.Option("--ids", help="Show the commands' ids, too.")] = False,
) -> None:
    """Show a user's decided commands, newest first.

    With them, what was quarantined in the user's lanes: entries that were no command.
    """
    settings = load()
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
