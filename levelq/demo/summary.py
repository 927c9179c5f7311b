"""The verdict and the summary, as a person reads them."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from .helpers import WorkerPool
from .measuring import PEAK_SECONDS, Figures
from .record import Record
from .scenario import Scenario
from .screen import WIDTH
from .verifying import Check
from .watching import Killer

TARGET = 10_000  # commands a second that the demo is meant to reach on two cores


def show_memory(size: int) -> str:
    """Bytes as MB."""
    return f"{size / 2**20:.0f} MB at most"


def show_checks(console: Console, checks: Sequence[Check], seconds: float) -> None:
    """One line each, with a tick or a cross, and a number."""
    table = Table.grid(padding=(0, 1))
    table.width = min(WIDTH, console.width)
    table.add_column(width=1)
    table.add_column(ratio=1)
    table.add_column(justify="right", style="dim")
    for check in checks:
        mark = Text("✔", "bold green") if check.passed else Text("✖", "bold red")
        table.add_row(mark, Text(check.name, "" if check.passed else "bold red"), Text(check.detail))
    failed = sum(not check.passed for check in checks)
    verdict = (
        f"[bold red]{failed} of {len(checks)} checks failed[/]"
        if failed
        else f"[bold green]all {len(checks)} checks passed[/]"
    )
    console.print(f"[bold]Verified[/] from the tables, in {seconds:.1f} s, with SQL and rules of its own: {verdict}")
    console.print(table)


def show_summary(
    console: Console, scenario: Scenario, figures: Figures, killer: Killer, crew: WorkerPool, record: Record
) -> None:
    """The figures of the run in one panel."""
    table = Table.grid(padding=(0, 2))
    for style in ("dim", "bold", "dim", "bold"):
        table.add_column(style=style)
    left, right = _work(scenario, figures, record), _speed(figures, killer, crew)
    for (name, value), (other, other_value) in zip(left, right, strict=True):
        table.add_row(name, value, other, other_value)
    headline = Text.assemble(
        (f"{figures.burst_rate:,.0f} commands/s", "bold green" if figures.burst_rate >= TARGET else "bold yellow"),
        f" · {crew.processes} workers, one of them killed · seed {scenario.seed}",
    )
    width = min(WIDTH, console.width)
    console.print(Panel(table, title=headline, box=box.ROUNDED, border_style="green", width=width))


def _work(scenario: Scenario, figures: Figures, record: Record) -> list[tuple[str, str]]:
    again = {fate: sum(sent.fate == fate for sent in record.sends) for fate in ("duplicate", "conflict")}
    slow = f"{figures.direct_median * 1000:.0f} ms, 95 % in {figures.direct_slow * 1000:.0f} ms"
    return [
        ("sent", f"{scenario.commands:,} by {scenario.users:,} users"),
        ("applied", f"{figures.applied:,}"),
        ("rejected", f"{figures.rejected:,}"),
        ("same id again", f"{again['duplicate']:,} answered, {again['conflict']:,} conflicts"),
        ("level-ups", f"{figures.level_ups:,}"),
        ("direct calls", f"{figures.direct:,}: {slow}"),
    ]


def _speed(figures: Figures, killer: Killer, crew: WorkerPool) -> list[tuple[str, str]]:
    recovery = (killer.returned_at or 0.0) - (killer.killed_at or 0.0)
    held = f"{recovery:.1f} s for {killer.lanes_held} lanes" if killer.lanes_held else "at once, no lane held"
    return [
        (f"best {PEAK_SECONDS:g} s", f"{figures.peak_rate:,.0f}/s"),
        ("mean without outage", f"{figures.burst_rate:,.0f}/s"),
        ("mean with it", f"{figures.overall_rate:,.0f}/s in {figures.burst_seconds:.1f} s"),
        ("batch size", f"{figures.median_batch:,}, largest {figures.largest_batch:,}"),
        ("recovery", held),
        ("worker memory", show_memory(crew.peak_bytes)),
    ]
