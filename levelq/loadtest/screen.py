"""The load test while it runs: a live panel on a terminal, a plain line once a second elsewhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from levelq.demo.screen import LINE_SECONDS, NUMBERS_WIDTH, REFRESH_SECONDS, WIDTH, chart

from .measuring import Percentiles, spread
from .watching import Sample, Watch

RECENT_SECONDS = 5.0  # what the percentiles on the screen are of


class Moment(NamedTuple):
    """What is shown at one moment, seconds after the start."""

    at: float
    counts: Counter[str]
    look: Sample
    recent: Percentiles
    longest: float
    commit_rate: float


class Screen:
    """Shows looks as they come."""

    def __init__(self, console: Console, title: str, watch: Watch, started: float, seconds: float) -> None:
        self._console = console
        self._title = title
        self._watch = watch
        self._started = started
        self._seconds = seconds
        self._shown = 0.0
        self._longest = 0.0
        self._measured = 0  # of the decided commands, how many went into the longest wait
        self._width = min(WIDTH, console.width)
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def note(self, text: str) -> None:
        """Say something that happened."""
        self._console.print(text, style="bold yellow", soft_wrap=True, markup=False)

    def show(self, counts: Counter[str], *, now: bool = False) -> None:
        """Draw the last look, if it is time to, or `now`."""
        look = self._watch.looks[-1]
        every = REFRESH_SECONDS if self._live else LINE_SECONDS
        if look.at - self._shown < every and not now:
            return
        self._shown = look.at
        moment = self._moment(counts, look)
        if self._live:
            self._live.update(self._frame(moment), refresh=True)
        else:
            self._console.print(self._line(moment), soft_wrap=True)

    def _moment(self, counts: Counter[str], look: Sample) -> Moment:
        decided = self._watch.decided
        self._longest = max([self._longest, *decided.waits(self._measured)])
        self._measured = len(decided)
        since = self._decided_before(look.at - RECENT_SECONDS)
        rate = (look.decided - self._decided_before(look.at - LINE_SECONDS)) / LINE_SECONDS
        counts["sent"] = max(counts["sent"], look.decided)  # the senders tell ten times a second
        return Moment(look.at - self._started, counts, look, spread(decided.waits(since)), self._longest, rate)

    def _decided_before(self, at: float) -> int:
        """How many commands the last look before a time had seen."""
        return next((look.decided for look in reversed(self._watch.looks) if look.at <= at), 0)

    def _line(self, now: Moment) -> str:
        recent = now.recent
        return (
            f"{now.at:6.1f} s  sent {now.counts['sent']:>7,}  decided {now.look.decided:>7,}  "
            f"waiting {now.look.waiting:>6,}  commits/s {now.commit_rate:>6,.0f}  "
            f"p50 {show(recent.p50)}  p99 {show(recent.p99)}  longest {show(now.longest)}"
        )

    def _frame(self, now: Moment) -> RenderableType:
        body = Table.grid(padding=(0, 2))
        body.add_column(width=NUMBERS_WIDTH - 6)
        body.add_row(self._numbers(now), self._charts(now))
        done = max(0.0, min(1.0, now.at / self._seconds))
        bar = Text("━" * round(done * (self._width - 4)), "cyan") if done < 1 else Text("waiting for the rest", "cyan")
        return Panel(Group(body, Text(""), bar), title=self._title, border_style="cyan", width=self._width)

    def _numbers(self, now: Moment) -> Table:
        table = Table.grid(padding=(0, 1))
        table.add_column(style="dim")
        table.add_column(justify="right", style="bold")
        counts = now.counts
        rows: list[tuple[str, str | Text]] = [
            ("time", f"{now.at:.1f} of {self._seconds:g} s"),
            ("sent", f"{counts['sent']:,}"),
            ("sent again", f"{counts['again']:,}"),
            ("decided", f"{now.look.decided:,}"),
            ("waiting", f"{now.look.waiting:,}"),
            ("commits/s", Text(f"{now.commit_rate:,.0f}", style="bold green")),
            ("oldest waits", f"{now.look.oldest_seconds:.1f} s"),
            ("", ""),
            (f"last {RECENT_SECONDS:g} s: p50", show(now.recent.p50)),
            ("p90", show(now.recent.p90)),
            ("p99", show(now.recent.p99)),
            ("longest so far", show(now.longest)),
        ]
        lost = counts["refused"] + counts["unknown"]
        if lost:
            rows.append(("refused, unknown", Text(f"{lost:,}", style="bold red")))
        for name, value in rows:
            table.add_row(name, value)
        return table

    def _charts(self, now: Moment) -> Group:
        columns = max(10, self._width - NUMBERS_WIDTH - 4)
        looks = _columns(self._watch.looks, columns)
        waiting = [float(look.waiting) for look in looks]
        steps = pairwise(looks)
        commits = [(after.decided - before.decided) / max(after.at - before.at, 0.01) for before, after in steps]
        return Group(
            Text(f"waiting (top: {max(waiting, default=0):,.0f})", style="dim"),
            chart(waiting or [0.0], "blue", None),
            Text(f"commits a second (top: {max(commits, default=0):,.0f})", style="dim"),
            chart(commits or [0.0], "green", None),
        )


def _columns(looks: Sequence[Sample], columns: int) -> list[Sample]:
    """As many looks as there is room for, evenly taken."""
    if len(looks) <= columns:
        return list(looks)
    return [looks[number * (len(looks) - 1) // (columns - 1)] for number in range(columns)]


def show(seconds: float) -> str:
    """A time a person can compare at a glance: 4.2 ms, 37 ms, 1.25 s, 12 s."""
    if seconds < 0.9995:
        milliseconds = 1000 * seconds
        return f"{milliseconds:.1f} ms" if milliseconds < 9.95 else f"{milliseconds:.0f} ms"
    return f"{seconds:.2f} s" if seconds < 9.995 else f"{seconds:.0f} s"
