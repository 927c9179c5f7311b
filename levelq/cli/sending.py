"""`levelq send`: one command from the shell onto its lane, and what became of it."""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import StrEnum
from functools import partial
from typing import Annotated, Any
from uuid import UUID

import typer

from levelq_core.domain.commands import MAX_USER_ID, Adjust, Command, LevelUp, Reset, SetLevel, SyncLevels, build
from levelq_core.domain.outcome import Outcome
from levelq_core.errors import InvalidCommand, NotDurable, OutcomeTimeout
from levelq_worker.support.composing import producer_for

from .connecting import load, refuse_foreign_lanes
from .screen import err, one_line, out, verdict


def _in_range(user: int) -> int:
    if not 1 <= user <= MAX_USER_ID:
        raise typer.BadParameter(f"expected 1 to {MAX_USER_ID}, got {user}")
    return user


User = Annotated[int, typer.Argument(metavar="USER", help="The user's id.")]
CheckedUser = Annotated[int, typer.Argument(metavar="USER", help="The user's id.", callback=_in_range)]
Specialization = Annotated[
    str, typer.Argument(metavar="SPECIALIZATION", help="PLAYER, COACH, ...: `levelq catalog` lists them.")
]


class Source(StrEnum):
    """The side whose level is copied to the other."""

    PROGRESS = "progress"
    LICENSE = "license"


class Durable(StrEnum):
    """What a command must survive once it is queued; see levelq_core.settings.Durability."""

    MEMORY = "memory"
    FSYNC = "fsync"
    REPLICATED = "replicated"


_BUILDERS: dict[str, Callable[..., Command]] = {
    "level-up": partial(build, LevelUp),
    "set-level": partial(build, SetLevel),
    "sync": partial(build, SyncLevels),
    "adjust": partial(build, Adjust),
    "reset": partial(build, Reset),
}
_ALIASES = {"sync-levels": "sync"}

# Which field of its command each option fills, for the kinds that have it.
_CHANGES = {
    "--xp": "xp_change",
    "--sessions": "sessions_change",
    "--projects": "projects_change",
    "--theory-hours": "theory_hours_change",
    "--practice-hours": "practice_hours_change",
}
_FIELDS: dict[str, dict[str, str]] = {
    "level-up": {
        "--xp": "xp_gained",
        "--sessions": "sessions_completed",
        "--projects": "projects_completed",
        "--theory-hours": "theory_hours",
        "--practice-hours": "practice_hours",
    },
    "set-level": {"--level": "new_level", **_CHANGES},
    "sync": {"--source": "source"},
    "adjust": {"--level": "level", **_CHANGES},
    "reset": {
        "--level": "level",
        "--xp": "total_xp",
        "--sessions": "completed_sessions",
        "--projects": "completed_projects",
        "--theory-hours": "theory_hours",
        "--practice-hours": "practice_hours",
    },
}
_COMMON = {"--reason": "reason", "--advanced-by": "advanced_by", "--command-id": "command_id"}


