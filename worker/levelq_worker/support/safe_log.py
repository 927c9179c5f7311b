"""The log of levelq's own commands, as text or JSON: lines without control characters, of limited length."""

from __future__ import annotations

import logging
import math
from collections.abc import MutableMapping
from types import TracebackType
from typing import Any

from levelq_core.operations.wording import iso_utc, time_of
from levelq_core.settings import Settings
from levelq_core.untrusted_text import printable, to_json

MOST_CHARACTERS = 2_000  # of one message or field, without a traceback

_ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


class SafeFormatter(logging.Formatter):
    """Messages on one line, without control characters, cut after MOST_CHARACTERS. Tracebacks are indented."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        record.message = printable(record.message, MOST_CHARACTERS)
        return super().formatMessage(record)

    def formatException(self, ei: _ExcInfo) -> str:
        """A traceback, whose lines cannot be mistaken for lines of the log."""
        return "\n".join(f"  {printable(line)}" for line in super().formatException(ei).split("\n"))


def log_safely(settings: Settings) -> None:
    """Log this process to stderr as LEVELQ_LOG_FORMAT and LEVELQ_LOG_LEVEL say, unless its log is set up already.

    The level is that of levelq's own lines; of other libraries, RQ among them, it logs warnings and errors.
    """
    if logging.getLogger().handlers:
        return
    handler = logging.StreamHandler()
    text = "%(asctime)s %(process)d %(levelname)s %(message)s"
    handler.setFormatter(json_formatter() if settings.log_format == "json" else SafeFormatter(text))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("levelq").setLevel(settings.log_level.upper())


def json_formatter() -> logging.Formatter:
    """One JSON object on a line: time, process, level, logger, message; of levelq's events also `event` and fields."""
    from structlog import processors, stdlib  # noqa: PLC0415 - only for JSON

    return stdlib.ProcessorFormatter(
        foreign_pre_chain=[_message, stdlib.ExtraAdder(), stdlib.add_log_level, stdlib.add_logger_name, _origin],
        processors=[stdlib.ProcessorFormatter.remove_processors_meta, processors.format_exc_info, _safe],
    )


def _message(_: Any, __: str, entry: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Of a line that is no event of levelq's, there is only the message."""
    entry["message"] = entry.pop("event")
    return entry


def _origin(_: Any, __: str, entry: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    record = entry["_record"]
    return {"time": iso_utc(time_of(round(1000 * record.created))), "process": record.process, **entry}


def _safe(_: Any, __: str, entry: MutableMapping[str, Any]) -> str:
    return to_json({name: _shown(name, value) for name, value in entry.items()})


def _shown(name: str, value: object) -> object:
    if value is None or isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if name == "exception":
        return "\n".join(map(printable, str(value).split("\n")))
    return printable(str(value), MOST_CHARACTERS)
