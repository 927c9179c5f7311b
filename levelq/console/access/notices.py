"""The sentence that the page after an act shows: what was done.

It is signed for the login that acted, so no link or other site can make a page show a sentence of its own.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from .csrf import viewer

MOST_CHARACTERS = 600  # a browser keeps 4 KB of a cookie
SECONDS = 120
_PURPOSE = "notice"


def with_notice(request: Request, response: Response, notice: str) -> Response:
    """Have the next page show the sentence, once."""
    cut = notice if len(notice) <= MOST_CHARACTERS else f"{notice[:MOST_CHARACTERS]}..."
    guard = request.app.state.guard
    signed = guard.signatures.sign(_PURPOSE, *viewer(request), cut)
    response.set_cookie(
        _cookie(request), signed, SECONDS, path="/", httponly=True, samesite="strict", secure=guard.secure
    )
    return response


def notice_of(request: Request) -> str | None:
    """The sentence for this page, None if there is none."""
    signed = request.cookies.get(_cookie(request))
    if not signed:
        return None
    found = request.app.state.guard.signatures.read(_PURPOSE, signed, SECONDS)
    return found[2] if found is not None and tuple(found[:2]) == viewer(request) else None


def forget_notice(request: Request, response: Response) -> None:
    """The page has shown it, or it is not for this page: have the browser drop it."""
    if _cookie(request) in request.cookies:
        secure = request.app.state.guard.secure
        response.delete_cookie(_cookie(request), path="/", httponly=True, samesite="strict", secure=secure)


def _cookie(request: Request) -> str:
    return f"{request.app.state.guard.cookie_name(request)}-notice"
