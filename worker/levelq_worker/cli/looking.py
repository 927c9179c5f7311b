"""Commands that only look: status, history, catalog."""

from __future__ import annotations

import json
from datetime import datetime
from heapq import merge
from itertools import islice
from typing import Annotated, Any

import typer
from redis import Redis
from rich.text import Text

from levelq_core.catalog import Requirement
from levelq_core.errors import ConfigurationError
from levelq_core.history import Entry, Quarantined, counts, quarantined
from levelq_core.history import history as decided
from levelq_core.lanes import Lanes
from levelq_core.partitions import Partition
from levelq_core.scripts import Status
from levelq_core.settings import Settings
from levelq_worker.sweeping import partitions

from .connecting import database_of, load, redis_of
from .screen import Cell, Listing, count, duration, err, out, verdict, when

_NUMBERS = ("waiting", "ready", "claimed", "parked")


def status(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, for programs.")] = False,
) -> None:
    """Show what waits in the lanes, and how many workers serve.

    Waiting counts commands; ready, claimed and parked count lanes. Rejected and quarantined come from the
    database, if LEVELQ_DATABASE_URL is set.
    """
    settings = load()
    with redis_of(settings) as redis:
        found = _statuses(settings, redis)
    with redis_of(settings, rq=True) as redis:
        workers = _workers(redis, {partition.queue for partition in found})
    totals: dict[str, int | None] = {"rejected": None, "quarantined": None}
    if settings.database_url is not None:
        try:
            with database_of(settings) as engine, engine.connect() as connection:
                totals |= counts(connection)
        except ConfigurationError as error:
            err.print(f"levelq: {error}", markup=False, soft_wrap=True)
    if as_json:
        rows = [_row(partition, seen) for partition, seen in found.items()]
        typer.echo(json.dumps({"partitions": rows, **totals, "workers": workers}))
    else:
        _print_status(found, totals, workers)


def _statuses(settings: Settings, redis: Redis) -> dict[Partition, Status]:
    lanes = Lanes(redis, settings)
    names = {partition.specialization for partition in lanes.partitions()} | set(settings.tracks)
    return {partition: lanes.status(partition) for partition in partitions(lanes, settings, names)}


def _workers(redis: Redis, queues: set[str]) -> int:
    """How many RQ workers serve at least one of these queues."""
    from rq import Queue, Worker  # noqa: PLC0415 - a fifth of a second
    from rq.serializers import JSONSerializer  # noqa: PLC0415

    serving: set[str] = set()
    for name in queues:
        serving |= set(Worker.all_keys(queue=Queue(name, connection=redis, serializer=JSONSerializer)))
    return len(serving)


def _row(partition: Partition, seen: Status) -> dict[str, Any]:
    counted = {name: getattr(seen, name) for name in _NUMBERS}
    oldest = round(seen.oldest_seconds, 3)
    return {
        "partition": str(partition),
        "specialization": partition.specialization,
        **counted,
        "oldest_seconds": oldest,
    }


def _print_status(found: dict[Partition, Status], totals: dict[str, int | None], workers: int) -> None:
    numbers = [name.capitalize() for name in (*_NUMBERS, "oldest")]
    shown = Listing("Partition", *numbers, right=numbers)
    for partition, seen in found.items():
        shown.add(str(partition), *(getattr(seen, name) for name in _NUMBERS), _oldest(seen))
    if len(found) > 1:
        sums = (sum(getattr(seen, name) for seen in found.values()) for name in _NUMBERS)
        shown.end_section()
        shown.add("all", *sums, _oldest(*found.values()), style="bold")
    shown.print()
    rest = "".join(f"   {name} {'-' if number is None else format(number, ',')}" for name, number in totals.items())
    out.print(verdict(count(workers, "worker"), "" if workers else "bold yellow", rest))
    if not workers and any(seen.waiting for seen in found.values()):
        out.print("Commands wait and no worker serves them: levelq worker", style="yellow", soft_wrap=True)


def _oldest(*seen: Status) -> str | None:
    ages = [status.oldest_seconds for status in seen if status.waiting]
    return duration(max(ages)) if ages else None


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
