"""The first page: what is wrong, how fast commands are decided, how late, and what waits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from levelq.console.charts import Chart, Line, round_count, round_duration
from levelq.console.console import Console
from levelq.console.rendering import lasting, number, page
from levelq_core.errors import ConfigurationError
from levelq_core.operations.readings.trends import TrendPoint, Trends, Window

WINDOWS: dict[str, Window] = {"1h": "1h", "24h": "24h"}


def overview(request: Request) -> Response:
    """`/`; `?window=24h` for the charts of a day."""
    console: Console = request.app.state.console
    asked = request.query_params.get("window", "1h")
    window = WINDOWS.get(asked)
    if window is None:
        raise HTTPException(400, f"window: expected {' or '.join(WINDOWS)}, got {asked!r}")
    part = request.query_params.get("part")
    values: dict[str, Any] = {"window": window}
    if part in (None, "charts_part"):
        values |= _history(console, window)
    if part != "charts_part":
        values |= _now(console)
    return page(request, "overview.html", **values)


def _now(console: Console) -> dict[str, Any]:
    """What waits and what is wrong; the rates by partition, and which partitions are paused."""
    seen = console.overview.get()
    return {
        "seen": seen,
        "rates": {rates.partition: rates for rates in seen.status.rates},
        "paused": {name for pause in seen.status.pauses if pause.user is None for name in pause.partitions},
    }


def _history(console: Console, window: Window) -> dict[str, Any]:
    """The charts; if the lanes' Redis does not answer, none, and why."""
    try:
        found = console.trends[window].get()
    except ConfigurationError as error:
        return {"charts": (), "charts_missing": str(error), "charts_seconds": 30}
    return {"charts": tuple(charts(found)), "charts_missing": None, "charts_seconds": min(60, found.slot_seconds)}


def charts(found: Trends) -> Iterator[Chart]:
    """Throughput, lag, what waits, batch size and rejections, of the reading's hour or day; none of an empty one."""
    if all(point.applied_per_second is None and point.waiting is None for point in found.points):
        return

    def chart(title: str, lines: dict[str, Callable[[TrendPoint], float | None]], **how: Any) -> Chart:
        return Chart(
            title=title,
            times=[point.at for point in found.points],
            slot=timedelta(seconds=found.slot_seconds),
            lines=[Line(name, [value(point) for point in found.points]) for name, value in lines.items()],
            **how,
        )

    yield chart("Applied", {"applied": lambda point: point.applied_per_second}, written=_per_second)
    yield chart(
        "Lag",
        {"p50": lambda point: point.lag_p50_seconds, "p99": lambda point: point.lag_p99_seconds},
        written=_lag,
        round_step=round_duration,
    )
    yield chart("Commands waiting", {"waiting": lambda point: point.waiting}, written=_count, round_step=round_count)
    yield chart("Commands in a batch", {"batch": lambda point: point.batch_commands}, written=_brief)
    yield chart("Rejected", {"rejected": lambda point: point.rejected_per_second}, written=_per_second)
    yield chart("Lanes parked", {"parked": lambda point: point.parked}, written=_count, round_step=round_count)


def _per_second(value: float) -> str:
    return f"{_brief(value)}/s"


def _brief(value: float) -> str:
    """A number with few digits: 0, 0.25, 2.5, 1,250."""
    return number(value) if value >= 10 or value == round(value) else f"{value:.2g}"


def _lag(value: float) -> str:
    return lasting(value) if value else "0"


def _count(value: float) -> str:
    return number(value)


routes = [Route("/", overview, name="overview")]
