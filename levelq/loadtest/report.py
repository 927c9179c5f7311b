"""The report: one HTML file that needs no network, with the plots, the numbers, and all it takes to repeat the test."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from .measuring import Percentiles
from .plots import Plots
from .result import Result
from .screen import show

EXAMPLES = 20  # violations that are shown


def write(path: Path, result: Result) -> None:
    """Write the file."""
    path.write_text(render(result), encoding="utf-8")


def render(result: Result) -> str:
    """The page."""
    template = Template((files(__package__) / "report.html").read_text(encoding="utf-8"))
    plots = Plots(result)
    violations = result.report.violations
    verdict = f"The checker found {violations:,} violations." if violations else "The checker found nothing."
    return template.substitute(
        name=escape(result.wish.scenario.name),
        subtitle=escape(_subtitle(result)),
        verdict=verdict,
        verdict_style="good" if result.passed else "bad",
        notes=_notes(result.notes),
        tiles=_tiles(result),
        step=f"{plots.step:g}",
        rates=plots.rates(),
        waiting=plots.waiting(),
        over_time=plots.over_time(),
        distribution=plots.distribution(),
        latencies=_latencies(result),
        commands=_pairs(_commands(result)),
        checks=_checks(result),
        facts=_pairs({**_test(result), **result.facts}),
        data=json.dumps(as_object(result)).replace("</", "<\\/"),
    )


def _subtitle(result: Result) -> str:
    s, began = result.wish.scenario, datetime.fromtimestamp(result.started, UTC)
    return (
        f"{s.summary[0].upper()}{s.summary[1:]}: {s.users:,} users, {s.accounts:,} accounts, "
        f"{result.figures.begun:,} commands in {result.ended - result.started:.1f} s, {began:%Y-%m-%d %H:%M} UTC"
    )


def _notes(notes: Iterable[str]) -> str:
    lines = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return f'<ul class="notes">{lines}</ul>' if lines else ""


def _tiles(result: Result) -> str:
    figures = result.figures
    tiles = {
        "median, arrival to commit": show(figures.waits.p50),
        "p99": show(figures.waits.p99),
        "p99.9": show(figures.waits.p999),
        "longest": show(figures.waits.longest),
        "commits in the best second": f"{figures.best_second:,}",
        "most waiting at a time": f"{figures.most_waiting:,}",
    }
    return "".join(f'<div class="tile"><b>{value}</b><span>{name}</span></div>' for name, value in tiles.items())


def _latencies(result: Result) -> str:
    figures = result.figures
    head = "".join(f'<th class="n">{name}</th>' for name in ("p50", "p90", "p99", "p99.9", "longest", "commands"))
    rows = [
        _row("from its intended time to its commit", figures.waits, "main"),
        _row("from its actual send to its commit", figures.closed),
        _row("of these, the send until it is queued", figures.pushes),
        _row("from its intended time to its send", figures.late),
    ]
    return f"<thead><tr><th></th>{head}</tr></thead>{''.join(rows)}"


def _row(name: str, spread: Percentiles, style: str = "") -> str:
    values = [show(value) for value in (spread.p50, spread.p90, spread.p99, spread.p999, spread.longest)]
    cells = "".join(f'<td class="n">{value}</td>' for value in (*values, f"{spread.size:,}"))
    return f'<tr class="{style}"><td>{name}</td>{cells}</tr>'


def _commands(result: Result) -> dict[str, str]:
    figures, counts = result.figures, result.counts
    return {
        "begun": f"{figures.begun:,}, {figures.offered_rate:,.0f} a second on average",
        "sent again": f"{counts['again']:,} with the same id, as by a second click",
        "queued": f"{figures.queued:,}; {counts['refused']:,} sends refused, {counts['unknown']:,} unanswered",
        "decided": f"{result.applied:,} applied, {result.rejected:,} rejected, {figures.undecided:,} not in time",
        "level-ups": f"{result.level_ups:,}",
    }


def _test(result: Result) -> dict[str, str]:
    return {"seed": str(result.wish.seed), "again": result.wish.repeat}


def _pairs(pairs: dict[str, str]) -> str:
    def shown(name: str, value: str) -> str:
        if name != "again":
            return escape(value)
        first, *options = escape(value).split(" --")
        return f"<code>{first}{''.join(f' <span>--{option}</span>' for option in options)}</code>"

    return "".join(f"<tr><td>{escape(name)}</td><td>{shown(name, value)}</td></tr>" for name, value in pairs.items())


def _checks(result: Result) -> str:
    rows = ['<thead><tr><th></th><th></th><th class="n">cases</th><th class="n">violations</th></tr></thead>']
    for check in result.report.checks:
        if not check.note:
            style = "bad" if check.violations else "dim"
            rows.append(
                f'<tr><td class="dim">{check.invariant}</td><td>{escape(check.what)}</td>'
                f'<td class="n">{check.checked:,}</td><td class="n {style}">{check.violations:,}</td></tr>'
            )
    for found in result.report.examples[:EXAMPLES]:
        place = f"user {found.user_id}, {found.specialization}, command {found.command_id}: {found.detail}"
        rows.append(
            f'<tr><td class="bad">{found.invariant}</td><td colspan="3" class="bad">'
            f"{escape(f'{found.verdict}: {place}')}</td></tr>"
        )
    return "".join(rows)


def as_object(result: Result) -> dict[str, Any]:
    """The figures for programs."""
    figures = result.figures
    spreads = ("waits", "closed", "pushes", "late")
    return {
        "scenario": result.wish.scenario._asdict(),
        "seed": result.wish.seed,
        "started": result.started,
        "seconds": {name: getattr(figures, name)._asdict() for name in spreads},
        "counts": {
            "begun": figures.begun,
            "queued": figures.queued,
            "applied": result.applied,
            "rejected": result.rejected,
            "undecided": figures.undecided,
            **{name: result.counts[name] for name in ("again", "refused", "unknown")},
        },
        "best_second": figures.best_second,
        "most_waiting": figures.most_waiting,
        "violations": result.report.violations,
        "facts": result.facts,
    }
