"""What a retry of one row would do now, for the page that shows it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from levelq.console.console import Console
from levelq_core.errors import ConfigurationError
from levelq_core.operations.connections import database_of, lanes_of
from levelq_core.operations.readings.selection import Selection
from levelq_core.operations.wording import one_line


class Prospect(NamedTuple):
    """`verdict`: send, refused, done, or unknown while a server does not answer; `why`: in words."""

    verdict: str
    why: str


def prospect(console: Console, retrying: Callable[..., Any], selection: Selection) -> Prospect | None:
    """Look it up; None if the row is gone. Changes nothing."""
    try:
        with database_of(console.settings, console.engine) as engine, lanes_of(console.settings) as lanes:
            entries = retrying(engine, lanes, console.settings).look(selection).entries
    except ConfigurationError as error:
        return Prospect("unknown", one_line(str(error)))
    return Prospect(entries[0].verdict, one_line(entries[0].why)) if entries else None
