"""`levelq status`: what waits, who serves it, and what is wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

from typer import Exit

from .options import AsJson
from .screen import Listing, count, duration, out, per_second, print_json, print_line, refused, told, verdict, when

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.text import Text

    from levelq_core.operations.readings.hot_spots import HotSpots
    from levelq_core.operations.readings.status import PartitionStatus, StatusReport

_LONG, _OLD_SECONDS = 100, 10.0  # from where on a lane is worth a mention
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
    _print_rates(report)
    totals = {"rejected": "rejected", "quarantined": "quarantined"}
    if report.rejected_open:
        totals["open rejections"] = "rejected_open"
    listed = "".join(f"   {name} {_total(report, field)}" for name, field in totals.items())
    workers = "- workers" if report.workers is None else count(report.workers, "worker")
    out.print(verdict(workers, "" if report.workers else "bold yellow", listed))
    bound = f"bound to {report.database}" if report.database else "not bound to a database yet"
    compared = "" if report.compared is None else f"; levels last compared {when(report.compared)} UTC"
    out.print(f"namespace {report.namespace}, {bound}{compared}", style="dim", markup=False)
    for line in _hot_spots(report.hot_spots):
        print_line(line)
    for line in told(report):
        print_line(line)


def _total(report: StatusReport, name: str) -> str:
    """`1,234`, or `about 1,200,000` for what is not counted one by one."""
    total = getattr(report, name)
    if total is None:
        return "-"
    return f"about {float(f'{total:.2g}'):,.0f}" if name in report.estimated else f"{total:,}"


def _hot_spots(spots: HotSpots) -> Iterator[Text]:
    """Lanes that are long or old, and what was no command."""
    long = [f"{lane.partition} user {lane.user}: {lane.waiting:,}" for lane in spots.longest if lane.waiting >= _LONG]
    if long:
        yield verdict("longest", "dim", f"  {', '.join(long)}")
    old = [lane for lane in spots.oldest if lane.oldest_seconds >= _OLD_SECONDS]
    if old:
        ages = (f"{lane.partition} user {lane.user}: {duration(lane.oldest_seconds)}" for lane in old)
        yield verdict(" oldest", "dim", f"  {', '.join(ages)}")
    for group in spots.quarantined:
        whose = "" if group.user_id is None else f", for example of user {group.user_id}"
        what = f"{count(group.entries, 'entry')} in the last hour{whose}"
        yield verdict("malformed", "yellow", f"  {group.specialization}: {what}: {group.reason}")
    if spots.list_writers:
        clients = ", ".join(client.in_words() for client in spots.list_writers)
        told = f"  perhaps, as its last command wrote into some list: {clients}"
        first = spots.list_writers[0]
        which = str(first.id) if len(spots.list_writers) == 1 else "N"
        where = ", on its server," if first.server else ""
        yield verdict("   writer", "yellow", f"{told}; CLIENT KILL ID {which}{where} ends it")


def _print_rates(report: StatusReport) -> None:
    """How fast and how late: of the last minute beside the last ten, so that one sees whether it gets worse."""
    if report.total is None or not report.rates:
        return
    numbers = ("1 min/s", "10 min/s", "Rejected/s", "p99 1 min", "p99 10 min")
    shown = Listing("Decided", *numbers, right=numbers)
    for rates in (*report.rates, *([report.total] if len(report.rates) > 1 else [])):
        shown.add(
            rates.partition,
            *(per_second(rate) for rate in (rates.rate_1_min, rates.rate_10_min, rates.rejected_1_min)),
            *(None if lag is None else duration(lag) for lag in (rates.lag_p99_seconds, rates.lag_p99_10_min_seconds)),
            style="bold" if rates is report.total else "",
        )
    shown.print()


def _oldest(*found: PartitionStatus) -> str | None:
    ages = [partition.oldest_seconds for partition in found if partition.waiting]
    return duration(max(ages)) if ages else None
