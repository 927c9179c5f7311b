"""What operators did, newest first: who, what, to what, and from where."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from levelq.console.console import Console
from levelq.console.filters import PAGE_ROWS, filter_of
from levelq.console.rendering import page
from levelq_core.operations.readings.audit_lines import audit_lines

from .listing import Rows, from_database, spans

_PATH = "/audit"
ACTIONS = (  # what the field proposes; it takes any, and finds by the first word, too
    "adopt", "cancel", "db enforce", "drift audit", "forget", "namespace rebind", "pause", "prune", "purge",
    "quarantine", "rebuild", "rejected", "resume", "send", "shards", "sync",
)  # fmt: skip


def audit(request: Request) -> Response:
    """`/audit`."""
    console: Console = request.app.state.console
    asked = filter_of(request)
    found, problem = from_database(
        console,
        lambda engine: audit_lines(
            engine, since=asked.since, until=asked.until, action=asked.given.get("action"), user_id=asked.user,
            limit=PAGE_ROWS + 1, before=asked.before,
        ),
    )  # fmt: skip
    links, span = spans(asked, _PATH)
    return page(
        request, "audit.html", asked=asked, listed=Rows.of(found, problem, asked, _PATH), actions=ACTIONS,
        spans=links, span=span,
    )  # fmt: skip


routes = [Route(_PATH, audit, name="audit")]
