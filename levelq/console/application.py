"""The console as an ASGI application: its pages, its acts, and who may reach them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount
from starlette.staticfiles import StaticFiles

from .access.middleware import access
from .console import Console
from .pages import overview, runbook
from .rendering import page

_STATIC = Path(__file__).parent / "static"


def application(console: Console) -> Starlette:
    """The application that serves this console. It closes the console's connections when it ends."""

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        console.close()

    routes: list[BaseRoute] = [
        *overview.routes,
        *runbook.routes,
        Mount("/static", StaticFiles(directory=_STATIC), name="static"),
    ]
    made = Starlette(
        routes=routes,
        middleware=access(console),
        exception_handlers={HTTPException: _refused},
        lifespan=lifespan,
    )
    made.state.console = console
    return made


def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return page(request, "refused.html", status=error.status_code, error=error)
