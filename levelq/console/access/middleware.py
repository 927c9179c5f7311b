"""What stands before every page: headers, the host, the login, limits."""

from __future__ import annotations

from urllib.parse import quote

from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from .failures import Failures
from .guard import Guard, refuse_if_busy
from .headers import Headers
from .hosts import check_host, check_origin
from .login_page import LOGIN

STATIC = "/static/"


def access() -> list[Middleware]:
    """The middleware of a console, the outermost first."""
    return [Middleware(Headers), Middleware(Failures), Middleware(Gate)]


class Gate:
    """Lets in who is known; others see the login page and the files that it needs."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request whose host, origin and login are right, with its login as `request.state.login`."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        guard: Guard = request.app.state.guard
        check_host(request, guard.url)
        if scope["path"].startswith(STATIC):
            await self._app(scope, receive, send)
            return
        login = guard.login_of(request)
        check_origin(request, guard.url)
        if login is not None:
            request.state.login = login
            if request.method == "POST":
                refuse_if_busy(guard.acts.wait(login.name), "changes by this login")
                guard.acts.use(login.name)
            with guard.one_of_few():
                await self._app(scope, receive, send)
        elif scope["path"] == LOGIN:
            await self._app(scope, receive, send)
        elif request.method not in ("GET", "HEAD") or "part" in request.query_params:
            raise HTTPException(401, "you are not logged in, or no longer: log in and retry")
        else:
            wanted = f"{scope['path']}?{scope['query_string'].decode('latin-1')}".removesuffix("?")
            await RedirectResponse(f"{LOGIN}?next={quote(wanted, safe='')}", 303)(scope, receive, send)
