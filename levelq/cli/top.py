"""`levelq top`: what a running system does, as it does it."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from select import select
from typing import TYPE_CHECKING, Annotated, NamedTuple

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from typer import Option

from .screen import duration, out, per_second, print_line, printable, told
from .workers import batch_of, memory_of, state_of

if TYPE_CHECKING:
    from levelq_core.operations.readings.overview import SystemOverview
    from levelq_core.operations.readings.status import PartitionStatus
    from levelq_core.operations.readings.workers import HotLane, Rates, WorkerStatus
    from levelq_core.settings import Settings

_LOOK_SECONDS = 0.25  # between two looks at the keyboard and the size of the terminal
_HEADINGS = 12  # rows: the summary, the headings, the hot lanes, and lines that say how many are left out
_UNLIMITED = 1_000  # rows, where no terminal limits them
_WIDE, _NARROW = 104, 72  # columns: from here on, versions and memory have room; below, only what matters most has
_LONGEST_NAME = 20
_ORDER = ("silent", "waiting", "transaction", "draining", "idle")


class _Heights(NamedTuple):
    """How many rows each part may take."""

    partitions: int
    workers: int
    problems: int

    @classmethod
    def within(cls, rows: int, *needed: int) -> _Heights:
        """Share what the headings leave: a third for problems if they need it, then workers and partitions evenly."""
        left = max(3, rows - _HEADINGS)
        for_rows = left - min(needed[2], max(1, left // 3))
        workers = min(needed[1], max(for_rows // 2, for_rows - needed[0]))
        partitions = min(needed[0], for_rows - workers)
        return cls(partitions, workers, min(needed[2], left - workers - partitions))


def top(
    interval: Annotated[float, Option(min=0.2, max=3600, help="Seconds between two readings.")] = 2.0,
    once: Annotated[bool, Option("--once", help="Print one frame and end.")] = False,
) -> None:
    """Follow partitions, rates, lag, batches, hot lanes, workers and problems on the terminal.

    Ends with q or Ctrl-C. Rates are commands decided a second, of the last 10 s; lags are the time from send to commit,
    of the last minute. Piped, it prints one frame.
    """
    from levelq_core.operations.readings.overview import overview

    from .connections import load

    settings = load()
    if once or not out.is_terminal:
        seen = overview(settings)
        out.print(_frame(seen, out.width, _UNLIMITED, []))
        for line in told(seen.status):
            print_line(line)  # unwrapped: a statement in it can be copied
        return
    with suppress(KeyboardInterrupt):
        _follow(_Reader(settings, interval))


class _Reader(threading.Thread):
    """Reads again and again, so that a server that is silent for seconds does not stop the keyboard."""

    def __init__(self, settings: Settings, interval: float) -> None:
        super().__init__(name="levelq-top", daemon=True)
        self.latest: SystemOverview | None = None
        self.failure: Exception | None = None
        self._settings = settings
        self._interval = interval
        self._ended = threading.Event()

    def run(self) -> None:
        """Read until ended."""
        from levelq_core.operations.readings.overview import overview

        try:
            while not self._ended.is_set():
                self.latest = overview(self._settings)
                self._ended.wait(self._interval)
        except Exception as error:  # the main thread raises it
            self.failure = error

    def end(self) -> None:
        """Read no more."""
        self._ended.set()


def _follow(reader: _Reader) -> None:
    """Draw each reading until q is pressed. Raises what the reader met."""
    from rich.live import Live

    reader.start()
    shown: object = None
    try:
        with _keys(), Live(Text("reading ..."), console=out, screen=True, auto_refresh=False) as live:
            while not _pressed_q():
                if reader.failure is not None:
                    raise reader.failure
                latest, size = reader.latest, out.size
                if latest is not None and (latest, size) != shown:
                    shown = latest, size
                    lines = [row for line in told(latest.status) for row in line.wrap(out, size.width)]
                    live.update(_frame(latest, size.width, size.height, lines), refresh=True)
    finally:
        reader.end()


@contextmanager
def _keys() -> Iterator[None]:
    """Have the terminal pass on each key at once, and show none."""
    if not sys.stdin.isatty():
        yield
        return
    import termios
    import tty

    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin)
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _pressed_q() -> bool:
    """Whether q was pressed, after waiting for a key for a moment."""
    if not sys.stdin.isatty():
        threading.Event().wait(_LOOK_SECONDS)
        return False
    ready, _, _ = select([sys.stdin], [], [], _LOOK_SECONDS)
    return bool(ready) and os.read(sys.stdin.fileno(), 1) in (b"q", b"Q", b"")


def _frame(seen: SystemOverview, width: int, rows: int, lines: list[Text]) -> RenderableType:
    """One frame of this width and of this many rows at most, with as many of these lines as have room."""
    status, workers = seen.status, seen.workers
    if not status.lanes_readable:
        return Group(*_summary(seen, width), *lines[:rows])
    known = () if workers is None else workers.workers
    heights = _Heights.within(rows, len(status.partitions), len(known), len(lines))
    gap = [Text()] if rows >= _HEADINGS + sum(heights) else []
    return Group(
        *_summary(seen, width),
        *gap,
        _partitions(seen, heights.partitions, width),
        *_more(len(status.partitions) - heights.partitions, "partitions"),
        *gap,
        _workers(known, heights.workers, width),
        *_more(len(known) - heights.workers, "workers: levelq workers"),
        *gap,
        _hot_lanes(() if workers is None else workers.hot_lanes, width),
        *gap,
        *lines[: heights.problems],
        *_more(len(lines) - heights.problems, "lines: levelq status"),
    )


def _line(text: Text, width: int) -> Text:
    text.truncate(width, overflow="ellipsis")
    return text


def _more(count: int, what: str) -> list[Text]:
    return [Text(f"  and {count:,} more {what}", "dim")] if count > 0 else []


def _summary(seen: SystemOverview, width: int) -> Iterator[Text]:
    status = seen.status
    yield _line(Text(f"levelq top   namespace {status.namespace}   {seen.at:%H:%M:%S} UTC   q ends", "bold"), width)
    if status.total is None:
        away = "the workers' reports cannot be read" if status.lanes_readable else "Redis does not answer"
        yield _line(Text(f"{away}; trying again", "bold red"), width)
        return
    total, waiting = status.total, sum(found.waiting for found in status.partitions)
    rates = ((total.rate_10_s, "now"), (total.rate_1_min, "1 min"), (total.rate_10_min, "10 min"))
    decided = "   ".join(f"{per_second(rate)}/s {over}" for rate, over in rates)
    yield _line(Text(f"decided {decided}   rejected {per_second(total.rejected_1_min)}/s"), width)
    lags = f"lag p50 {_lag(total.lag_p50_seconds)}   p99 {_lag(total.lag_p99_seconds)}"
    before = f"   10 min p99 {_lag(total.lag_p99_10_min_seconds)}"
    yield _line(Text(f"{lags}{before}   waiting {waiting:,}"), width)


def _lag(seconds: float | None) -> str:
    return "-" if seconds is None else duration(seconds) if seconds >= 0.1 else f"{1000 * seconds:.0f} ms"


def _table(columns: Sequence[str], rows: Iterable[Sequence[str | Text]], hidden: Collection[str]) -> Table:
    """The columns that are not hidden. All but the first and the state hold numbers."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold cyan")
    shown = [position for position, heading in enumerate(columns) if heading not in hidden]
    for position in shown:
        heading = columns[position]
        text = position == 0 or heading in ("State", "Version")
        limit = 24 if heading == "State" else None
        table.add_column(
            heading, justify="left" if text else "right", no_wrap=True, overflow="ellipsis", max_width=limit
        )
    for row in rows:
        table.add_row(*(row[position] for position in shown))
    return table


