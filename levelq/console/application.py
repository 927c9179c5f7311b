"""The console as an ASGI application: its pages, its acts, and who may reach them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Mount
from starlette.staticfiles import StaticFiles

from .access import login_page
from .access.failures import refused
from .access.guard import Guard
from .access.middleware import STATIC, access
from .acts import (
    audit_drift,
    cancel,
    discarding,
    forget,
    pause,
    purge,
    rebuild,
    resume,
    retrying,
    sync,
    sync_all,
)
from .console import Console
from .pages import (
    audit,
    drift,
    overview,
    partition,
    quarantined,
    rejected,
    runbook,
    runtime_settings,
    search,
    user,
    workers,
)

_STATIC = Path(__file__).parent / "static"


def application(console: Console) -> Starlette:
    """The application that serves this console. It closes the console's connections when it ends.

    Raises ConfigurationError if the settings of its logins cannot be used.
    """

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        console.close()

    routes: list[BaseRoute] = [
        *audit.routes,
        *drift.routes,
        *login_page.routes,
        *overview.routes,
        *partition.routes,
        *quarantined.routes,
        *rejected.routes,
        *runbook.routes,
        *runtime_settings.routes,
        *search.routes,
        *user.routes,
        *workers.routes,
        audit_drift.route,
        cancel.route,
        *discarding.routes,
        forget.route,
        pause.route,
        purge.route,
        rebuild.route,
        resume.route,
        *retrying.routes,
        sync.route,
        sync_all.route,
        Mount(STATIC, StaticFiles(directory=_STATIC), name="static"),
    ]
    made = Starlette(
        routes=routes,
        middleware=access(),
        exception_handlers={HTTPException: refused},
        lifespan=lifespan,
    )
    made.router.redirect_slashes = False  # it names a scheme and a host, and behind a proxy it knows neither
    made.state.console = console
    made.state.guard = Guard(console.settings)
    return made
