"""`levelq events`: committed level changes, from the ledger."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from typer import Option

from .screen import print_json, print_line, verdict, when

if TYPE_CHECKING:
    from levelq_core.operations.events import LevelEvent


def events(
    follow: Annotated[bool, Option("--follow", "-f", help="Wait for further events, until interrupted.")] = False,
    consumer: Annotated[
        str | None, Option("--consumer", metavar="NAME", help="Begin where NAME stopped, and move its position.")
    ] = None,
    as_json: Annotated[bool, Option("--json", help="Print one JSON object for each event.")] = False,
    users: Annotated[
        list[int] | None, Option("--user", metavar="ID", help="Print only this user's; may be given again.")
    ] = None,
) -> None:
    """Print the level changes that are committed, oldest first: all that the ledger keeps.

    With --consumer only those that this consumer of LevelEvents has not handled yet, and they count as handled once
    they are printed, with --user the others, too.
    """
    from levelq_core.operations.events import LevelEvents

    from .connections import database_of, load

    with database_of(load()) as engine:
        found = LevelEvents(engine, consumer)
        for event in found.follow() if follow else found:
            if not users or event.user_id in users:
                _print(event, as_json)


def _print(event: LevelEvent, as_json: bool) -> None:
    if as_json:
        print_json(event._asdict() | {"at": event.at.isoformat()})
        return
    by = "" if event.advanced_by is None else f"  by {event.advanced_by}"
    change = f"{event.from_level} -> {event.to_level}"
    line = verdict(f"{change:>8}", "green" if event.reached else "yellow", f"  {event.reason}{by}")
    print_line(verdict(when(event.at), "dim", f"  user {event.user_id}  {event.specialization}  ").append_text(line))
