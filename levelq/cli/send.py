"""`levelq send`: send one command and print its outcome."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, cast
from uuid import UUID

from typer import Argument, Exit, Option

from .audit import note
from .options import Source, Specialization, User
from .screen import err, one_line, print_line, verdict

if TYPE_CHECKING:
    from levelq_core.domain.commands import Command
    from levelq_core.domain.outcome import Outcome
    from levelq_core.settings import Durability, Settings


class Durable(StrEnum):
    """What a command must survive once it is queued; see levelq_core.settings.Durability."""

    MEMORY = "memory"
    FSYNC = "fsync"
    REPLICATED = "replicated"


# Which field of its command each option fills, for the kinds that have it.
_NUMBERS = ("--xp", "--sessions", "--projects", "--theory-hours", "--practice-hours")
_GAINED = ("xp_gained", "sessions_completed", "projects_completed", "theory_hours", "practice_hours")
_CHANGES = ("xp_change", "sessions_change", "projects_change", "theory_hours_change", "practice_hours_change")
_TOTALS = ("total_xp", "completed_sessions", "completed_projects", "theory_hours", "practice_hours")
_FIELDS: dict[str, dict[str, str]] = {
    "level-up": dict(zip(_NUMBERS, _GAINED, strict=True)),
    "set-level": {"--level": "new_level", **dict(zip(_NUMBERS, _CHANGES, strict=True))},
    "sync": {"--source": "source"},
    "adjust": {"--level": "level", **dict(zip(_NUMBERS, _CHANGES, strict=True))},
    "reset": {"--level": "level", **dict(zip(_NUMBERS, _TOTALS, strict=True))},
}
_COMMON = {"--reason": "reason", "--advanced-by": "advanced_by", "--command-id": "command_id"}

_LEVEL_HELP = "set-level: a level; reset: a level or earned (default); adjust: keep (default) or earned."
_SOURCE_HELP = "sync: progress (default) or license: the side that is copied."
_ID_HELP = "The idempotency key: the same id takes effect once."
_DURABILITY_HELP = "How safe it must be in Redis: memory, fsync or replicated; default: LEVELQ_DURABILITY."


def send(
    kind: Annotated[str, Argument(metavar="KIND", help="level-up, set-level, sync, adjust or reset.")],
    user: User,
    specialization: Specialization,
    xp: Annotated[int | None, Option(help="Experience to add; reset: the total.")] = None,
    sessions: Annotated[int | None, Option(help="Completed sessions to add; reset: the total.")] = None,
    projects: Annotated[int | None, Option(help="Completed projects to add; reset: the total.")] = None,
    theory_hours: Annotated[int | None, Option(help="Theory hours to add; reset: the total.")] = None,
    practice_hours: Annotated[int | None, Option(help="Practice hours to add; reset: the total.")] = None,
    level: Annotated[str | None, Option(metavar="LEVEL", help=_LEVEL_HELP)] = None,
    source: Annotated[Source | None, Option(metavar="SIDE", help=_SOURCE_HELP)] = None,
    reason: Annotated[str | None, Option(metavar="TEXT", help="For the record; up to 500 characters.")] = None,
    advanced_by: Annotated[int | None, Option(metavar="ID", help="The id of the user who grants it.")] = None,
    command_id: Annotated[UUID | None, Option(metavar="UUID", help=_ID_HELP, show_default=False)] = None,
    durability: Annotated[Durable | None, Option(metavar="HOW", help=_DURABILITY_HELP)] = None,
    wait: Annotated[bool, Option("--wait/--no-wait", help="Wait for the outcome and print it.")] = True,
    timeout: Annotated[float, Option(metavar="SECONDS", min=0.001, help="How long to wait.")] = 5.0,
) -> None:
    """Send one command and print its outcome.

    What is added is negative only with set-level and adjust. Exit code 1 if the command was rejected or, with
    --no-wait, is not as durable as required.
    """
    from .connections import load, refuse_foreign_lanes

    numbers = zip(_NUMBERS, (xp, sessions, projects, theory_hours, practice_hours), strict=True)
    given: dict[str, Any] = dict(numbers) | {"--level": level, "--source": source and source.value}
    given |= {"--reason": reason, "--advanced-by": advanced_by, "--command-id": command_id}
    command = _command(kind, user, specialization, {name: value for name, value in given.items() if value is not None})
    settings = load()
    refuse_foreign_lanes(settings)
    _send(settings, command, cast("Durability | None", durability and durability.value), timeout if wait else None)


def _send(settings: Settings, command: Command, durability: Durability | None, timeout: float | None) -> None:
    """Send it and, with a timeout, print its outcome. Raises Exit with the command line's exit code."""
    from levelq_core.errors import NotDurable
    from levelq_producer import Producer

    with Producer(settings) as producer:
        durable = True
        try:
            handle = producer.send(command, timeout is not None, durability)
        except NotDurable as error:
            print_line(verdict("not durable: ", "bold yellow", one_line(str(error))), on=err)
            handle, durable = producer.handle(command.command_id), False
        try:
            if timeout is None:
                print_line(verdict("queued", "bold green", f"  {handle.command_id}"))
                raise Exit(0 if durable else 1)
            outcome = handle.result(timeout)
            _print(outcome)
        finally:
            if settings.database_url is not None:
                from levelq_core.operations.audit import user_target

                target = user_target(command.user_id, command.specialization)
                note(settings, "send", target, {"kind": command.kind, "command_id": str(command.command_id)})
    raise Exit(0 if outcome.status == "applied" else 1)


