"""A run as it is shown: a live panel on a terminal, a plain line once a second elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from .sampler import Sample, Sampler

WIDTH = 100
_NUMBERS_WIDTH, _CHART_HEIGHT = 28, 5
_REFRESH_SECONDS, _LINE_SECONDS = 0.2, 1.0
_BLOCKS = " ▁▂▃▄▅▆▇█"


def console() -> Console:
    """Stdout. A file has no width; rich would take 80."""
    made = Console(highlight=False)
    if not made.is_terminal:
        made.width = WIDTH
    return made


Numbers = dict[str, str | Text]  # what a run shows, by name


@dataclass
class Screen:
    """Shows the sampler's last sample, and what happened, since `started` (a Unix time)."""

    _console: Console
    _title: str
    _sampler: Sampler
    _numbers: Callable[[Sample], Numbers]  # what to show of a sample
    _line: Collection[str]  # the names of the numbers that a plain line shows
    started: float = field(default_factory=time.time)
    _shown: float = 0.0
    _events: dict[str, float] = field(default_factory=dict)
    _mark: float | None = None

    def __post_init__(self) -> None:
        self._width = min(WIDTH, self._console.width)
        self._live = Live(console=self._console, auto_refresh=False) if self._console.is_terminal else None

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._sampler.samples:
            self._draw()
        if self._live:
            self._live.stop()

    def note(self, text: str, at: float | None = None, *, mark: bool = False) -> None:
        """Show what happened, once. `at`: its Unix time, if not now; `mark`: also as a line across the charts."""
        if text in self._events:
            return
        at = at or time.time()
        self._events[text] = at
        if mark:
            self._mark = at
        if not self._live:
            self._console.print(f"{at - self.started:6.1f} s  * {text}", soft_wrap=True)

    def show(self) -> None:
        """Draw, if it is time to."""
        at = self._sampler.last.at
        if at - self._shown >= (_REFRESH_SECONDS if self._live else _LINE_SECONDS):
            self._shown = at
            self._draw()

    def _draw(self) -> None:
        if self._live:
            self._live.update(self._panel(), refresh=True)
            return
        sample = self._sampler.last
        numbers = self._numbers(sample)
        shown = "  ".join(f"{name} {numbers[name]!s:>7}" for name in self._line)
        self._console.print(f"{max(0.0, sample.at - self.started):6.1f} s  {shown}", soft_wrap=True)

    def _panel(self) -> RenderableType:
        body = Table.grid(padding=(0, 2))
        body.add_column(width=_NUMBERS_WIDTH)
        body.add_row(self._table(), self._charts())
        events = Text("\n").join(
            Text.assemble((f"{at - self.started:5.1f} s ", "dim"), (text, "bold red" if at == self._mark else ""))
            for text, at in sorted(self._events.items(), key=lambda event: event[1])
        )
        shown = Group(body, Text(""), events) if self._events else body
        return Panel(shown, title=self._title, border_style="cyan", width=self._width)

    def _table(self) -> Table:
        table = Table.grid(padding=(0, 1))
        table.add_column(style="dim")
        table.add_column(justify="right", style="bold")
        sample = self._sampler.last
        table.add_row("time", f"{max(0.0, sample.at - self.started):.1f} s")
        for name, value in self._numbers(sample).items():
            table.add_row(name, value)
        return table

    def _charts(self) -> Group:
        columns = max(10, self._width - _NUMBERS_WIDTH - 8)
        samples = _evenly(self._sampler.samples, columns)
        waiting = [float(sample.waiting) for sample in samples]
        rates = [self._sampler.rate(sample.at) for sample in samples]
        mark = next((column for column, sample in enumerate(samples) if self._mark and sample.at >= self._mark), None)
        return Group(
            Text(f"waiting in the lanes (top: {max(waiting):,.0f})", style="dim"),
            _bars(waiting, "blue", mark),
            Text(f"decided a second (top: {max(rates):,.0f})", style="dim"),
            _bars(rates, "green", mark),
        )


def _evenly(samples: Sequence[Sample], count: int) -> list[Sample]:
    """At most `count` samples, evenly taken, the first and the last among them."""
    if len(samples) <= count:
        return list(samples)
    return [samples[number * (len(samples) - 1) // (count - 1)] for number in range(count)]


def _bars(values: Sequence[float], style: str, mark: int | None) -> Text:
    """Bars of block characters; the marked column in red from top to bottom."""
    top = max(*values, 1.0)
    text = Text()
    for row in range(_CHART_HEIGHT - 1, -1, -1):
        for column, value in enumerate(values):
            eighths = round(max(0.0, min(1.0, value / top * _CHART_HEIGHT - row)) * 8)
            block, colour = ("┃", "bold red") if column == mark else (_BLOCKS[eighths], style)
            text.append(block, colour)
        text.append("\n" if row else "")
    return text
