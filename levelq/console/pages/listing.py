"""What pages with long lists share: rows read or a line that says why not, and links to older and newer rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from sqlalchemy import Engine

from levelq.console.console import Console
from levelq.console.filters import PAGE_ROWS, Filter
from levelq_core.errors import ConfigurationError
from levelq_core.operations.connections import database_of
from levelq_core.operations.wording import one_line

T = TypeVar("T")
SPANS = (("1h", "1 h"), ("24h", "24 h"), ("7d", "7 days"), (None, "All"))  # links that set `since`


class Rows(NamedTuple, Generic[T]):
    """One page of a list. `problem`: why it cannot be read. `older`, `newest`: links, None where there are none."""

    rows: Sequence[T]
    problem: str | None
    older: str | None
    newest: str | None

    @classmethod
    def of(cls, found: Sequence[T] | None, problem: str | None, asked: Filter, path: str) -> Rows[T]:
        """The first rows of what was found, which is one more than a page if there are more; rows have an `id`."""
        rows = (found or ())[:PAGE_ROWS]
        last: Any = rows[-1] if rows else None
        older = asked.url(path, before=last.id) if found is not None and len(found) > PAGE_ROWS else None
        return cls(rows, problem, older, None if asked.before is None else asked.url(path))


def from_database(console: Console, read: Callable[[Engine], T]) -> tuple[T | None, str | None]:
    """What was read, or None and why it cannot be read."""
    try:
        with database_of(console.settings, console.engine) as engine:
            return read(engine), None
    except ConfigurationError as error:
        return None, one_line(str(error))


def spans(asked: Filter, path: str) -> tuple[list[tuple[str, str]], str]:
    """Links that set how far back the list goes, and the label of the one that is set."""
    links = [(asked.url(path, since=value), label) for value, label in SPANS]
    current = next((label for value, label in SPANS if value == asked.given.get("since")), "")
    return links, current
