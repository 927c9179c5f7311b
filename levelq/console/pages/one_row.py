"""One rejected command or quarantined entry, and what a retry of it would do now, for the page that shows it."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

from starlette.exceptions import HTTPException

from levelq.console.console import Console
from levelq_core.errors import ConfigurationError
from levelq_core.operations.connections import database_of, lanes_of
from levelq_core.operations.readings.selection import Selection
from levelq_core.operations.wording import one_line
from levelq_worker.redrive.redriving import Redriving

from .listing import from_database


class Prospect(NamedTuple):
    """`verdict`: send, refused, done, or unknown while a server does not answer; `why`: in words."""

    verdict: str
    why: str


def one_row(console: Console, kind: type[Redriving[Any]], key: Any, missing: str) -> dict[str, Any]:
    """For the template: the row, or why it cannot be read, and what a retry would do.

    Raises HTTPException 404, which says what is missing, if there is no such row.
    """
    selection = Selection((key,))
    found, problem = from_database(console, partial(kind.rows.newest, wanted=selection, limit=1))
    if found is not None and not found:
        raise HTTPException(404, missing)
    outlook = _prospect(console, kind, selection) if found else None
    return {"one": found[0] if found else None, "problem": problem, "outlook": outlook}


def _prospect(console: Console, kind: type[Redriving[Any]], selection: Selection) -> Prospect | None:
    """None if the row is gone. Changes nothing."""
    try:
        with database_of(console.settings, console.engine) as engine, lanes_of(console.settings) as lanes:
            entries = kind(engine, lanes, console.settings).look(selection).entries
    except ConfigurationError as error:
        return Prospect("unknown", one_line(str(error)))
    return Prospect(entries[0].verdict, one_line(entries[0].why)) if entries else None
