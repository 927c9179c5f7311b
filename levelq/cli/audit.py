"""`levelq audit`: what operators did; and how commands that act on Redis alone write their line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from .options import AsJson, OfUser, Since, Until, time_of
from .screen import Listing, err, one_line, print_json, print_line, when

if TYPE_CHECKING:
    from levelq_core.settings import Settings


def audit(
    since: Since = None,
    until: Until = None,
    action: Annotated[
        str | None, Option("--action", metavar="NAME", help="Only this one: cancel, rejected retry, prune, ...")
    ] = None,
    user: OfUser = None,
    limit: Annotated[int, Option(min=1, max=10_000, help="How many lines at most.")] = 50,
    as_json: AsJson = False,
) -> None:
    """Show what operators did, newest first: who, when, what, to what, and from where.

    Each command that changes something has written a line.
    """
    from levelq_core.operations.readings.audit_lines import AUDIT_LINES, Acts

    from .connections import database_of, load

    acts = Acts(time_of("--since", since), time_of("--until", until), action, user)
    with database_of(load()) as engine:
        found = AUDIT_LINES.newest(engine, acts, limit=limit)
    if as_json:
        print_json({"lines": [line.model_dump(mode="json") for line in found]})
        return
    if not found:
        print_line("no line matches: nothing was done, or the audit no longer keeps it")
        return
    shown = Listing("When (UTC)", "Who", "From", "Action", "Target", "Detail", folding="Detail")
    for line in found:
        cells = (line.actor, line.origin, line.action, line.target, line.detail_in_words())
        shown.add(when(line.at), *map(one_line, cells))
    shown.print()


def note(settings: Settings, action: str, target: str, detail: Mapping[str, Any] | None = None) -> None:
    """Write the line of an act that is done; a line on stderr reports it if that is not possible."""
    from levelq_core.errors import ConfigurationError
    from levelq_core.operations import audit as operation

    from .connections import database_of

    why = "LEVELQ_DATABASE_URL is not set"
    if settings.database_url is not None:
        try:
            with database_of(settings) as engine, engine.begin() as connection:
                operation.record(connection, action, target, detail)
            return
        except ConfigurationError as error:
            why = str(error)
    print_line(f"done, but not in the audit: {one_line(why)}", "yellow", on=err)
