"""The end of a load test on the screen."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from levelq.demo.screen import WIDTH

from .measuring import Percentiles
from .result import Result
from .screen import show


def show_end(console: Console, result: Result) -> None:
    """The figures, what to know about them, the checker's word, the report's place."""
    width = min(WIDTH, console.width)
    figures = result.figures
    headline = Text.assemble(
        (f"p99 {show(figures.waits.p99)}", "bold"), f" from arrival to commit · {figures.waits.size:,} commands"
    )
    style = "green" if result.passed else "red"
    console.print(Panel(_latencies(result), title=headline, box=box.ROUNDED, border_style=style, width=width))
    console.print(
        f"  begun {figures.begun:,} ({figures.offered_rate:,.0f}/s), {result.counts['again']:,} of them twice · "
        f"applied {result.applied:,}, rejected {result.rejected:,}, undecided {figures.undecided:,} · "
        f"level-ups {result.level_ups:,}\n"
        f"  best second {figures.best_second:,} commits · most waiting at a time {figures.most_waiting:,}",
        soft_wrap=True,
    )
    for note in result.notes:
        console.print(Text.assemble(("  note: ", "bold yellow"), note), soft_wrap=True)
    _verdict(console, result)
    console.print(f"  report: {result.wish.out.resolve()}", soft_wrap=True, markup=False)


def _latencies(result: Result) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    for _ in range(5):
        table.add_column(justify="right")
    table.add_row("", *(Text(name, "dim") for name in ("p50", "p90", "p99", "p99.9", "longest")))
    figures = result.figures
    _row(table, "from its intended time to its commit", figures.waits, "bold")
    _row(table, "from its actual send to its commit", figures.closed)
    _row(table, "of these, the send until it is queued", figures.pushes)
    _row(table, "from its intended time to its send", figures.late)
    return table


def _row(table: Table, name: str, spread: Percentiles, style: str = "") -> None:
    values = (spread.p50, spread.p90, spread.p99, spread.p999, spread.longest)
    table.add_row(Text(name, style), *(Text(show(value), style) for value in values))


def _verdict(console: Console, result: Result) -> None:
    report = result.report
    cases = sum(check.checked for check in report.checks if not check.note)
    for found in report.examples[:5]:
        console.print(
            Text(f"  {found.invariant} {found.verdict}: user {found.user_id}: {found.detail}"), soft_wrap=True
        )
    if report.violations:
        broken = ", ".join(sorted(report.broken))
        console.print(f"[bold red]✖ the checker found {report.violations:,} violations of {broken}[/]")
    else:
        console.print(f"[bold green]✔ the checker found nothing[/] among {cases:,} cases it looked at")
