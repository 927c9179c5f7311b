"""How rejected commands are settled without a retry, and quarantined entries deleted."""

from __future__ import annotations

from typing import Any

from levelq_core.operations.wording import count
from levelq_worker.redrive.plan import alike

from .act import Asked, Plan
from .chosen import MOST, Chosen, Kind, database


def plan_discard(kind: Kind, asked: Asked, means: tuple[str, ...], *, for_good: bool) -> Plan:
    """What would be discarded. `means`: sentences that say what that is. `for_good`: nothing brings it back."""
    chosen = Chosen.of(kind, asked)
    found, more = _read(kind, asked, chosen)
    due = [row for row in found if getattr(row, "settled", None) is None]
    happens = chosen.missing(found)
    if len(due) < len(found):
        happens.append(f"{len(found) - len(due):,} settled before: nothing happens to them.")
    if due:
        happens += [f"{count(len(due), kind.name)} will be discarded.", *means]
    if more:
        happens.append(f"More match. These are the oldest {MOST:,}; do it again for the others.")
    return Plan(
        title=f"Discard {chosen.said()}",
        happens=tuple(happens),
        table=_groups(kind, due),
        command=chosen.command("discard"),
        button=f"Discard {count(len(due), kind.name)}",
        back=chosen.back,
        dangerous=for_good,
        impossible=None if due else f"No {kind.name} is left to discard.",
        kept=chosen.keep(due),
    )


def perform_discard(kind: Kind, asked: Asked) -> str:
    """Discard what the confirmation showed; what was done, in a sentence."""
    chosen = Chosen.of(kind, asked)
    chosen.require_shown()
    found, _ = _read(kind, asked, chosen)
    with database(asked) as engine:
        number = kind.discard(engine, asked.console.settings, found, actor=asked.actor)
    left = len(chosen.kept or ()) - number
    others = f"; {left:,} were settled meanwhile" if left > 0 else ""
    return f"{count(number, kind.name)} discarded{others}."


def _read(kind: Kind, asked: Asked, chosen: Chosen) -> tuple[list[Any], bool]:
    """The rows, the oldest first, and whether more match."""
    selection = chosen.selection()
    limit = max(MOST, len(selection.ids))
    with database(asked) as engine, engine.connect() as connection:
        found = kind.read(connection, selection, limit + 1, oldest_first=True)
    return found[:limit], len(found) > limit


def _groups(kind: Kind, due: list[Any]) -> tuple[tuple[str, ...], ...]:
    rows = [(f"{len(group):,}", *kind.cells(group[0])) for group in alike(due, lambda row: " ".join(kind.cells(row)))]
    return (("Number", *kind.headings), *rows) if rows else ()
