"""`levelq cancel` and `levelq purge`: take back what waits."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated
from uuid import UUID

import typer
from sqlalchemy import Engine

from levelq_core.errors import ConfigurationError
from levelq_core.lanes.lane_editor import LaneEditor
from levelq_core.lanes.wakeups import Waker
from levelq_core.operations import audit
from levelq_core.operations.queries import outcome_of
from levelq_core.settings import Settings
from levelq_worker.withdrawal.canceller import Cancelled, Canceller
from levelq_worker.withdrawal.waiting_lanes import Scope, Waiting

from .connecting import database_of, load, redis_of
from .running import known_specializations
from .screen import confirm, count, err, one_line, out
from .sending import CheckedUser, Specialization

Yes = Annotated[bool, typer.Option("--yes", help="Do it without asking, for scripts.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]


def cancel(
    user: CheckedUser,
    specialization: Specialization,
    command_id: Annotated[UUID | None, typer.Option("--id", help="Only this command.", show_default=False)] = None,
    yes: Yes = False,
    dry_run: DryRun = False,
) -> None:
    """Cancel one user's waiting commands of one specialization, in the lane and in the outbox, or only one of them.

    It is rejected for good, as cancelled: who waits for the outcome is told so, and the same id sent again is answered
    with that. Exit code 1 if the command of --id was not cancelled. Other commands keep their order.
    """
    settings = load()
    (name,) = known_specializations(settings, [specialization])
    scope = Scope((name,), user, command_id)
    with canceller(settings) as (made, engine):
        waiting = made.look(scope)
        if command_id is not None and not waiting.total:
            _not_cancelled(engine, command_id)
        _say(waiting, audit.user_target(user, name))
        if dry_run or not waiting.total:
            return
        if not yes:
            confirm("Cancel these commands?" if command_id is None else "Cancel this command?")
        done = made.run(scope, ("cancel", audit.user_target(user, name)))
        _tell(done)
        if command_id is not None and done.newer:
            raise typer.Exit(1)
        if command_id is not None and not done.cancelled:  # a drain was faster
            _not_cancelled(engine, command_id)


def purge(
    specialization: Annotated[
        list[str] | None, typer.Argument(help="Those to empty; the whole namespace if none is given.")
    ] = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object; never asks, so it needs --yes or --dry-run.")
    ] = False,
) -> None:
    """Cancel all waiting commands of some specializations, or of the namespace, in the lanes and in the outbox.

    Cancelled commands are rejected for good; entries that are no commands are quarantined. A command that is sent while
    this runs may be left: stop the producers first if nothing may be left.
    """
    if as_json and not yes and not dry_run:
        raise ConfigurationError("--json: expected --yes or --dry-run with it, because it does not ask")
    settings = load()
    names = known_specializations(settings, specialization) if specialization else None
    scope, target = Scope(names), ", ".join(names) if names else "everything"
    with canceller(settings) as (made, _):
        waiting = made.look(scope)
        if not as_json:
            _say(waiting, target)
        if not dry_run and not yes and waiting.total:
            confirm("Cancel these commands?")
        done = Cancelled() if dry_run or not waiting.total else made.run(scope, ("purge", target))
        if as_json:
            seen = {"lanes": waiting.lanes, "in_lanes": waiting.in_lanes, "in_outbox": waiting.in_outbox}
            told = {**done.detail(), "unreadable": sorted(waiting.unreadable | done.unreadable)}
            typer.echo(json.dumps({"dry_run": dry_run, "waiting": seen, **told}))
        elif not dry_run and waiting.total:
            _tell(done)


@contextmanager
def canceller(settings: Settings) -> Iterator[tuple[Canceller, Engine]]:
    """A canceller on the servers of the settings."""
    with database_of(settings) as engine, redis_of(settings) as redis, redis_of(settings, rq=True) as rq:
        waker = Waker(redis, rq, settings.keys)
        yield Canceller(engine, LaneEditor(redis, settings), waker, settings), engine


def _not_cancelled(engine: Engine, command_id: UUID) -> None:
    """Say what became of a command that does not wait, or no longer. Raises Exit."""
    with engine.connect() as connection:
        outcome = outcome_of(connection, command_id)
    known = "the ledger does not know it either"
    if outcome is not None:
        known = f"it was decided: {outcome.status}, {outcome.error or outcome.message}"
    err.print(f"command {command_id} is not waiting there; {one_line(known)}", markup=False, soft_wrap=True)
    raise typer.Exit(1)


def waiting_lines(waiting: Waiting) -> Iterator[str]:
    """What waits, one line for each specialization."""
    for name in sorted({*waiting.in_lanes, *waiting.in_outbox}):
        lane, rows = waiting.in_lanes.get(name, 0), waiting.in_outbox.get(name, 0)
        yield f"{name}: {count(lane, 'command')} in lanes, {count(rows, 'row')} in the outbox"


def _say(waiting: Waiting, what: str) -> None:
    if waiting.total:
        out.print(f"{what}, to cancel for good:", markup=False, soft_wrap=True)
    else:
        out.print(f"{what}: nothing to cancel", markup=False, soft_wrap=True)
    for line in waiting_lines(waiting):
        out.print(f"  {line}", markup=False, soft_wrap=True)
    _say_left(waiting.newer, waiting.unreadable)


def _tell(done: Cancelled) -> None:
    parts = [f"{count(done.cancelled, 'command')} cancelled"]
    if done.decided:
        parts.append(f"{done.decided:,} were decided before")
    if done.quarantined:
        parts.append(f"{done.quarantined:,} malformed quarantined")
    out.print(", ".join(parts), markup=False, soft_wrap=True)
    _say_left(done.newer, done.unreadable)


def _say_left(newer: int, unreadable: set[str]) -> None:
    if newer:
        left = "left: a newer version of levelq sent them, and only that version can cancel them"
        err.print(f"{count(newer, 'command')} {left}", markup=False, soft_wrap=True)
    for key in sorted(unreadable):
        err.print(f"left: {one_line(key)} is no list; other code wrote that key", markup=False, soft_wrap=True)
