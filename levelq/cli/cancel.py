"""`levelq cancel`: cancel what waits of one user; and what `levelq purge` and `levelq forget` share with it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

from typer import Exit, Option

from .options import DryRun, Specialization, User, Yes
from .screen import confirm, err, one_line, print_line

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from levelq_core.lanes.lane_editor import LaneEditor
    from levelq_core.lanes.wakeups import Waker
    from levelq_core.settings import Settings
    from levelq_worker.withdrawal.canceller import Cancelled
    from levelq_worker.withdrawal.waiting_lanes import Waiting


def cancel(
    user: User,
    specialization: Specialization,
    command_id: Annotated[UUID | None, Option("--id", help="Only this command.", show_default=False)] = None,
    yes: Yes = False,
    dry_run: DryRun = False,
) -> None:
    """Cancel one user's waiting commands of one specialization, or one of them.

    In the lane and in the outbox. Each is rejected for good, with the error "cancelled": a waiting sender gets that
    outcome, and so does the same id sent again. Other commands keep their order, and what is sent after the question
    stays. Exit code 1 if the command of --id was not cancelled.
    """
    from levelq_core.operations.audit import user_target
    from levelq_worker.withdrawal.canceller import Canceller
    from levelq_worker.withdrawal.waiting_lanes import Scope

    from .connections import known_specializations, load

    settings = load()
    (name,) = known_specializations(settings, [specialization])
    scope, target = Scope((name,), user, command_id), user_target(user, name)
    with editing(settings) as parts:
        canceller, engine = Canceller(*parts), parts[0]
        waiting = canceller.look(scope)
        if command_id is not None and not waiting.total:
            _not_cancelled(engine, command_id)
        print_waiting(waiting, target)
        if dry_run or not waiting.total:
            return
        confirm("Cancel these commands?" if command_id is None else "Cancel this command?", yes=yes)
        done = canceller.run(waiting.only(scope), ("cancel", target))
        print_cancelled(done)
        if command_id is not None and done.newer:
            raise Exit(1)
        if command_id is not None and not done.cancelled:  # a drain was faster
            _not_cancelled(engine, command_id)


@contextmanager
def editing(settings: Settings, *, patient: bool = False) -> Iterator[tuple[Engine, LaneEditor, Waker, Settings]]:
    """What a Canceller and Forgetting need, connected; `patient`: see `database_of`."""
    from levelq_core.lanes.lane_editor import LaneEditor
    from levelq_core.lanes.wakeups import Waker

    from .connections import database_of, redis_of

    database = database_of(settings, patient=patient)
    with database as engine, redis_of(settings) as redis, redis_of(settings, rq=True) as rq:
        yield engine, LaneEditor(redis, settings), Waker(redis, rq, settings.keys), settings


def _not_cancelled(engine: Engine, command_id: UUID) -> None:
    """Print what became of a command that is not waiting. Raises Exit."""
    from levelq_core.operations.queries import outcome_of

    with engine.connect() as connection:
        outcome = outcome_of(connection, command_id)
    known = "the ledger does not know it either"
    if outcome is not None:
        known = f"it was decided: {outcome.status}, {outcome.error or outcome.message}"
    print_line(f"command {command_id} is not waiting there; {one_line(known)}", on=err)
    raise Exit(1)


def print_waiting(waiting: Waiting, target: str) -> None:
    """What would be cancelled, and what would be left."""
    print_line(f"{target}, to cancel for good:" if waiting.total else f"{target}: nothing to cancel")
    for line in waiting.in_words():
        print_line(f"  {line}")
    _print_left(waiting.newer, waiting.unreadable)


def print_cancelled(done: Cancelled) -> None:
    """What was cancelled, and what was left."""
    print_line(done.in_words())
    _print_left(done.newer, done.unreadable)


def _print_left(newer: int, unreadable: Collection[str]) -> None:
    from levelq_worker.withdrawal.waiting_lanes import left_lines

    for line in left_lines(newer, unreadable):
        print_line(line, on=err)
