"""Search: a user's id leads to the user, a command's id to its user, with the command in view."""

from __future__ import annotations

from uuid import UUID

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from levelq.console.console import Console
from levelq.console.rendering import page
from levelq.console.whole_numbers import whole_number
from levelq_core.domain.commands import MAX_USER_ID
from levelq_core.errors import ConfigurationError
from levelq_core.lanes.protocol import FOUND_AMONG
from levelq_core.operations.readings.lane_search import TOO_MANY, find_lane
from levelq_core.untrusted_text import quoted


def search(request: Request) -> Response:
    """`/search?q=`. Raises HTTPException 400 for what is neither id."""
    given = request.query_params.get("q", "").strip()
    command_id = _command_id(given)
    if command_id is not None:
        return RedirectResponse(f"/commands/{command_id}", 303)
    user_id = whole_number(given, MAX_USER_ID)
    if user_id is not None:
        return RedirectResponse(f"/users/{user_id}", 303)
    expected = f"expected a user's id (1 to {MAX_USER_ID}) or a command's id (a UUID)"
    raise HTTPException(400, f"q: {expected}, got {quoted(given)}")


def command(request: Request) -> Response:
    """`/commands/{uuid}`: to the command on its user's page."""
    console: Console = request.app.state.console
    command_id = _command_id(given := request.path_params["uuid"])
    if command_id is None:
        raise HTTPException(400, f"command: expected a command's id (a UUID), got {quoted(given)}")
    problem, too_many = None, False
    try:
        lane = find_lane(console.settings, command_id, engine=console.engine)
        if lane is not None:
            return RedirectResponse(f"/users/{lane.user_id}?command={command_id}#c-{command_id}", 303)
    except ConfigurationError as error:
        problem, too_many = str(error), error.setting == TOO_MANY
    return page(
        request,
        "not_found.html",
        status=404 if problem is None or too_many else 503,
        command=command_id,
        problem=problem,
        too_many=too_many,
        most=FOUND_AMONG,
    )


def _command_id(given: str) -> UUID | None:
    """The id in one of the forms that UUID reads, such as without hyphens; None if it is none."""
    try:
        return UUID(given)
    except ValueError:
        return None


routes = [Route("/commands/{uuid}", command, name="command"), Route("/search", search, name="search")]
