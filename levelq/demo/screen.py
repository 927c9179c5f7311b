"""The demo while it runs: a live panel on a terminal, a plain line once a second elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from .helpers import WorkerPool
from .scenario import Scenario
from .watching import Killer, Sample

REFRESH_SECONDS = 0.2
LINE_SECONDS = 1.0
WIDTH, NUMBERS_WIDTH, CHART_HEIGHT = 100, 34, 5
_BLOCKS = " ▁▂▃▄▅▆▇█"


class Screen:
    """Shows samples as they come."""

    def __init__(
        self, console: Console, scenario: Scenario, killer: Killer, crew: WorkerPool, claim_seconds: float
    ) -> None:
        self._console = console
        self._scenario = scenario
        self._killer = killer
        self._crew = crew
        self._claim_seconds = claim_seconds
        self._samples: list[Sample] = []
        self._events: list[tuple[float, str]] = []
        self._begun = time.time()
        self._shown = 0.0
        self._told: set[str] = set()
        self._level_ups = 0
        self._batch = 0
        self._pushed = 0
        self._width = min(WIDTH, console.width)
        self._columns = max(10, self._width - NUMBERS_WIDTH - 4)
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None

    def __enter__(self) -> Self:
        self._begun = time.time()
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.update(self._frame(), refresh=True)
            self._live.stop()

    def show(self, sample: Sample, pushed: int) -> None:
        """Take a sample in; draw if it is time to."""
        self._samples.append(sample)
        self._pushed = pushed
        self._level_ups += sample.level_ups
        self._batch = max(sample.batches, default=self._batch)
        self._note(sample)
        every = REFRESH_SECONDS if self._live else LINE_SECONDS
        if sample.at - self._shown < every:
            return
        self._shown = sample.at
        if self._live:
            self._live.update(self._frame(), refresh=True)
        else:
            self._console.print(self._line(sample), soft_wrap=True)

    def _note(self, sample: Sample) -> None:
        """Tell each thing that happens once, in the order in which it does."""
        killer, commands = self._killer, self._scenario.commands
        new = [("burst", self._begun, f"{self._crew.processes} worker processes start; two producers push meanwhile")]
        if sample.batches:
            new.append(("first", sample.at, "the workers are up"))
        if killer.killed_at:
            text = f"SIGKILL for worker {killer.pid}; its claims run out within {self._claim_seconds:g} s (default 10)"
            new.append(("killed", killer.killed_at, text))
            new.append(("rest", killer.killed_at, "the producers push the rest meanwhile"))
        if killer.returned_at:
            held = f"the {killer.lanes_held} lanes it held are back" if killer.lanes_held else "it held no lane"
            new.append(("returned", killer.returned_at, held))
        if self._pushed >= commands and not sample.waiting:
            new.append(("empty", sample.at, "all lanes are empty"))
        self._tell(new)

    def _tell(self, new: Sequence[tuple[str, float, str]]) -> None:
        for name, at, text in sorted(new, key=lambda event: event[1]):
            if name not in self._told:
                self._told.add(name)
                self._events.append((at, text))
                if not self._live:
                    self._console.print(f"{at - self._begun:6.1f} s  * {text}", soft_wrap=True)

    def _rate(self, at: float, seconds: float) -> float:
        """Decided a second, in the seconds before a time."""
        return sum(sample.decided for sample in self._samples if at - seconds < sample.at <= at) / seconds

    def _line(self, sample: Sample) -> str:
        rate = self._rate(sample.at, LINE_SECONDS)
        return (
            f"{sample.at - self._begun:6.1f} s  queued {sample.waiting:>7,}  applied/s {rate:>7,.0f}  "
            f"batch {self._batch:>5,}  level-ups {self._level_ups:>6,}  oldest {sample.oldest_seconds:4.1f} s  "
            f"workers {len(sample.workers)}"
        )

    def _frame(self) -> RenderableType:
        if not self._samples:
            return Text("")
        body = Table.grid(padding=(0, 2))
        body.add_column(width=NUMBERS_WIDTH - 6)
        body.add_row(self._numbers(self._samples[-1]), self._charts())
        events = Text("\n").join(
            Text.assemble((f"{at - self._begun:5.1f} s ", "dim"), (text, "bold red" if "SIGKILL" in text else ""))
            for at, text in self._events
        )
        s = self._scenario
        title = f"levelq demo · {s.users:,} users · {s.commands:,} commands · seed {s.seed}"
        return Panel(Group(body, Text(""), events), title=title, border_style="cyan", width=self._width)

    def _numbers(self, sample: Sample) -> Table:
        table = Table.grid(padding=(0, 1))
        table.add_column(style="dim")
        table.add_column(justify="right", style="bold")
        table.add_row("time", f"{sample.at - self._begun:.1f} s")
        table.add_row("pushed", f"{self._pushed:,}")
        table.add_row("queued", f"{sample.waiting:,}")
        table.add_row("applied", f"{sum(seen.decided for seen in self._samples):,}")
        table.add_row("lanes claimed", f"{sample.claimed:,}")
        table.add_row("applied/s", Text(f"{self._rate(sample.at, LINE_SECONDS):,.0f}", style="bold green"))
        table.add_row("batch size", f"{self._batch:,}")
        table.add_row("level-ups", f"{self._level_ups:,}")
        table.add_row("oldest waits", f"{sample.oldest_seconds:.1f} s")
        table.add_row("levels differ", f"{sum(seen.out_of_step for seen in self._samples)} seen")
        table.add_row("", "")
        for pid, size in sample.workers.items():
            table.add_row(Text(f"● worker {pid}", style="green"), f"{size / 2**20:.0f} MB")
        if self._killer.killed_at:
            table.add_row(Text(f"✖ worker {self._killer.pid}", style="red"), Text("killed", style="red"))
        return table

    def _charts(self) -> Group:
        start, columns = self._samples[0].at, self._columns
        span = max(self._samples[-1].at - start, columns * REFRESH_SECONDS / 2)
        times = [start + span * (column + 1) / columns for column in range(columns)]
        queued = [self._queued(at) for at in times]
        rates = [self._rate(at, 0.5) for at in times]
        killed = self._killer.killed_at
        mark = min(columns - 1, int((killed - start) / span * columns)) if killed else None
        return Group(
            Text(f"queued (top: {max(queued):,.0f})", style="dim"),
            chart(queued, "blue", mark),
            Text(f"applied a second (top: {max(rates):,.0f})", style="dim"),
            chart(rates, "green", mark),
        )

    def _queued(self, at: float) -> float:
        """What waited at a time: the last look before it, nothing after the last look of all."""
        before = [sample.waiting for sample in self._samples if sample.at <= at]
        return before[-1] if before and at - REFRESH_SECONDS < self._samples[-1].at else 0.0


def chart(values: Sequence[float], style: str, mark: int | None) -> Text:
    """Bars of block characters; the marked column in red from top to bottom."""
    top = max(*values, 1.0)
    text = Text()
    for row in range(CHART_HEIGHT - 1, -1, -1):
        for column, value in enumerate(values):
            eighths = round(max(0.0, min(1.0, value / top * CHART_HEIGHT - row)) * 8)
            if column == mark:
                text.append("┃", "bold red")
            else:
                text.append(_BLOCKS[eighths], style)
        text.append("\n" if row else "")
    return text
