"""What pages with long lists share: rows read or a line that says why not, and links to older and newer rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Generic, NamedTuple, TypeVar

from sqlalchemy import Engine

from levelq.console.console import Console
from levelq.console.filters import PAGE_ROWS, Filter
from levelq_core.errors import ConfigurationError
from levelq_core.operations.connections import database_of
from levelq_core.operations.readings.row_list import MOST_SEARCHED, RowList, RowPage
from levelq_core.operations.wording import one_line

T = TypeVar("T")
W = TypeVar("W")
SPANS = (("1h", "1 h"), ("24h", "24 h"), ("7d", "7 days"), (None, "All"))  # links that set `since`


class Rows(NamedTuple, Generic[T]):
    """One page of a list. `problem`: why it cannot be read. `older`, `newest`: links, None where there are none.

    `searched`: among how many rows it was looked for, at most.
    """

    rows: Sequence[T]
    problem: str | None
    older: str | None
    newest: str | None
    searched: int = MOST_SEARCHED

    @classmethod
    def of(cls, found: RowPage[T] | None, problem: str | None, asked: Filter, path: str) -> Rows[T]:
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


def listing(
    console: Console, rows: RowList[W, T], wanted: W, asked: Filter, path: str, limit: int = PAGE_ROWS + 1
) -> tuple[RowPage[T], dict[str, Any]]:
    """The rows found, none if they cannot be read, and what the page's template shows of them and of its filter."""
    read = partial(rows.page, wanted=wanted, limit=limit, before=asked.before)
    found, problem = from_database(console, read)
    links = [(asked.url(path, since=value), label) for value, label in SPANS]
    span = next((label for value, label in SPANS if value == asked.given.get("since")), "")
    listed = Rows.of(found, problem, asked, path)
    return found or RowPage(()), {"asked": asked, "listed": listed, "spans": links, "span": span}
