"""`levelq history`: a user's parked lanes and decided commands."""

from __future__ import annotations

from heapq import merge
from itertools import islice
from typing import TYPE_CHECKING, Annotated

from typer import Option

from .options import User
from .screen import Cell, Listing, count, duration, one_line, print_line, verdict, when

if TYPE_CHECKING:
    from levelq_core.lanes.parked import UserLane
    from levelq_core.operations.queries import Entry, Quarantined
    from levelq_core.settings import Settings


def history(
    user: User,
    limit: Annotated[int, Option(min=1, max=10_000, help="How many entries at most.")] = 50,
    ids: Annotated[bool, Option("--ids", help="Show the commands' ids, too.")] = False,
) -> None:
    """Show a user's parked lanes and decided commands, newest first.

    For a parked lane: since when, why, until when, and what to do about it. Entries of the user's lanes that were no
    commands are listed as quarantined.
    """
    from levelq_core.operations import queries
    from levelq_worker.support.parked_lanes import is_locked

    from .connections import database_of, load
    from .status_problems import held_by, row_holder

    settings = load()
    parked = _parked(settings, user)
    held: str | None = None
    try:
        with database_of(settings) as engine, engine.connect() as connection:
            if any(is_locked(found.parked.reason) for _, found in parked):
                held = held_by(row_holder(connection, settings))
            decided = [(entry.at, _decided_row(entry)) for entry in queries.history(connection, user, limit)]
            others = [(entry.at, _quarantined_row(entry)) for entry in queries.quarantined(connection, user, limit)]
    finally:
        for name, found in parked:
            _print_parked(name, found, held)
    # The ledger is in the order of effect; its times are those at which transactions began, and serve only to merge.
    rows = [row for _, row in islice(merge(decided, others, key=lambda timed: timed[0], reverse=True), limit)]
    if not rows:
        print_line(f"User {user}: nothing was decided yet, or the ledger no longer keeps it.")
        return
    columns = ["When (UTC)", "Specialization", "Command", "XP", "Level", "Result", "Command id"][: 7 if ids else 6]
    shown = Listing(*columns, right=("XP",), folding="Result")
    for row in rows:
        shown.add(*row[: len(columns)])
    shown.print()


def _parked(settings: Settings, user: int) -> list[tuple[str, UserLane]]:
    """The user's lanes that are parked, by specialization. Prints a line if Redis cannot be read."""
    from levelq_core.errors import ConfigurationError
    from levelq_core.lanes.parked import of_user

    from .connections import lanes_of

    found: list[tuple[str, UserLane]] = []
    try:
        with lanes_of(settings) as lanes:
            names = {partition.specialization for partition in lanes.partitions()} | set(settings.tracks)
            for name, layout in lanes.read_layouts(names).found.items():
                seen = [of_user(lanes.redis, lanes.keys, partition, user) for partition in layout.holding(name, user)]
                found += [(name, lane) for lane in seen if lane is not None]
    except ConfigurationError as error:
        print_line(verdict("parked lanes unknown", "bold yellow", f"  {one_line(str(error))}"))
    return found


def _print_parked(specialization: str, found: UserLane, held: str | None) -> None:
    from levelq_worker.support.parked_lanes import advice, is_locked, when_utc

    lane = found.parked
    waiting = "" if found.waiting is None else f", {count(found.waiting, 'command')} waiting"
    since = f"since {when_utc(lane.since_ms)}, {count(lane.attempts, 'attempt')}{waiting}"
    again = "being tried now"
    if lane.until_ms is not None:
        left = (lane.until_ms - found.now_ms) / 1000
        again = f"by itself at {when_utc(lane.until_ms)}, in {duration(left)}" if left > 0 else "due: a worker takes it"
    print_line(verdict("parked", "bold yellow", f"  {specialization} {since}"))
    todo = held if held and is_locked(lane.reason) else advice(lane.reason)
    for label, text in (("why", lane.reason), ("next", again), ("to do", todo)):
        print_line(verdict(f"{label:>6}", "dim", f"  {text}"))


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
