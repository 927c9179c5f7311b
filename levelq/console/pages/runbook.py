"""The runbook: what to do about each problem."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from levelq.console.rendering import page
from levelq.console.runbook import PAGE, runbook


def show(request: Request) -> Response:
    """`/runbook`."""
    return page(request, "runbook.html", text=runbook())


routes = [Route(PAGE, show, name="runbook")]
