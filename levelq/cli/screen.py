"""How commands print: consoles, tables, lines with a coloured verdict, JSON, and questions.

All that a command prints goes through here, so no text of others acts on the terminal: it is never read as markup, and
its control characters are escaped.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Collection, Iterable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

import typer
from rich import box
from rich.console import Console, ConsoleOptions, RenderableType
from rich.padding import Padding
from rich.segment import Segment
from rich.table import Column, Table
from rich.text import Text

if TYPE_CHECKING:
    from levelq_core.errors import ConfigurationError
    from levelq_core.operations.readings.status import StatusReport
    from levelq_core.operations.readings.workers import WorkersReport

_PIPED_WIDTH = 200  # into a file or a pipe: wide enough that little is folded
_GAP = 3  # between two columns
_LEAST = 20  # the least width of a column that folds

Cell = str | int | Text | None


class _SafeConsole(Console):
    """A console that escapes control characters in whatever is printed on it."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            if segment.control or segment.text == "\n" or segment.text.isprintable():
                yield segment
            else:
                yield segment._replace(text="\n".join(map(printable, segment.text.split("\n"))))


_piped = shutil.get_terminal_size((_PIPED_WIDTH, 24)).columns  # COLUMNS, where there is no terminal to ask
out = _SafeConsole(highlight=False, width=None if sys.stdout.isatty() else _piped)
err = _SafeConsole(highlight=False, stderr=True, width=None if sys.stderr.isatty() else _piped)


def print_line(text: str | Text, style: str = "", *, on: Console = out) -> None:
    """Print one line as it is: no markup, not folded; control characters of a str, line breaks too, are escaped."""
    on.print(Text(printable(text), style) if isinstance(text, str) else text, soft_wrap=True)


def print_json(value: Any) -> None:
    """Print a record or plain values to stdout as one line of JSON, ASCII only."""
    from levelq_core.untrusted_text import to_json

    typer.echo(to_json(value))


class Listing:
    """Rows under headings; on a terminal too narrow for that, one block per row.

    `right`: the columns that hold numbers. `folding`: the column whose text may take several lines.
    """

    def __init__(self, *columns: str, right: Collection[str] = (), folding: str | None = None) -> None:
        self._columns, self._right, self._folding = columns, right, folding
        self._rows: list[list[Text]] = []
        self._sections: set[int] = set()

    def add(self, *values: Cell, style: str = "") -> None:
        """Append a row; None is shown as a dash."""
        self._rows.append([_cell(value, style) for value in values])

    def end_section(self) -> None:
        """Leave room below the last row."""
        self._sections.add(len(self._rows) - 1)

    def print(self) -> None:
        """Print it to stdout."""
        out.print(self._table() if self._needed() <= out.width else self._blocks())

    def _needed(self) -> int:
        """The least width in which no cell is cut."""
        needed = 0
        for column, heading in enumerate(self._columns):
            widest = max((len(row[column]) for row in self._rows), default=0)
            needed += max(len(heading), min(widest, _LEAST) if heading == self._folding else widest) + _GAP
        return needed

    def _table(self) -> RenderableType:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for heading in self._columns:
            justify: Literal["left", "right"] = "right" if heading in self._right else "left"
            table.add_column(heading, justify=justify, no_wrap=heading != self._folding, overflow="fold")
        for number, row in enumerate(self._rows):
            table.add_row(*row, end_section=number in self._sections)
        return table

    def _blocks(self) -> RenderableType:
        blocks = Table.grid(Column(style="dim", no_wrap=True), Column(overflow="fold"), padding=(0, 1))
        for row in self._rows:
            for heading, cell in zip(self._columns, row, strict=True):
                blocks.add_row(heading, cell)
            blocks.add_row()
        return Padding(blocks, (1, 0, 0, 0))


def _cell(value: Cell, style: str) -> Text:
    if isinstance(value, Text):
        return value
    return Text("-" if value is None else f"{value:,}" if isinstance(value, int) else printable(value), style)


def verdict(word: str, style: str, rest: str) -> Text:
    """A line that begins with a word in colour."""
    return Text.assemble((printable(word), style), printable(rest))


def told(report: StatusReport | WorkersReport) -> Iterator[Text]:
    """The notes and problems of a report, a line for each."""
    for note in report.notes:
        yield verdict("note", "bold yellow", f"   {note}")
    for problem in report.problems:
        yield verdict("wrong", "bold red", f"  {problem}")


def confirm(question: str, *, yes: bool) -> None:
    """Ask at the terminal unless `yes`, and end the command unless that is the answer.

    Raises ConfigurationError if there is no terminal: scripts use --yes.
    """
    if not yes and not sys.stdin.isatty():
        raise refused("nothing was changed: no terminal to ask for confirmation; use --yes in scripts")
    if not yes:
        typer.confirm(printable(question), abort=True)


def never_ask(as_json: bool, *, yes: bool) -> None:
    """Raise ConfigurationError for --json where a question would be asked."""
    if as_json and not yes:
        raise refused("--json: expected --yes or --dry-run with it, because it does not ask")


def refused(reason: str) -> ConfigurationError:
    """The error that ends a command with exit code 2 and this line."""
    from levelq_core.errors import ConfigurationError

    return ConfigurationError(reason)


def printable(text: str) -> str:
    """Text of other programs without control characters; see levelq_core.untrusted_text."""
    from levelq_core.untrusted_text import printable as escaped

    return escaped(text)


def when(moment: datetime) -> str:
    """A time as the tables show it, in UTC, to the second."""
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


def one_line(text: str) -> str:
    """A message on one line."""
    from levelq_core.operations.wording import one_line as joined

    return joined(text)


def duration(seconds: float) -> str:
    """A duration in the unit a person would choose; see levelq_core.operations.wording."""
    from levelq_core.operations.wording import duration as shown

    return shown(seconds)


def per_second(rate: float) -> str:
    """A rate: 0.4, 12, 1,234."""
    return f"{rate:,.0f}" if rate >= 9.95 or not rate else f"{rate:,.1f}"


def count(number: int, thing: str) -> str:
    """`1 pair`, `1,200 pairs`."""
    from levelq_core.operations.wording import count as counted

    return counted(number, thing)
