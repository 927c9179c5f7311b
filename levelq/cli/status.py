"""`levelq status`: what waits, who serves it, and what is wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

from typer import Exit

from .options import AsJson
from .screen import Listing, count, duration, out, print_json, print_line, refused, verdict

if TYPE_CHECKING:
    from levelq_core.operations.readings.status import PartitionStatus, StatusReport

_NUMBERS = ("waiting", "ready", "claimed", "parked")


def status(as_json: AsJson = False) -> None:
    """Show what waits in the lanes, how many workers serve, and what is wrong.

    Waiting counts commands; ready, claimed and parked count lanes. Rejected and quarantined come from the
    database, if LEVELQ_DATABASE_URL is set. Below, one line for each problem; exit code 1 if there is any.
    """
    from levelq_core.operations.readings.status import status as read

    from .connections import load

    report = read(load())
    if as_json:
        print_json(report)
    if not report.lanes_readable:
        if as_json:
            raise Exit(2)
        raise refused("; ".join(report.problems))
    if not as_json:
        _print(report)
    raise Exit(1 if report.problems else 0)


def _print(report: StatusReport) -> None:
    numbers = [name.capitalize() for name in (*_NUMBERS, "oldest")]
    shown = Listing("Partition", *numbers, right=numbers)
    for found in report.partitions:
        shown.add(found.partition, *(getattr(found, name) for name in _NUMBERS), _oldest(found))
    if len(report.partitions) > 1:
        sums = (sum(getattr(found, name) for found in report.partitions) for name in _NUMBERS)
        shown.end_section()
        shown.add("all", *sums, _oldest(*report.partitions), style="bold")
    shown.print()
    totals = {"rejected": report.rejected, "quarantined": report.quarantined}
    listed = "".join(f"   {name} {'-' if total is None else f'{total:,}'}" for name, total in totals.items())
    workers = "- workers" if report.workers is None else count(report.workers, "worker")
    out.print(verdict(workers, "" if report.workers else "bold yellow", listed))
    bound = f"bound to {report.database}" if report.database else "not bound to a database yet"
    print_line(f"namespace {report.namespace}, {bound}", "dim")
    for problem in report.problems:
        print_line(verdict("wrong", "bold red", f"  {problem}"))


def _oldest(*found: PartitionStatus) -> str | None:
    ages = [partition.oldest_seconds for partition in found if partition.waiting]
    return duration(max(ages)) if ages else None
