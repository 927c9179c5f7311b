"""Levels out of step: `levelq check` finds the pairs, `levelq sync` mends one."""

from __future__ import annotations

from itertools import islice
from typing import Annotated

import typer
from rich.text import Text
from sqlalchemy.orm import Session

from levelq_core.coupler.direct import ProgressLicenseCoupler
from levelq_core.database.schema import read
from levelq_core.domain import rules
from levelq_core.domain.commands import SyncLevels, build
from levelq_core.domain.record import Lane
from levelq_core.domain.results import compare
from levelq_core.errors import ConfigurationError, InvalidCommand
from levelq_core.operations.dbcheck import pair_fixes
from levelq_core.operations.queries import out_of_step
from levelq_core.untrusted_text import printable

from .connecting import database_of, load
from .screen import Listing, count, err, out, verdict
from .sending import Source, Specialization, User


def check(
    limit: Annotated[int, typer.Option(min=0, help="How many pairs to list at most.")] = 50,
) -> None:
    """List the pairs of levels out of step; exit code 1 if any.

    A pair is a user's progress and license in one specialization. Each is listed with the command that mends it, or why
    there is none.
    """
    settings = load()
    numbers = ("User", "Progress", "License")
    shown = Listing(
        "User", "Specialization", "Progress", "License", "Mend it with", right=numbers, folding="Mend it with"
    )
    with database_of(settings) as engine, engine.connect() as connection:
        pairs = out_of_step(connection)
        first = list(islice(pairs, limit))
        found = len(first) + sum(1 for _ in pairs)
        schema = read(connection)
        fixes = pair_fixes(connection, first, schema, settings.tracks)
    broken = bool(schema.missing())
    if broken:
        fixes = ["-"] * len(first)
    for pair, fix in zip(first, fixes, strict=True):
        levels = pair.progress_level, pair.license_level
        action = compare(*levels).get("recommended_action")
        remedy = Text(printable(fix))
        if fix.startswith("levelq "):
            remedy.append("\n").append(str(action), style="dim")
        user = None if pair.user_id is None else str(pair.user_id)
        shown.add(user, pair.specialization, *levels, remedy)
    if not found:
        out.print("Every pair of levels is in step.", style="green")
        return
    if limit:
        shown.print()
    more = f" (the first {limit} are shown; --limit shows more)" if 0 < limit < found else ""
    out.print(verdict(f"{count(found, 'pair')} out of step", "bold red", more), soft_wrap=True)
    if broken:
        out.print("First do what `levelq db check` says: until then `levelq sync` is refused.", soft_wrap=True)
    raise typer.Exit(1)


def sync(
    user: User,
    specialization: Specialization,
    source: Annotated[Source, typer.Option(help="The side whose level is copied to the other.")],
) -> None:
    """Put one pair of levels in step, at once, past the queue.

    Copies the level of one side to the other, whose row is made if it is missing. Exit code 1 if rejected.
    """
    command = build(SyncLevels, user_id=user, specialization=specialization, source=source.value)
    settings = load()
    refusal = rules.lane_refusal(Lane(command.specialization, user), settings.tracks, rules.Limits())
    if refusal is not None:
        raise InvalidCommand(refusal)
    with database_of(settings) as engine:
        engine.connect().close()  # what is unreachable is said with its address
        with Session(engine) as session:
            coupler = ProgressLicenseCoupler(session, catalog=settings.tracks)
            result = coupler.sync_existing_records_atomic(
                user, command.specialization, command.source, command.command_id
            )
    place = f"{command.specialization} of user {user}"
    if result["success"]:
        done = f"  {place}: {result['action'].replace('_', ' ')}, level {result['final_level']}"
        out.print(verdict("applied", "bold green", done), soft_wrap=True)
    elif result["error_type"] == "validation_error":
        out.print(verdict("rejected", "bold red", f"  {place}: {result['message']}"), soft_wrap=True)
    else:
        raise ConfigurationError(f"LEVELQ_DATABASE_URL: {place} not synced: {result['message']}")
    err.print(f"command {command.command_id}", style="dim", soft_wrap=True)
    if not result["success"]:
        raise typer.Exit(1)
