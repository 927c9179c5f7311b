"""The report: one HTML page with the charts, the numbers, and all it takes to repeat the test.

The page needs no network. Every text in it is escaped, control characters too.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from levelq import charts
from levelq.laboratory.percentiles import duration
from levelq_core.untrusted_text import printable, to_json

from .plots import Plots
from .result import Result


def render(result: Result) -> str:
    """The page."""
    data = to_json(as_object(result)).replace("<", "\\u003c")
    began = f"{datetime.fromtimestamp(result.started, UTC):%Y-%m-%d %H:%M} UTC"
    return _TEMPLATES.get_template("report.html").render(
        result=result,
        figures=result.figures,
        scenario=result.options.scenario,
        plots=Plots(result),
        began=began,
        data=Markup(data),  # noqa: S704 - JSON without "<"
    )


def as_object(result: Result) -> dict[str, Any]:
    """The figures for programs."""
    figures = result.figures
    decided = {"applied": result.applied, "rejected": result.rejected}
    sends = {name: result.counts[name] for name in ("again", "refused", "unknown")}
    return {
        "scenario": result.options.scenario._asdict(),
        "seed": result.options.seed,
        "started": result.started,
        "seconds": {name: getattr(figures, name)._asdict() for name in ("waits", "closed", "pushes", "late")},
        "counts": {name: getattr(figures, name) for name in ("begun", "queued", "undecided")} | decided | sends,
        "best_second": figures.best_second,
        "most_waiting": figures.most_waiting,
        "violations": result.report.violations,
        "facts": result.facts,
    }


_TEMPLATES = Environment(
    loader=PackageLoader("levelq.loadtest", ""),
    autoescape=True,
    finalize=lambda value: printable(value) if type(value) is str else value,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.filters.update(
    duration=duration, number=lambda value: f"{value:,.0f}", path=charts.path, dots=charts.dots, area=charts.area
)
