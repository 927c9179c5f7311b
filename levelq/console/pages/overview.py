"""The first page: what waits, how fast it goes, what is wrong."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from levelq.console.console import Console
from levelq.console.rendering import page


def overview(request: Request) -> Response:
    """`/`."""
    console: Console = request.app.state.console
    return page(request, "overview.html", seen=console.overview.get())


routes = [Route("/", overview, name="overview")]
