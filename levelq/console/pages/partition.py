"""A partition: what it holds, its hottest, longest and oldest lanes, what is parked or paused, who serves it."""

from __future__ import annotations

from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from levelq.console.console import Console
from levelq.console.rendering import page
from levelq_core.errors import ConfigurationError
from levelq_core.keys import Partition
from levelq_core.operations.readings.overview import SystemOverview
from levelq_core.operations.readings.partition import MOST_PARKED, PartitionReport, partition_report
from levelq_core.operations.readings.workers import HotLane, Rates
from levelq_core.untrusted_text import quoted

from .workers import rows_of

_MOST_KNOWN = 20  # partitions that a wrong name is answered with


def partition(request: Request) -> Response:
    """`/partitions/{name}`; the name of a specialization leads to its first partition, which lists the others."""
    console: Console = request.app.state.console
    name, seen = request.path_params["name"], console.overview.get()
    found = Partition.read(name.encode())
    known = [each.partition for each in seen.status.partitions]
    if found is None or (seen.status.lanes_readable and name not in known):
        return _elsewhere(name, seen)
    report, problem = None, None
    try:
        if seen.status.lanes_readable:
            report = console.shared(name, lambda: partition_report(console.settings, found, engine=console.engine))
    except ConfigurationError as error:
        problem = str(error)
    return page(request, "partition.html", **_values(console, found, seen, report, problem))


def _values(
    console: Console, found: Partition, seen: SystemOverview, report: PartitionReport | None, problem: str | None
) -> dict[str, Any]:
    name, reported = str(found), seen.workers
    rates: Rates | None = next((each for each in seen.status.rates if each.partition == name), None)
    hot: list[HotLane] = [] if reported is None else [lane for lane in reported.hot_lanes if lane.partition == name]
    everyone = () if reported is None else reported.workers
    serving = [worker for worker in everyone if found.specialization in worker.specializations]
    others = [f"{each}:" for each in {each.specialization for each in seen.status.partitions} - {found.specialization}]
    others += [f"{each.partition}:" for each in seen.status.partitions if each.partition != name]
    wrong = [line for line in seen.status.problems if not line.startswith(tuple(others))]
    return {
        "name": name,
        "specialization": found.specialization,
        "seen": report,
        "rates": rates,
        "most_parked": MOST_PARKED,
        "hot": hot,
        "workers": rows_of(serving, console.settings.claim_seconds),
        "problems": [*([problem] if problem else []), *wrong, *(report.problems if report else ())],
    }


def _elsewhere(name: str, seen: SystemOverview) -> Response:
    """To the first partition of a specialization. Raises HTTPException 404, which names what there is."""
    of_name = [each.partition for each in seen.status.partitions if each.specialization == name.upper()]
    if of_name:
        return RedirectResponse(f"/partitions/{of_name[0]}", 307)
    known = [each.partition for each in seen.status.partitions]
    listed = ", ".join(known[:_MOST_KNOWN]) + (", ..." if len(known) > _MOST_KNOWN else "")
    raise HTTPException(
        404, f"partition: expected one of {listed or 'none: Redis does not answer'}, got {quoted(name)}"
    )


routes = [Route("/partitions/{name}", partition, name="partition")]
