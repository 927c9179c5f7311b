"""A user: why nothing happens, both rows, what waits, what happened; and the page to which a command's id leads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from levelq.console.console import Console
from levelq.console.rendering import page
from levelq.console.whole_numbers import whole_number
from levelq_core.domain.commands import MAX_USER_ID
from levelq_core.errors import ConfigurationError
from levelq_core.operations.connections import database_of
from levelq_core.operations.readings.explanation import Explanation, explain
from levelq_core.operations.readings.history import History, HistoryEntry
from levelq_core.operations.readings.lane_search import find_lane
from levelq_core.operations.readings.timeline import Event
from levelq_core.untrusted_text import quoted

EVENTS = 20  # of each kind
COMMANDS = 20  # of those that wait in a lane
HISTORY = 50  # decided commands on a page

_DECIDED = ("applied", "rejected")
# Causes that end by themselves, or that an operator made; the others need somebody.
_PASSING = {"claimed", "due", "in_outbox", "paused", "resharding", "restoring", "quarantined", "unknown_user"}


def user(request: Request) -> Response:
    """`/users/{id}`; `?command=`: about this command, too; `?before=`: decided commands before this one."""
    console: Console = request.app.state.console
    user_id = user_id_of(request.path_params["id"])
    before, command = (_command_id(request, name) for name in ("before", "command"))
    if before is not None:
        return _history(request, console, user_id, before)
    found = explain(console.settings, user_id, limit=EVENTS, first=COMMANDS, engine=console.engine)
    events = [event for event in reversed(found.events) if event.what != "waiting"]
    chosen, problem = (None, None) if command is None else _chosen(console, user_id, command)
    decided = [event.command_id for event in events if event.what in _DECIDED]
    values: dict[str, Any] = {
        "user_id": user_id,
        "found": found,
        "kind": kind_of,
        "events": events,
        "in_outbox": _in_outbox(found),
        "older": decided[-1] if len(decided) >= EVENTS else None,
        "command": command,
        "chosen": chosen,
        "chosen_problem": problem,
        "refresh": f"/users/{user_id}?" + urlencode({"part": "user_part", **({"command": command} if command else {})}),
    }
    return page(request, "user.html", **values)


def kind_of(cause: str, conclusion: str) -> str:
    """How a conclusion is shown: well, note or wrong."""
    if cause == "fine" or conclusion.endswith(": nothing to do"):
        return "well"
    return "note" if cause in _PASSING else "wrong"


def user_id_of(given: str) -> int:
    """The user's id of a URL. Raises HTTPException 400."""
    number = whole_number(given, MAX_USER_ID)
    if number is None:
        raise HTTPException(400, f"user: expected 1 to {MAX_USER_ID}, got {quoted(given)}")
    return number


def _command_id(request: Request, name: str) -> UUID | None:
    given = request.query_params.get(name, "")
    try:
        return UUID(given) if given else None
    except ValueError:
        raise HTTPException(400, f"{name}: expected a command's id (a UUID), got {quoted(given)}") from None


def _in_outbox(found: Explanation) -> dict[str, list[Event]]:
    """The commands that wait in the outbox and were never pushed, by specialization."""
    waiting: dict[str, list[Event]] = {}
    for event in found.events:
        if event.what == "waiting" and event.detail.get("held_in") == "outbox":
            waiting.setdefault(event.specialization or "", []).append(event)
    return waiting


def _chosen(console: Console, user_id: int, command: UUID) -> tuple[HistoryEntry | str | None, str | None]:
    """The command: as it was decided, or the specialization in which it waits, or None; and what is not known of it."""
    try:
        if console.engine is not None:
            with database_of(console.settings, console.engine) as engine:
                entry = History(engine).command(command)
            if entry is not None:
                return (entry, None) if entry.user_id == user_id else (None, None)
        lane = find_lane(console.settings, command, engine=console.engine)
    except ConfigurationError as error:
        return None, str(error)
    return (lane.specialization, None) if lane is not None and lane.user_id == user_id else (None, None)


def _history(request: Request, console: Console, user_id: int, before: UUID) -> Response:
    """Decided commands before one of them, a page at a time."""
    entries: Sequence[HistoryEntry] = ()
    problem = None
    try:
        with database_of(console.settings, console.engine) as engine:
            entries = History(engine).of(user_id, limit=HISTORY + 1, before=before)
    except ConfigurationError as error:
        problem = str(error)
    more = len(entries) > HISTORY
    return page(
        request,
        "user_history.html",
        user_id=user_id,
        entries=entries[:HISTORY],
        older=f"/users/{user_id}?before={entries[HISTORY - 1].command_id}" if more else None,
        problem=problem,
    )


routes = [Route("/users/{id}", user, name="user")]
