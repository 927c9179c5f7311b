"""`/login` and `/logout`."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from levelq.console.rendering import page

from .forms import read_form
from .guard import Guard
from .hosts import local_path
from .sessions import LIFETIME

LOGIN = "/login"


async def login(request: Request) -> Response:
    """GET: the form. POST: begin a session and go on to the page that was asked for."""
    guard: Guard = request.app.state.guard
    form = await read_form(request) if request.method == "POST" else {}
    wanted = local_path({**request.query_params, **form}.get("next", "/")) or "/"
    if getattr(request.state, "login", None) is not None:
        return RedirectResponse(wanted, 303)
    if request.headers.get("sec-fetch-site") == "cross-site":
        # A link elsewhere led here, and the browser kept our cookie back (SameSite=Strict). From our page it sends it.
        return page(request, "continue.html", wanted=wanted)
    if request.method != "POST" or guard.file is None:
        return page(request, "login.html", wanted=wanted, with_token=guard.file is not None, failed=False)
    entry = guard.try_token(request, form.get("token", ""))
    if entry is None:
        return page(request, "login.html", status=403, wanted=wanted, with_token=True, failed=True)
    response = RedirectResponse(wanted, 303)
    cookie = guard.sessions.begin(entry)
    response.set_cookie(
        guard.cookie_name(request),
        cookie,
        int(LIFETIME),
        path="/",
        httponly=True,
        samesite="strict",
        secure=guard.secure,
    )
    return response


async def logout(request: Request) -> Response:
    """POST: end the session."""
    guard: Guard = request.app.state.guard
    await read_form(request)
    guard.sessions.end(request.state.session)
    response = RedirectResponse(LOGIN, 303)
    response.delete_cookie(guard.cookie_name(request), path="/", httponly=True, samesite="strict", secure=guard.secure)
    return response


routes = [
    Route(LOGIN, login, methods=["GET", "POST"], name="login"),
    Route("/logout", logout, methods=["POST"], name="logout"),
]
