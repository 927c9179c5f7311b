"""Settle rejected commands without a retry, or delete quarantined entries: `levelq rejected discard` and its like."""

from __future__ import annotations

from functools import partial
from operator import attrgetter
from typing import Any

from levelq_core.operations.wording import count
from levelq_worker.redrive.plan import alike

from .act import Asked, Plan, act
from .chosen import KINDS, MOST, Chosen, Kind, database


def _plan(kind: Kind, asked: Asked) -> Plan:
    chosen = Chosen.of(kind, asked)
    found, more = _read(kind, asked, chosen)
    due = [row for row in found if row.settled is None]
    happens = chosen.missing(found)
    if len(due) < len(found):
        happens.append(f"{len(found) - len(due):,} settled before: nothing happens to them.")
    if due:
        happens += [f"{count(len(due), kind.name)} will be discarded.", *kind.means]
    if more:
        happens.append(f"More match. These are the oldest {MOST:,}; do it again for the others.")
    return Plan(
        title=f"Discard {chosen.said()}",
        happens=tuple(happens),
        table=_groups(kind, due),
        command=chosen.command("discard"),
        button=f"Discard {count(len(due), kind.name)}",
        back=chosen.back,
        dangerous=kind.for_good,
        impossible=None if due else f"No {kind.name} is left to discard.",
        kept=chosen.keep(due),
    )


def _perform(kind: Kind, asked: Asked) -> str:
    chosen = Chosen.of(kind, asked)
    chosen.require_shown()
    found, _ = _read(kind, asked, chosen)
    with database(asked) as engine:
        number = kind.redriving.discard(engine, asked.console.settings, found, actor=asked.actor)
    left = len(chosen.kept or ()) - number
    others = f"; {left:,} were settled meanwhile" if left > 0 else ""
    return f"{count(number, kind.name)} discarded{others}."


def _read(kind: Kind, asked: Asked, chosen: Chosen) -> tuple[list[Any], bool]:
    """The rows, the oldest first, and whether more match."""
    selection = chosen.selection()
    limit = max(MOST, len(selection.ids))
    with database(asked) as engine, engine.connect() as connection:
        found = kind.redriving.rows.read(connection, selection, limit + 1, oldest_first=True)
    return found[:limit], len(found) > limit


def _groups(kind: Kind, due: list[Any]) -> tuple[tuple[str, ...], ...]:
    cells = attrgetter(*kind.columns.values())
    rows = [(f"{len(group):,}", *cells(group[0])) for group in alike(due, lambda row: " ".join(cells(row)))]
    return (("Number", *kind.columns), *rows) if rows else ()


routes = [act(f"discard-{kind.act}", partial(_plan, kind), partial(_perform, kind)) for kind in KINDS]
