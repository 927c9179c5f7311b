"""The sentence that the page after an act shows: what was done."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

COOKIE = "levelq_notice"


def with_notice(request: Request, response: Response, notice: str) -> Response:
    """Have the next page show the sentence, once."""
    response.set_cookie(COOKIE, notice.encode().hex(), httponly=True, samesite="strict", path="/")
    return response


def notice_of(request: Request) -> str | None:
    """The sentence for this page, None if there is none."""
    raw = request.cookies.get(COOKIE)
    return bytes.fromhex(raw).decode() if raw else None
