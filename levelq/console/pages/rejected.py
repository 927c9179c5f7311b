"""Rejected commands that wait for an operator: the list, what they have in common, and one of them in full."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from levelq.console.console import Console
from levelq.console.filters import PAGE_ROWS, Filter, filter_of
from levelq.console.rendering import page
from levelq_core.operations.readings.rejected import REJECTED, RejectedCommand
from levelq_core.operations.readings.selection import ERRORS
from levelq_core.untrusted_text import quoted
from levelq_worker.redrive.plan import VARIABLE, alike
from levelq_worker.redrive.rejected import Retrying

from .listing import listing
from .one_row import one_row

MOST_GROUPED = 1_000  # of the newest rows; reading them takes some 20 ms
_MOST_GROUPS = 10
_MOST_NAMED = 200  # characters of a message in a link
_PATH = "/rejected"
_ERRORS = [("", "any"), *((name, name) for name in ERRORS)]


class Group(NamedTuple):
    """Rejections of one cause: how many, one of them, and a link to the list of them."""

    number: int
    example: RejectedCommand
    href: str


def listed(request: Request) -> Response:
    """`/rejected`: those that are open, newest first, and on the first page the causes of the newest 1,000."""
    console: Console = request.app.state.console
    asked = filter_of(request)
    limit = PAGE_ROWS + 1 if asked.before else MOST_GROUPED
    found, shown = listing(console, REJECTED, asked.selection(), asked, _PATH, limit)
    return page(
        request, "rejected.html", **shown, errors=_ERRORS, groups=[] if asked.before else groups(found.rows, asked),
        number=len(found.rows), more=found.before is not None, every=asked.url("", all="yes"),
    )  # fmt: skip


def groups(found: Sequence[RejectedCommand], asked: Filter) -> list[Group]:
    """Their causes, the most frequent first; a single cause says no more than the list itself."""
    made = alike(found, lambda one: f"{one.specialization} {one.kind} {one.error} {one.message}")
    return [_group(group, asked) for group in made[:_MOST_GROUPS]] if len(made) > 1 else []


def _group(group: Sequence[RejectedCommand], asked: Filter) -> Group:
    """The link names the longest part of the message that is the same in all of them."""
    one = group[0]
    parts = (found[0] for found in re.finditer(r"[^\x00]+", VARIABLE.sub("\0", one.message)))
    same = max((part.strip() for part in parts), key=len, default="")[:_MOST_NAMED].strip()
    href = asked.url(_PATH, error=one.error, specialization=one.specialization, reason=same or None)
    return Group(len(group), one, href)


def shown(request: Request) -> Response:
    """`/rejected/ID`: one command in full, and what a retry of it would do."""
    console: Console = request.app.state.console
    given = request.path_params["command_id"]
    try:
        command_id = UUID(given)
    except ValueError:
        raise HTTPException(404, f"id: expected a command's id, got {quoted(given)}") from None
    missing = f"no rejected command {given}: it was not rejected, or the ledger no longer has it"
    return page(request, "rejected_command.html", **one_row(console, Retrying, command_id, missing))


routes = [
    Route("/rejected", listed, name="rejected"),
    Route("/rejected/{command_id}", shown, name="rejected_command"),
]
