"""The results as tables: for the terminal, and in Markdown for docs/scaling.md."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

from rich.table import Table

from benchmarks.capacity.costs import Costs, Terms

from . import crowd
from .crowd import LOADS, WORKERS, Crowded
from .fitting import Predicted

PARTS = ("workers", "PostgreSQL", "Redis")


class Rows(NamedTuple):
    """A table: its title, its columns (those that begin with > hold numbers) and its rows."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def rich(self) -> Table:
        """For the terminal."""
        table = Table(title=self.title, title_justify="left")
        for name in self.columns:
            table.add_column(name.lstrip(">"), justify="right" if name.startswith(">") else "left")
        for row in self.rows:
            table.add_row(*row)
        return table

    def markdown(self) -> str:
        """For the docs."""
        names = [name.lstrip(">") for name in self.columns]
        rules = ["---:" if name.startswith(">") else "---" for name in self.columns]
        return "\n".join(f"| {' | '.join(row)} |" for row in (names, rules, *self.rows)) + "\n"


def costs(found: Costs) -> Rows:
    """What each command, lane and batch costs."""
    drain, push = found.drain_us, found.push_us
    rows = [
        _terms("workers, us", drain.workers),
        _terms("Redis, drain, us", drain.redis),
        _terms("PostgreSQL, us", drain.postgresql),
        _terms("PostgreSQL's log, bytes", found.bytes.wal),
        ("Redis, push, us", f"{push.command:.1f}", f"{push.lane:.1f}", "", f"{push.call:.0f} (a call)"),
        ("Redis's memory, bytes", f"{found.bytes.redis_command:.0f}", f"{found.bytes.redis_lane:.0f}", "", ""),
        ("the ledger, bytes with indexes", f"{found.bytes.ledger_row:.0f}", "", "", ""),
    ]
    names = (">for each command", ">each lane", ">each lane of several", ">each batch")
    return Rows("Costs", ("", *names), rows)


def _terms(name: str, terms: Terms) -> tuple[str, ...]:
    return name, f"{terms.command:,.1f}", f"{terms.lane:,.1f}", f"{terms.deep:,.1f}", f"{terms.batch:,.0f}"


def predictions(found: Sequence[Predicted]) -> Rows:
    """Each shape as measured and as predicted."""
    rows = [
        (
            one.point.name, "fitted" if one.point.fitted else "**not fitted**",
            f"{one.us:.1f}", f"{one.predicted_us:.1f}", f"{one.us_off:+.0%}",
            f"{one.rate:,.0f}", f"{one.predicted_rate:,.0f}", f"{one.off:+.0%}", f"{one.outside:.0%}",
        )
        for one in found
    ]  # fmt: skip
    names = (">us a command", ">predicted", ">off", ">commands a second", ">predicted", ">off", ">others had")
    return Rows("Measured and predicted", ("drain", "", *names), rows)


def workers(trials: Sequence[Crowded]) -> Rows:
    """The same load for more and more workers."""
    rows = []
    for load in LOADS:
        rates = crowd.rates(trials, load.name)
        for number in WORKERS:
            some = [t for t in trials if t.load == load.name and t.workers == number]
            shares = crowd.shares(some)
            least, most = min(t.drained.rate for t in some), max(t.drained.rate for t in some)
            parts = [f"{median(t.drained.parts[part] for t in some):.1f}" for part in PARTS]
            rows.append((
                load.name, str(number), f"{rates[number]:,.0f} ({least:,.0f} to {most:,.0f})",
                f"{rates[number] / max(rates.values()):.2f}", *parts,
                *(f"{shares[name]:.1%}" for name in ("empty", "parked", "lost")), str(sum(t.twice for t in some)),
                f"{median(t.drained.outside for t in some):.0%}",
            ))  # fmt: skip
    names = (">workers", ">commands a second", ">of the best", ">workers, us", ">PostgreSQL, us", ">Redis, us")
    contention = (">claims empty", ">lanes parked", ">claims lost", ">applied twice", ">others had")
    return Rows("More workers on the same load", ("load", *names, *contention), rows)
