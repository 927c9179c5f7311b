"""`levelq audit`: what operators did."""

from __future__ import annotations

import json
from typing import Annotated

from typer import Option, echo

from .options import AsJson, OfUser, Since, Until, time_of
from .screen import Listing, one_line, print_line, when

_MOST_DETAIL = 200  # characters of a line's detail in the table


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
    from levelq_core.operations.readings.audit_lines import audit_lines

    from .connections import database_of, load

    begin, end = time_of("--since", since), time_of("--until", until)
    with database_of(load()) as engine:
        found = audit_lines(engine, since=begin, until=end, action=action, user_id=user, limit=limit)
    if as_json:
        echo(json.dumps({"lines": [line.model_dump(mode="json") for line in found]}))
        return
    if not found:
        print_line("no line matches: nothing was done, or the audit no longer keeps it")
        return
    shown = Listing("When (UTC)", "Who", "From", "Action", "Target", "Detail", folding="Detail")
    for line in found:
        detail = (
            "" if line.detail is None else ", ".join(f"{name} {_short(value)}" for name, value in line.detail.items())
        )
        cells = (line.actor, line.origin, line.action, line.target, detail)
        shown.add(when(line.at), *map(one_line, cells))
    shown.print()


def _short(value: object) -> str:
    """A value of a detail; of many ids only how many."""
    return f"({len(value)})" if isinstance(value, dict | list) else str(value)[:_MOST_DETAIL]
