"""What pages with long lists share: rows read or a line that says why not, and links to older and newer rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from sqlalchemy import Engine

from levelq.console.console import Console
from levelq.console.filters import PAGE_ROWS, Filter
from levelq_core.errors import ConfigurationError
from levelq_core.operations.connections import database_of
from levelq_core.operations.readings.selection import MOST_SEARCHED
from levelq_core.operations.wording import one_line

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
SPANS = (("1h", "1 h"), ("24h", "24 h"), ("7d", "7 days"), (None, "All"))  # links that set `since`


class Found(Protocol[T_co]):
    """A page of a reading. `before`: for the next one, None if there is none, however few rows this one has."""

    @property
    def rows(self) -> Sequence[T_co]:
        """The rows, newest first."""

    @property
    def before(self) -> int | None:
        """The id below which the next page begins."""


class Rows(NamedTuple, Generic[T_co]):
    """One page of a list. `problem`: why it cannot be read. `older`, `newest`: links, None where there are none.

    `searched`: among how many rows it was looked for, at most.
    """

    rows: Sequence[T_co]
    problem: str | None
    older: str | None
    newest: str | None
    searched: int = MOST_SEARCHED

    @classmethod
    def of(cls, found: Found[T_co] | None, problem: str | None, asked: Filter, path: str) -> Rows[T_co]:
        """The first rows of what was found, which is one more than a page if there are more."""
        rows = () if found is None else found.rows[:PAGE_ROWS]
        before = None if found is None else found.before
        if found is not None and len(found.rows) > PAGE_ROWS:
            last: Any = rows[-1]
            before = last.id
        older = None if before is None else asked.url(path, before=before)
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
