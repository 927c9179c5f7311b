"""The log of a worker process: its messages have no control characters and a limited length."""

from __future__ import annotations

import logging

from levelq_core.untrusted_text import printable

MOST_CHARACTERS = 2_000  # of one message, without a traceback


class SafeFormatter(logging.Formatter):
    """Messages on one line, without control characters, cut after MOST_CHARACTERS."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        record.message = printable(record.message, MOST_CHARACTERS)
        return super().formatMessage(record)


def log_safely() -> None:
    """Log warnings and errors of this process to stderr, unless its log is set up already."""
    handler = logging.StreamHandler()
    handler.setFormatter(SafeFormatter("%(asctime)s %(process)d %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