def _partitions(seen: SystemOverview, rows: int, width: int) -> Table:
    """The partitions with the most waiting and decided commands."""
    rates: dict[str, Rates] = {of.partition: of for of in seen.status.rates}
    busiest = sorted(
        seen.status.partitions,
        key=lambda found: (-found.waiting, -(rates[found.partition].rate_10_s if found.partition in rates else 0.0)),
    )

    def row(found: PartitionStatus) -> tuple[str | Text, ...]:
        of = rates.get(found.partition)
        return (
            found.partition,
            *(f"{number:,}" for number in (found.waiting, found.ready, found.claimed)),
            Text(f"{found.parked:,}", "yellow" if found.parked else ""),
            duration(found.oldest_seconds) if found.waiting else "-",
            per_second(of.rate_10_s) if of else "0",
            _lag(of.lag_p99_seconds if of else None),
        )

    headings = ("Partition", "Waiting", "Ready", "Claimed", "Parked", "Oldest", "Rate/s", "p99 lag")
    hidden = ("Ready", "Claimed", "Oldest") if width < _NARROW else ()
    return _table(headings, map(row, busiest[:rows]), hidden)


def _workers(known: Sequence[WorkerStatus], rows: int, width: int) -> RenderableType:
    """The workers: silent and waiting ones first."""
    if not known:
        return Text("no worker reports", "bold yellow")
    now = max(worker.reported for worker in known)

    def row(worker: WorkerStatus) -> tuple[str | Text, ...]:
        name = printable(worker.name)
        return (
            name if len(name) <= _LONGEST_NAME else f"…{name[1 - _LONGEST_NAME :]}",
            state_of(worker),
            duration(max(0.0, (now - worker.since).total_seconds())),
            per_second(worker.rate_10_s),
            batch_of(worker) or "-",
            "-" if worker.usual_seconds is None else f"{worker.usual_seconds:.3f} s",
            printable(worker.version),
            memory_of(worker) or "-",
        )

    headings = ("Worker", "State", "Since", "Rate/s", "Batch", "Usual", "Version", "Memory")
    hidden = () if width >= _WIDE else ("Version", "Memory") if width >= _NARROW else headings[4:]
    first = sorted(known, key=lambda worker: (_ORDER.index(worker.state), -worker.rate_10_s))[:rows]
    return _table(headings, map(row, first), hidden)


def _hot_lanes(lanes: Sequence[HotLane], width: int) -> Text:
    """The lanes that take most of the batches, as many as one line holds."""
    shown = "   ".join(f"{printable(lane.partition)} user {lane.user_id}: {lane.commands:,}" for lane in lanes)
    text = Text.assemble(("Hot lanes", "bold cyan"), (" in 1 min  ", "dim"), shown or "none")
    return _line(text, width)
