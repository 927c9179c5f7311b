"""The verdict and the figures of a demo on the screen."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from levelq.laboratory.percentiles import duration
from levelq.laboratory.processes import WorkerPool
from levelq.laboratory.screen import WIDTH

from .checks import Check
from .figures import PEAK_SECONDS, Figures
from .kill import WorkerKill
from .scenario import Scenario, Send

_TARGET = 10_000  # commands a second that the demo is meant to reach on two cores


def megabytes(size: int) -> str:
    """Bytes as MB."""
    return f"{size / 2**20:.0f} MB"


def show_checks(console: Console, checks: Sequence[Check], seconds: float) -> None:
    """One line per check, with a tick or a cross, and a number."""
    failed = sum(not check.passed for check in checks)
    verdict = (
        f"[bold red]{failed} of {len(checks)} checks failed"
        if failed
        else f"[bold green]all {len(checks)} checks passed"
    )
    console.print(f"[bold]Verified[/] with `levelq verify` and SQL, in {seconds:.1f} s: {verdict}")
    table = Table.grid(padding=(0, 1))
    table.width = min(WIDTH, console.width)
    table.add_column(width=1)
    table.add_column(ratio=1)
    table.add_column(justify="right", style="dim", no_wrap=True)
    for check in checks:
        mark = Text("✔", "bold green") if check.passed else Text("✖", "bold red")
        table.add_row(mark, Text(check.name, "" if check.passed else "bold red"), Text(check.detail))
    console.print(table)


def show_summary(
    console: Console,
    scenario: Scenario,
    sends: Sequence[Send],
    figures: Figures,
    kill: WorkerKill,
    workers: WorkerPool,
    peak_bytes: int,
) -> None:
    """The figures in one panel."""
    fates = [send.fate for send in sends]
    calls = f"{duration(figures.call_median)} in the median, 95 % within {duration(figures.call_p95)}"
    recovery = f"{kill.seconds:.1f} s for {kill.lanes_held} lanes" if kill.lanes_held else "at once, no lane held"
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    table.add_column(style="bold")
    for name, value in {
        "sent": f"{scenario.commands:,} by {scenario.users:,} users",
        "same id again": f"{fates.count('duplicate'):,} answered, {fates.count('conflict'):,} conflicts",
        "applied": f"{figures.applied:,}, with {figures.level_ups:,} level-ups",
        "rejected": f"{figures.rejected:,}",
        "direct calls": f"{figures.calls:,}: {calls}",
        f"best {PEAK_SECONDS:g} s": f"{figures.peak_rate:,.0f}/s",
        "mean without outage": f"{figures.burst_rate:,.0f}/s",
        "mean with it": f"{figures.overall_rate:,.0f}/s in {figures.burst_seconds:.1f} s",
        "batch size": f"{figures.median_batch:,} in the median, {figures.largest_batch:,} at most",
        "recovery": recovery,
        "worker memory": f"{megabytes(peak_bytes)} at most",
    }.items():
        table.add_row(name, value)
    headline = Text.assemble(
        (f"{figures.burst_rate:,.0f} commands/s", "bold green" if figures.burst_rate >= _TARGET else "bold yellow"),
        f" · {workers.processes} workers, one of them killed · seed {scenario.seed}",
    )
    width = min(WIDTH, console.width)
    console.print(Panel(table, title=headline, box=box.ROUNDED, border_style="green", width=width))
