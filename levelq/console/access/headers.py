"""The headers of every response: what a browser may load and run, who may frame it, what it may keep."""

from __future__ import annotations

from starlette.datastructures import MutableHeaders, QueryParams
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    # Not no-referrer: with that, browsers send "Origin: null" even with our own forms.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()",
}
_YEAR = 31_536_000


class Headers:
    """The outermost of the middleware, so that errors and files have them as well."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request with these headers."""

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers["Cache-Control"] = _kept(scope, message["status"])
            await send(message)

        await self._app(scope, receive, with_headers if scope["type"] == "http" else send)


def _kept(scope: Scope, status: int) -> str:
    """Pages hold names of users and are kept nowhere; files are kept as long as their URL has their version."""
    if not scope["path"].startswith("/static/") or status not in (200, 206, 304):
        return "no-store"
    return f"public, max-age={_YEAR}, immutable" if "v" in QueryParams(scope["query_string"]) else "no-cache"
