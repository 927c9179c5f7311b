"""What commands share in showing things: consoles, tables, and text that others wrote."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from datetime import UTC, datetime

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

_PIPED_WIDTH = 200  # into a file or a pipe nothing is folded that need not be


def _width(stream_is_terminal: bool) -> int | None:
    return None if stream_is_terminal or "COLUMNS" in os.environ else _PIPED_WIDTH


out = Console(highlight=False, width=_width(sys.stdout.isatty()))
err = Console(highlight=False, stderr=True, width=_width(sys.stderr.isatty()))

Cell = str | int | Text | None


def table(*columns: str, title: str | None = None, right: Iterable[str] = ()) -> Table:
    """An empty table; the columns named in `right` hold numbers. Long text folds at words, numbers never."""
    made = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="bold", pad_edge=False)
    numbers = set(right)
    for column in columns:
        if column in numbers:
            made.add_column(column, justify="right", no_wrap=True)
        else:
            made.add_column(column, overflow="fold")
    return made


def cells(*values: Cell) -> list[Text]:
    """Values as a table shows them: nothing in them is markup, None is a dash."""
    return [value if isinstance(value, Text) else Text(_plain(value)) for value in values]


def _plain(value: str | int | None) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else printable(value)


def printable(text: str) -> str:
    """Text that others wrote, without what a terminal would obey."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def one_line(text: str) -> str:
    """A message on one line."""
    return printable(" ".join(text.split()))


def when(moment: datetime) -> str:
    """A time as the tables show it, in UTC, to the second."""
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


def duration(seconds: float) -> str:
    """A duration in the unit a person would choose: 0.4 s, 12 s, 3 min, 2.5 h, 4 d."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def count(number: int, thing: str, things: str | None = None) -> str:
    """`1 pair`, `1,200 pairs`."""
    return f"{number:,} {thing if number == 1 else things or thing + 's'}"