def send(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="level-up, set-level, sync, adjust or reset.")],
    user: User,
    specialization: Specialization,
    xp: Annotated[
        int | None, typer.Option(help="Experience to add; negative only with set-level and adjust; reset: the total.")
    ] = None,
    sessions: Annotated[int | None, typer.Option(help="Completed sessions to add; reset: the total.")] = None,
    projects: Annotated[int | None, typer.Option(help="Completed projects to add; reset: the total.")] = None,
    theory_hours: Annotated[int | None, typer.Option(help="Theory hours to add; reset: the total.")] = None,
    practice_hours: Annotated[int | None, typer.Option(help="Practice hours to add; reset: the total.")] = None,
    level: Annotated[
        str | None, typer.Option(help="set-level: a level; reset: a level or earned; adjust: keep or earned.")
    ] = None,
    source: Annotated[Source | None, typer.Option(help="sync: the side whose level is copied.")] = None,
    reason: Annotated[str | None, typer.Option(help="Why, for the record; up to 500 characters.")] = None,
    advanced_by: Annotated[int | None, typer.Option(help="The user id of who gives it.")] = None,
    command_id: Annotated[
        UUID | None, typer.Option(help="Its idempotency key: the same id takes effect once.", show_default=False)
    ] = None,
    durability: Annotated[
        Durable | None, typer.Option(help="How safe in Redis it must be; default: LEVELQ_DURABILITY.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait for the outcome and print it.")] = True,
    timeout: Annotated[float, typer.Option(min=0, help="How many seconds to wait.")] = 5.0,
) -> None:
    """Send one command and print its outcome; exit code 1 if it was rejected, or not as durable with --no-wait."""
    given = {
        "--xp": xp,
        "--sessions": sessions,
        "--projects": projects,
        "--theory-hours": theory_hours,
        "--practice-hours": practice_hours,
        "--level": level,
        "--source": source and source.value,
        "--reason": reason,
        "--advanced-by": advanced_by,
        "--command-id": command_id,
    }
    options = {name: value for name, value in given.items() if value is not None}
    command = command_from(kind, user, specialization, options)
    settings = load()
    refuse_foreign_lanes(settings)
    with producer_for(settings) as producer:
        try:
            handle, durable = producer.send(command, wait, durability and durability.value), True
        except NotDurable as error:
            err.print(verdict("not durable: ", "bold yellow", one_line(str(error))), soft_wrap=True)
            handle, durable = producer.handle(command.command_id), False
        if not wait:
            out.print(verdict("queued", "bold green", f"  {handle.command_id}"), soft_wrap=True)
            raise typer.Exit(0 if durable else 1)
        try:
            outcome = handle.result(timeout)
        except OutcomeTimeout as error:
            raise OutcomeTimeout(f"{error}; it stays queued. `levelq status` shows whether workers run") from None
    show(outcome)
    raise typer.Exit(0 if outcome.status == "applied" else 1)


def command_from(kind: str, user: int, specialization: str, options: dict[str, Any]) -> Command:
    """Make the command. Raises InvalidCommand for a kind, an option or a value that does not fit."""
    folded = kind.lower().replace("_", "-")
    folded = _ALIASES.get(folded, folded)
    if folded not in _BUILDERS:
        raise InvalidCommand(f"KIND: expected one of {', '.join(_BUILDERS)}, got {kind!r}")
    fields = _FIELDS[folded] | _COMMON
    for option in options:
        if option not in fields:
            raise InvalidCommand(f"{option}: not an option of {folded}, which takes {', '.join(fields)}")
    if folded == "set-level" and "--level" not in options:
        raise InvalidCommand("--level: missing, set-level needs the level to set")
    values = {fields[option]: value for option, value in options.items()}
    if "--level" in options and folded in ("set-level", "reset"):
        values[fields["--level"]] = _level(options["--level"], folded)
    return _BUILDERS[folded](user_id=user, specialization=specialization, **values)


def _level(given: str, kind: str) -> int | str:
    """A level as a number, or earned. Raises InvalidCommand."""
    if re.fullmatch(r"-?[0-9]{1,10}", given, re.ASCII):
        return int(given)
    if kind == "reset" and given == "earned":
        return given
    expected = "a number or earned" if kind == "reset" else "a number"
    raise InvalidCommand(f"--level: expected {expected}, got {given!r}")


def show(outcome: Outcome) -> None:
    """Print an outcome: what was decided, on which lane, and what changed."""
    applied = outcome.status == "applied"
    lane = f"  {outcome.specialization} of user {outcome.user_id}: {outcome.message}"
    line = verdict(outcome.status, "bold green" if applied else "bold red", lane)
    if outcome.duplicate:
        line.append("  (decided at an earlier send)", style="yellow")
    out.print(line, soft_wrap=True)
    before, after = outcome.before, outcome.after
    if applied and before is not None and after is not None:
        for field, value in after:
            if value != (was := getattr(before, field)):
                out.print(f"  {field:<20} {was:,} -> {value:,}", markup=False)
    err.print(f"command {outcome.command_id}", style="dim", soft_wrap=True)
