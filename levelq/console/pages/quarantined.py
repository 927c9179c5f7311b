"""Entries of lanes that were no commands: the list, what came in the last hour, and one of them with its bytes."""

from __future__ import annotations

from contextlib import suppress

from sqlalchemy import Engine
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from levelq.console.console import Console
from levelq.console.filters import filter_of
from levelq.console.rendering import page
from levelq.console.whole_numbers import MOST_ROW_ID, whole_number
from levelq_core.errors import ConfigurationError
from levelq_core.operations.connections import redis_of
from levelq_core.operations.readings.hot_spots import ListWriter, QuarantineGroup, list_writers, quarantine_groups
from levelq_core.operations.readings.quarantine import QUARANTINED
from levelq_core.untrusted_text import quoted
from levelq_worker.redrive.quarantined import Returning

from .listing import from_database, listing
from .one_row import one_row

_PATH = "/quarantined"


def listed(request: Request) -> Response:
    """`/quarantined`: newest first."""
    console: Console = request.app.state.console
    asked = filter_of(request)
    _, shown = listing(console, QUARANTINED, asked.selection(), asked, _PATH)
    groups = () if asked.before else _groups(console)
    return page(
        request, "quarantined.html", **shown, groups=groups, writers=_writers(console) if groups else (),
        every=asked.url("", all="yes"),
    )  # fmt: skip


def _groups(console: Console) -> tuple[QuarantineGroup, ...]:
    """What was quarantined in the last hour; nothing while the database does not answer, which the list says."""

    def read(engine: Engine) -> tuple[QuarantineGroup, ...]:
        with engine.connect() as connection:
            return quarantine_groups(connection)

    return from_database(console, read)[0] or ()


def _writers(console: Console) -> tuple[ListWriter, ...]:
    """Connections that may have written it; nothing while Redis does not answer."""
    with suppress(ConfigurationError), redis_of(console.settings) as redis:
        return list_writers(redis)
    return ()


def shown(request: Request) -> Response:
    """`/quarantined/ID`: why, its fields as far as they can be read, its bytes, and what a retry would do."""
    console: Console = request.app.state.console
    given = request.path_params["number"]
    number = whole_number(given, MOST_ROW_ID)
    if number is None:
        raise HTTPException(404, f"id: expected the number of an entry, got {quoted(given)}")
    missing = f"no quarantined entry {given}: it was retried, discarded or pruned"
    return page(request, "quarantined_entry.html", **one_row(console, Returning, number, missing))


routes = [
    Route("/quarantined", listed, name="quarantined"),
    Route("/quarantined/{number}", shown, name="quarantined_entry"),
]
