"""What operators did, newest first: who, what, to what, and from where."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from levelq.console.console import Console
from levelq.console.filters import filter_of
from levelq.console.rendering import page
from levelq_core.operations.readings.audit_lines import AUDIT_LINES, Acts

from .listing import listing

_PATH = "/audit"
ACTIONS = (  # what the field proposes; it takes any, and finds by the first word, too
    "adopt", "cancel", "db enforce", "drift audit", "forget", "namespace rebind", "pause", "prune", "purge",
    "quarantine", "rebuild", "rejected", "resume", "send", "shards", "sync",
)  # fmt: skip


def audit(request: Request) -> Response:
    """`/audit`."""
    console: Console = request.app.state.console
    asked = filter_of(request)
    acts = Acts(asked.since, asked.until, asked.given.get("action"), asked.user)
    _, shown = listing(console, AUDIT_LINES, acts, asked, _PATH)
    return page(request, "audit.html", **shown, actions=ACTIONS)


routes = [Route(_PATH, audit, name="audit")]
