"""`levelq status`: what waits, who serves it, and what is wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

from typer import Exit, echo

from .options import AsJson
from .screen import Listing, count, duration, out, print_line, refused, verdict

if TYPE_CHECKING:
    from levelq_core.keys import Partition
    from levelq_core.lanes.protocol import Status

    from .status_report import StatusReport

_NUMBERS = ("waiting", "ready", "claimed", "parked")
_MAX_PARKED = 100  # lanes in the JSON object


def status(as_json: AsJson = False) -> None:
    """Show what waits in the lanes, how many workers serve, and what is wrong.

    Waiting counts commands; ready, claimed and parked count lanes. Rejected and quarantined come from the
    database, if LEVELQ_DATABASE_URL is set. Below, one line for each problem; exit code 1 if there is any.
    """
    from .connections import load
    from .status_report import look

    report = look(load())
    if as_json:
        echo(json.dumps(_json(report)))
    if report.lanes is None:
        if as_json:
            raise Exit(2)
        raise refused("; ".join(report.problems))
    if not as_json:
        _print(report, report.lanes)
    raise Exit(1 if report.problems else 0)


def _json(report: StatusReport) -> dict[str, Any]:
    return {
        "namespace": report.namespace,
        "database": None if report.bound_to is None else str(report.bound_to),
        "partitions": [_row(partition, found) for partition, found in (report.lanes or {}).items()],
        **report.totals,
        "workers": report.workers,
        "problems": report.problems,
        "parked_lanes": list(islice(_parked_rows(report), _MAX_PARKED)),
    }


def _row(partition: Partition, found: Status) -> dict[str, Any]:
    return {
        "partition": str(partition),
        "specialization": partition.specialization,
        **{name: getattr(found, name) for name in _NUMBERS},
        "oldest_seconds": round(found.oldest_seconds, 3),
    }


def _parked_rows(report: StatusReport) -> Iterator[dict[str, Any]]:
    from levelq_worker.support.parked_lanes import iso_utc

    for partition, found in report.parked.items():
        for lane in found.lanes:
            yield {
                "partition": str(partition),
                "user": int(lane.user) if lane.user.isdecimal() else lane.user,
                "since": iso_utc(lane.since_ms),
                "until": None if lane.until_ms is None else iso_utc(lane.until_ms),
                "attempts": lane.attempts,
                "reason": lane.reason,
            }


def _print(report: StatusReport, lanes: dict[Partition, Status]) -> None:
    numbers = [name.capitalize() for name in (*_NUMBERS, "oldest")]
    shown = Listing("Partition", *numbers, right=numbers)
    for partition, found in lanes.items():
        shown.add(str(partition), *(getattr(found, name) for name in _NUMBERS), _oldest(found))
    if len(lanes) > 1:
        sums = (sum(getattr(found, name) for found in lanes.values()) for name in _NUMBERS)
        shown.end_section()
        shown.add("all", *sums, _oldest(*lanes.values()), style="bold")
    shown.print()
    totals = "".join(f"   {name} {'-' if total is None else f'{total:,}'}" for name, total in report.totals.items())
    workers = "- workers" if report.workers is None else count(report.workers, "worker")
    out.print(verdict(workers, "" if report.workers else "bold yellow", totals))
    bound = f"bound to {report.bound_to}" if report.bound_to else "not bound to a database yet"
    out.print(f"namespace {report.namespace}, {bound}", style="dim", markup=False)
    for problem in report.problems:
        print_line(verdict("wrong", "bold red", f"  {problem}"))


def _oldest(*found: Status) -> str | None:
    ages = [status.oldest_seconds for status in found if status.waiting]
    return duration(max(ages)) if ages else None
