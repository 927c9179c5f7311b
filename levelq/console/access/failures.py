"""What a browser sees of a refusal or a failure: a page of the console, with no traceback and no secret."""

from __future__ import annotations

import logging

from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from levelq.console.rendering import page
from levelq_core.database.sqlstate import in_words
from levelq_core.errors import LevelqError
from levelq_core.log_events import log_event
from levelq_core.operations.wording import one_line


class Failures:
    """Answers what the middleware inside refuses, and whatever fails unexpectedly; the latter is logged."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        started = False

        async def noted(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, noted)
        except ClientDisconnect:
            pass
        except Exception as error:
            if scope["type"] != "http" or started:
                raise
            response = await refused(Request(scope, receive), error)
            await response(scope, receive, send)


async def refused(request: Request, error: Exception) -> Response:
    """The page for this error."""
    shown = error if isinstance(error, HTTPException) else _reported(request, error)
    try:
        response: Response = page(request, "refused.html", status=shown.status_code, error=shown)
    except Exception as failed:  # the page cannot be made: say it without one
        _reported(request, failed)
        response = PlainTextResponse(
            f"{shown.status_code}: {shown.detail.encode('ascii', 'replace').decode()}", shown.status_code
        )
    response.headers.update(shown.headers or {})
    return response


def _reported(request: Request, error: Exception) -> HTTPException:
    """Log it; what the browser is told."""
    where = {"method": request.method, "path": request.url.path}
    if isinstance(error, LevelqError | SQLAlchemyError):  # a server is away, or answers too late: no traceback helps
        words = f"LEVELQ_DATABASE_URL: {in_words(error)}" if isinstance(error, SQLAlchemyError) else str(error)
        text = one_line(words)
        log_event(
            logging.WARNING, "console_unavailable", "console: %(method)s %(path)s: %(error)s", error=text, **where
        )
        return HTTPException(503, text)
    log_event(logging.ERROR, "console_failed", "console: %(method)s %(path)s failed", exc_info=error, **where)
    return HTTPException(500, "this is a bug of levelq; the console's log has the details")
