"""`levelq check`: the pairs of levels that are out of step."""

from __future__ import annotations

from typing import Annotated

from rich.text import Text
from typer import Exit, Option

from .options import AsJson
from .screen import Listing, count, print_json, print_line, printable, verdict


def check(
    limit: Annotated[int, Option(min=0, help="How many pairs to list at most.")] = 50, as_json: AsJson = False
) -> None:
    """List the pairs of levels that are out of step; exit code 1 if there are any.

    A pair is a user's progress and license in one specialization. Each is listed with the command that repairs it, or
    with the reason why no command can.
    """
    from levelq_core.operations.readings.check import check as read

    from .connections import database_of, load

    settings = load()
    with database_of(settings, patient=True) as engine:
        report = read(engine, settings.tracks, limit=limit)
    if as_json:
        print_json(report)
        raise Exit(1 if report.total else 0)
    if not report.total:
        print_line("Every pair of levels is in step.", "green")
        return
    columns = ("User", "Specialization", "Progress", "License", "Repair with")
    shown = Listing(*columns, right=("User", "Progress", "License"), folding="Repair with")
    for pair in report.pairs:
        repair = Text(printable(pair.repair) if report.tables_complete else "-")
        if pair.action and report.tables_complete:
            repair.append(f"\n# {pair.action}", style="dim")
        levels = (None if level is None else str(level) for level in (pair.progress_level, pair.license_level))
        shown.add(None if pair.user_id is None else str(pair.user_id), pair.specialization, *levels, repair)
    if limit:
        shown.print()
    more = f" (the first {limit} are shown; --limit shows more)" if 0 < limit < report.total else ""
    print_line(verdict(f"{count(report.total, 'pair')} out of step", "bold red", more))
    if not report.tables_complete:
        print_line("First do what `levelq db check` says: until then `levelq sync` is refused.")
    raise Exit(1)
