"""`levelq check`: the pairs of levels that are out of step."""

from __future__ import annotations

from itertools import islice
from typing import Annotated

from rich.text import Text
from typer import Exit, Option

from .screen import Listing, count, print_line, printable, verdict


def check(limit: Annotated[int, Option(min=0, help="How many pairs to list at most.")] = 50) -> None:
    """List the pairs of levels that are out of step; exit code 1 if there are any.

    A pair is a user's progress and license in one specialization. Each is listed with the command that repairs it, or
    with the reason why no command can.
    """
    from levelq_core.database.schema import read
    from levelq_core.domain.results import compare
    from levelq_core.operations.dbcheck import pair_fixes
    from levelq_core.operations.queries import out_of_step

    from .connections import database_of, load

    settings = load()
    with database_of(settings) as engine, engine.connect() as connection:
        pairs = out_of_step(connection)
        first = list(islice(pairs, limit))
        found = len(first) + sum(1 for _ in pairs)
        schema = read(connection)
        fixes = pair_fixes(connection, first, schema, settings.tracks)
    if not found:
        print_line("Every pair of levels is in step.", "green")
        return
    columns = ("User", "Specialization", "Progress", "License", "Repair with")
    shown = Listing(*columns, right=("User", "Progress", "License"), folding="Repair with")
    incomplete = bool(schema.missing())
    for pair, fix in zip(first, fixes, strict=True):
        levels = pair.progress_level, pair.license_level
        remedy = Text("-" if incomplete else printable(fix))
        if fix.startswith("levelq ") and not incomplete:
            remedy.append(f"\n{compare(*levels).get('recommended_action')}", style="dim")
        shown.add(None if pair.user_id is None else str(pair.user_id), pair.specialization, *levels, remedy)
    if limit:
        shown.print()
    more = f" (the first {limit} are shown; --limit shows more)" if 0 < limit < found else ""
    print_line(verdict(f"{count(found, 'pair')} out of step", "bold red", more))
    if incomplete:
        print_line("First do what `levelq db check` says: until then `levelq sync` is refused.")
    raise Exit(1)
