"""The report: one HTML page with the charts, the numbers, and all it takes to repeat the test."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from html import escape
from typing import Any

from levelq.laboratory.page import Cell, Html, card, element, facts, join, page, table, tiles
from levelq.laboratory.percentiles import Percentiles, duration
from levelq_core.untrusted_text import printable

from .plots import Plots
from .result import Result

_EXAMPLES = 20  # violations that are shown


def render(result: Result) -> str:
    """The page."""
    return page(f"levelq load test: {result.options.scenario.name}", _parts(result), as_object(result))


def _parts(result: Result) -> Iterator[Html]:
    plots, options, violations = Plots(result), result.options, result.report.violations
    yield element("h1", f"Load test: {options.scenario.name}")
    yield element("p", _subtitle(result), "dim")
    found = f"{violations:,} violations" if violations else "nothing"
    yield element("p", f"The checker found {found}.", f"verdict {'good' if result.passed else 'bad'}")
    if result.notes:
        yield element("ul", join(element("li", note) for note in result.notes), "notes")
    yield tiles(_tiles(result))
    charts = [
        card("Arrivals and commits", plots.rates().svg(), f"Commands a second, in steps of {plots.step:g} s."),
        card("Waiting", plots.waiting().svg(), "Commands that were due and not yet committed, wherever they waited."),
        card(
            "Latency over time", plots.latencies().svg(), "From the intended time to the commit, by the intended time."
        ),
        card(
            "Latency, all of it",
            plots.distribution().svg(),
            "Where the two lines part, a test that waits for answers before it sends more would have hidden waiting.",
        ),
    ]
    yield element("div", join(charts), "cards")
    heads = [Cell(name, "n") for name in ("p50", "p90", "p99", "p99.9", "longest", "commands")]
    yield card("Latencies", table([_row(*row) for row in result.latencies], ["", *heads], main=0))
    yield card("Commands", facts(_commands(result)))
    about = Html(
        "The ledger, the tables, the lanes and what the senders recorded, compared. "
        "The invariants are those of <code>levelq verify</code>."
    )
    yield card("The checker", table(_checks(result), ["", "", Cell("cases", "n"), Cell("violations", "n")]), about)
    yield card("The test", facts({"seed": str(options.seed), "repeat": _command(options.command), **result.facts}))


def _subtitle(result: Result) -> str:
    s, began = result.options.scenario, datetime.fromtimestamp(result.started, UTC)
    return (
        f"{s.summary[0].upper()}{s.summary[1:]}: {s.users:,} users, {s.accounts:,} accounts, "
        f"{result.figures.begun:,} commands in {result.ended - result.started:.1f} s, {began:%Y-%m-%d %H:%M} UTC"
    )


def _tiles(result: Result) -> dict[str, str]:
    figures = result.figures
    return {
        "median, arrival to commit": duration(figures.waits.p50),
        "p99": duration(figures.waits.p99),
        "p99.9": duration(figures.waits.p999),
        "longest": duration(figures.waits.longest),
        "commits in the best second": f"{figures.best_second:,}",
        "most waiting at a time": f"{figures.most_waiting:,}",
    }


def _row(name: str, spread: Percentiles) -> list[str | Cell]:
    return [name, *(Cell(duration(value), "n") for value in spread[1:]), Cell(f"{spread.size:,}", "n")]


def _commands(result: Result) -> dict[str, str]:
    figures, counts = result.figures, result.counts
    return {
        "begun": f"{figures.begun:,}, {figures.offered_rate:,.0f} a second on average",
        "sent again": f"{counts['again']:,} with the same id, as by a second click",
        "queued": f"{figures.queued:,}; {counts['refused']:,} sends refused, {counts['unknown']:,} unanswered",
        "decided": f"{result.applied:,} applied, {result.rejected:,} rejected, {figures.undecided:,} not in time",
        "level-ups": f"{result.level_ups:,}",
    }


def _command(line: str) -> Html:
    """A command line that breaks only between its options."""
    first, *options = escape(printable(line)).split(" --")
    return element("code", Html(first + "".join(f" <span>--{option}</span>" for option in options)))


def _checks(result: Result) -> Iterator[list[str | Cell]]:
    for check in result.report.checks:
        if not check.note:
            violations = Cell(f"{check.violations:,}", "n bad" if check.violations else "n dim")
            yield [Cell(check.invariant, "dim"), check.what, Cell(f"{check.checked:,}", "n"), violations]
    for found in result.report.examples[:_EXAMPLES]:
        subject = f"user {found.user_id}, {found.specialization}, command {found.command_id}"
        yield [Cell(found.invariant, "bad"), Cell(f"{found.verdict}: {subject}: {found.detail}", "bad", 3)]


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
