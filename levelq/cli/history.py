"""`levelq history`: a user's parked lanes and decided commands."""

from __future__ import annotations

from heapq import merge
from itertools import islice
from typing import TYPE_CHECKING, Annotated

from typer import Option

from .options import User
from .screen import Cell, Listing, count, duration, one_line, print_line, verdict, when

if TYPE_CHECKING:
    from levelq_core.operations.readings.history import HistoryEntry, ParkedUserLane, QuarantinedEntry


def history(
    user: User,
    limit: Annotated[int, Option(min=1, max=10_000, help="How many entries at most.")] = 50,
    ids: Annotated[bool, Option("--ids", help="Show the commands' ids, too.")] = False,
) -> None:
    """Show a user's parked lanes and decided commands, newest first.

    For a parked lane: since when, why, until when, and what to do about it. Entries of the user's lanes that were no
    commands are listed as quarantined.
    """
    from levelq_core.errors import ConfigurationError
    from levelq_core.operations.readings.history import History

    from .connections import database_of, load

    settings = load()
    with database_of(settings) as engine:
        past = History(engine, settings)
        try:
            for lane in past.parked(user):
                _print_parked(lane)
        except ConfigurationError as error:
            print_line(verdict("parked lanes unknown", "bold yellow", f"  {one_line(str(error))}"))
        decided = [(entry.at, _decided_row(entry)) for entry in past.of(user, limit=limit)]
        others = [(entry.at, _quarantined_row(entry)) for entry in past.quarantined(user, limit=limit)]
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


def _print_parked(lane: ParkedUserLane) -> None:
    from levelq_core.lanes.pauses import PARKED_REASON
    from levelq_core.operations.wording import when_utc

    waiting = "" if lane.waiting is None else f", {count(lane.waiting, 'command')} waiting"
    since = f"since {when_utc(lane.since)}, {count(lane.attempts, 'attempt')}{waiting}"
    again = "when the pause ends" if lane.reason.startswith(PARKED_REASON) else "being tried now"
    if lane.until is not None and lane.retry_in_seconds is not None:
        left = lane.retry_in_seconds
        again = f"by itself at {when_utc(lane.until)}, in {duration(left)}" if left > 0 else "due: a worker takes it"
    print_line(verdict("parked", "bold yellow", f"  {lane.specialization} {since}"))
    for label, text in (("why", lane.reason), ("next", again), ("to do", lane.remedy)):
        print_line(verdict(f"{label:>6}", "dim", f"  {text}"))


def _decided_row(entry: HistoryEntry) -> list[Cell]:
    level = None if entry.to_level is None else str(entry.to_level)
    if entry.from_level not in (None, entry.to_level):
        level = f"{entry.from_level} -> {entry.to_level}"
    applied = entry.status == "applied"
    result = verdict("applied", "green", "") if applied else verdict("rejected", "red", f": {entry.message}")
    xp = f"= {entry.xp:,}" if entry.kind == "reset" else f"{entry.xp:+,}" if entry.xp else None
    return [when(entry.at), entry.specialization, entry.kind, xp, level, result, str(entry.command_id)]


def _quarantined_row(entry: QuarantinedEntry) -> list[Cell]:
    found = f": {entry.reason}; {count(entry.length, 'byte')}, {entry.raw[:24]!r}"
    return [when(entry.at), entry.specialization, None, None, None, verdict("quarantined", "yellow", found), None]
