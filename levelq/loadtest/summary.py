"""The end of a load test or a demo on the screen."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from levelq.laboratory.percentiles import duration
from levelq.laboratory.screen import WIDTH
from levelq_core.untrusted_text import printable

from .result import Result


def show_end(console: Console, result: Result, *, saved: str, headline: str = "", about: Sequence[str] = ()) -> None:
    """The figures, `about` them, the checker's verdict, and what was saved where."""
    figures, width = result.figures, min(WIDTH, console.width)
    headline = (
        headline
        or f"[bold]p99 {duration(figures.waits.p99)}[/] from arrival to commit · {figures.waits.size:,} commands"
    )
    style = "green" if result.passed else "red"
    console.print(Panel(_latencies(result), title=headline, box=box.ROUNDED, border_style=style, width=width))
    for line in (
        f"begun {figures.begun:,} ({figures.offered_rate:,.0f}/s), {result.counts['again']:,} of them twice",
        f"applied {result.applied:,}, rejected {result.rejected:,}, undecided {figures.undecided:,} · "
        f"level-ups {result.level_ups:,}",
        f"best second {figures.best_second:,} commits · most waiting at a time {figures.most_waiting:,}",
        *about,
    ):
        console.print(f"  {line}", soft_wrap=True)
    for note in result.notes:
        console.print(Text.assemble(("  note: ", "bold yellow"), printable(note)), soft_wrap=True)
    _verdict(console, result)
    console.print(f"  {saved}", soft_wrap=True, markup=False)


def _latencies(result: Result) -> Table:
    table = Table.grid(padding=(0, 1), expand=True)
    table.add_column(ratio=1)
    for _ in range(5):
        table.add_column(justify="right", no_wrap=True)
    table.add_row("", *(Text(name, "dim") for name in ("p50", "p90", "p99", "p99.9", "longest")))
    for number, (name, spread) in enumerate(result.latencies):
        style = "" if number else "bold"
        table.add_row(Text(name, style or "dim"), *(Text(duration(value), style) for value in spread[1:]))
    return table


def _verdict(console: Console, result: Result) -> None:
    report = result.report
    for found in report.examples[:5]:
        line = f"  {found.invariant} {found.verdict}: user {found.user_id}: {found.detail}"
        console.print(printable(line), soft_wrap=True, markup=False)
    if report.violations:
        broken = ", ".join(sorted(report.broken))
        console.print(f"[bold red]✖ the checker found {report.violations:,} violations of {broken}[/]")
    else:
        cases = sum(check.checked for check in report.checks if not check.note)
        console.print(f"[bold green]✔ the checker found nothing[/] among {cases:,} cases it looked at")
