"""What levelq logs: each event has a name and fields, and a message made of the fields.

They go through Python's `logging`, to the logger "levelq", so an application's own configuration decides what becomes
of them. The fields are attributes of the record, as those of `extra=` are, `event` among them.
"""

from __future__ import annotations

import logging
from typing import Any

log = logging.getLogger("levelq")


def log_event(level: int, event: str, message: str, *, exc_info: Any = None, **fields: object) -> None:
    """Log an event. `message`: %-style, with the names of fields: "%(partition)s: %(claims)d claims returned".

    docs/how-to/logs-and-traces.md lists the events and their fields.
    """
    if log.isEnabledFor(level):
        extra = {"event": event, **{name: _plain(value) for name, value in fields.items()}}
        log.log(level, message, *([fields] if fields else []), exc_info=exc_info, extra=extra, stacklevel=2)


def _plain(value: object) -> object:
    return value if value is None or isinstance(value, str | int | float) else str(value)
