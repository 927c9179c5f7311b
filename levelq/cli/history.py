"""`levelq history`: a user's levels, what waits, and decided commands."""

from __future__ import annotations

from heapq import merge
from itertools import islice
from typing import TYPE_CHECKING, Annotated

from typer import Option

from .options import OfSpecialization, Since, Until, User, time_of
from .screen import Cell, Listing, count, duration, one_line, print_line, verdict, when

if TYPE_CHECKING:
    from levelq_core.operations.readings.history import HistoryEntry, QuarantinedEntry
    from levelq_core.operations.readings.waiting import ParkedUserLane, WaitingLane


def history(
    user: User,
    limit: Annotated[int, Option(min=1, max=10_000, help="How many entries at most.")] = 50,
    ids: Annotated[bool, Option("--ids", help="Show the commands' ids, too.")] = False,
    since: Since = None,
    until: Until = None,
    kind: Annotated[
        list[str] | None, Option(help="Only this kind of command: level-up, set-level, ...; may be repeated.")
    ] = None,
    specialization: OfSpecialization = None,
) -> None:
    """Show a user's levels, what waits, and decided commands, newest first.

    For a parked lane: since when, why, until when, and what to do about it. Entries of the user's lanes that were no
    commands are listed as quarantined. `levelq explain` says more about one user.
    """
    from levelq_core.errors import ConfigurationError
    from levelq_core.operations.readings.history import History, decided, quarantined, wanted_of

    from .connections import database_of, load

    times = {"since": time_of("--since", since), "until": time_of("--until", until)}
    wanted = wanted_of(user, limit, specialization, kinds=kind or (), **times)
    settings = load()
    with database_of(settings) as engine:
        past = History(engine, settings)
        for levels in past.levels(user):
            if wanted.specialization in (None, levels.specialization):
                print_line(verdict(f"{'now':>7}", "dim", f"  {levels.specialization} {levels.in_words()}"))
        try:
            for lane in past.waiting(user):
                if wanted.specialization in (None, lane.specialization):
                    _print_waiting(lane)
        except ConfigurationError as error:
            print_line(verdict("lanes unknown", "bold yellow", f"  {one_line(str(error))}"))
        with engine.connect() as connection:
            found = [(entry.at, _decided_row(entry)) for entry in decided(connection, wanted, limit)]
            others = quarantined(connection, wanted, limit) if not wanted.kinds else ()
    # The ledger is in the order of effect; its times are those at which transactions began, and serve only to merge.
    timed = merge(found, ((e.at, _quarantined_row(e)) for e in others), key=lambda timed: timed[0], reverse=True)
    rows = [row for _, row in islice(timed, limit)]
    if not rows:
        filtered = wanted != wanted_of(user, limit)
        which = "nothing of that was decided" if filtered else "nothing was decided yet"
        print_line(f"User {user}: {which}, or the ledger no longer keeps it.")
        return
    columns = ["When (UTC)", "Specialization", "Command", "XP", "Level", "Result", "Command id"][: 7 if ids else 6]
    shown = Listing(*columns, right=("XP",), folding="Result")
    for row in rows:
        shown.add(*row[: len(columns)])
    shown.print()


def _print_waiting(lane: WaitingLane) -> None:
    """What waits in a lane, and why if it is parked or its specialization is paused."""
    from levelq_core.operations.readings.pauses import pause_lines

    if lane.parked is not None:
        _print_parked(lane.parked)
    else:
        waiting = "a key that is no list" if lane.waiting is None else count(lane.waiting, "command")
        print_line(verdict("waiting", "bold yellow", f"  {lane.specialization} {waiting}"))
    if lane.paused is not None and lane.paused.user is None:
        print_line(verdict(" paused", "bold yellow", f"  {next(pause_lines([lane.paused]))}"))
    for command in lane.first:
        print_line(verdict(f"{command.position:>7}", "dim", f"  {command.in_words()}"))


def _print_parked(lane: ParkedUserLane) -> None:
    from levelq_core.lanes.pauses import PARKED_REASON
    from levelq_core.operations.wording import when_utc

    waiting = "" if lane.waiting is None else f", {count(lane.waiting, 'command')} waiting"
    since = f"since {when_utc(lane.since)}, {count(lane.attempts, 'attempt')}{waiting}"
    again = "when the pause ends" if lane.reason.startswith(PARKED_REASON) else "being tried now"
    if lane.until is not None and lane.retry_in_seconds is not None:
        left = lane.retry_in_seconds
        again = f"by itself at {when_utc(lane.until)}, in {duration(left)}" if left > 0 else "due: a worker takes it"
    print_line(verdict(" parked", "bold yellow", f"  {lane.specialization} {since}"))
    for label, text in (("why", lane.reason), ("next", again), ("to do", lane.remedy)):
        print_line(verdict(f"{label:>7}", "dim", f"  {text}"))


def _decided_row(entry: HistoryEntry) -> list[Cell]:
    level = None if entry.to_level is None else str(entry.to_level)
    if entry.from_level not in (None, entry.to_level):
        level = f"{entry.from_level} -> {entry.to_level}"
    xp = f"= {entry.xp:,}" if entry.kind == "reset" else f"{entry.xp:+,}" if entry.xp else None
    why = f": {one_line(entry.message)}" if entry.status == "rejected" else ""
    result = verdict(entry.status, "red" if why else "green", why + entry.origin())
    return [when(entry.at), entry.specialization, entry.kind, xp, level, result, str(entry.command_id)]


def _quarantined_row(entry: QuarantinedEntry) -> list[Cell]:
    found = f": {entry.reason}; {count(entry.length, 'byte')}, {entry.raw[:24]!r}"
    return [when(entry.at), entry.specialization, None, None, None, verdict("quarantined", "yellow", found), None]