def _command(kind: str, user: int, specialization: str, options: dict[str, Any]) -> Command:
    """Make the command. Raises InvalidCommand for a kind, an option or a value that does not fit."""
    from levelq_core.domain.commands import Adjust, LevelUp, Reset, SetLevel, SyncLevels, build
    from levelq_core.errors import InvalidCommand

    classes: dict[str, Any] = {
        "level-up": LevelUp, "set-level": SetLevel, "sync": SyncLevels, "adjust": Adjust, "reset": Reset,
    }  # fmt: skip
    name = kind.lower().replace("_", "-")
    name = "sync" if name == "sync-levels" else name
    if name not in classes:
        raise InvalidCommand(f"KIND: expected one of {', '.join(classes)}, got {kind!r}")
    fields = _FIELDS[name] | _COMMON
    for option in options:
        if option not in fields:
            raise InvalidCommand(f"{option}: not an option of {name}, which takes {', '.join(fields)}")
    if name == "set-level" and "--level" not in options:
        raise InvalidCommand("--level: missing, set-level needs the level to set")
    values = {fields[option]: value for option, value in options.items()}
    if "--level" in options and name in ("set-level", "reset"):
        values[fields["--level"]] = _level(options["--level"], name)
    command: Command = build(classes[name], user_id=user, specialization=specialization, **values)
    return command


def _level(given: str, kind: str) -> int | str:
    """A level as a number, or earned. Raises InvalidCommand."""
    from levelq_core.errors import InvalidCommand

    if re.fullmatch(r"-?[0-9]{1,10}", given, re.ASCII):
        return int(given)
    if kind == "reset" and given == "earned":
        return given
    expected = "a number or earned" if kind == "reset" else "a number"
    raise InvalidCommand(f"--level: expected {expected}, got {given!r}")


def _print(outcome: Outcome) -> None:
    """What was decided, on which lane, and what changed."""
    applied = outcome.status == "applied"
    lane = f"  {outcome.specialization} of user {outcome.user_id}: {outcome.message}"
    line = verdict(outcome.status, "bold green" if applied else "bold red", lane)
    if outcome.duplicate:
        line.append("  (decided at an earlier send)", style="yellow")
    print_line(line)
    before, after = outcome.before, outcome.after
    if applied and before is not None and after is not None:
        for field, value in after:
            if value != (was := getattr(before, field)):
                print_line(f"  {field:<20} {was:,} -> {value:,}")
    print_line(f"command {outcome.command_id}", "dim", on=err)
